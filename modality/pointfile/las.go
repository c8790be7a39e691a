package pointfile

import (
	"encoding/binary"
	"io"
	"math"
	"strconv"
)

// lasSizes are the bytes of point data record formats 0 to 10 without extra bytes (LAS 1.4 R15,
// section 2.6), lasColors the offsets of red, 0 where a format has no colour.
var (
	lasSizes  = [...]int64{20, 28, 26, 34, 57, 63, 30, 36, 38, 59, 67}
	lasColors = [...]int{0, 0, 20, 28, 0, 28, 0, 30, 30, 0, 30}
)

// lasHeader is the part of the public header block that is used.
type lasHeader struct {
	major, minor byte
	size         int64 // of the header
	data         int64 // offset of the first point
	format       byte
	record       int64
	points       uint64
	scale, shift [3]float64
}

func openLAS(r *Reader, in *input, o *Options) error {
	h, err := parseLAS(in)
	if err != nil {
		return err
	}
	r.Version = strconv.Itoa(int(h.major)) + "." + strconv.Itoa(int(h.minor))
	r.PointFormat, r.Encoding, r.RecordBytes = int(h.format), "binary_little_endian", int(h.record)
	r.Points = int64(min(h.points, math.MaxInt64))
	if err := r.check(); err != nil {
		return err
	}
	switch {
	case h.data < h.size || h.data > o.Size:
		return malformed("las: points at %d, header of %d bytes, file of %d", h.data, h.size, o.Size)
	case r.Points > (o.Size-h.data)/h.record:
		return truncated("las: %d points of %d bytes, %d bytes left", r.Points, h.record, o.Size-h.data)
	}
	fields, _ := r.attributes(h.fields())
	if r.HasColor && h.smallColors(in) {
		for i := range fields {
			if c := fields[i].comp; c >= compR && c <= compB {
				fields[i].scale = 1 / uint8Type.most()
			}
		}
		r.Notes = append(r.Notes, "colours of the first points are below 256: taken for 8 bits")
	}
	skip := h.data - in.at()
	r.body = &lasBody{skip: skip, records: records{in: in, size: int(h.record), order: binary.LittleEndian, fields: fields}}
	return nil
}

// parseLAS reads the public header block, and no more than 375 bytes.
func parseLAS(in *input) (*lasHeader, error) {
	b, err := in.Peek(375)
	if len(b) < 227 {
		return nil, truncated("las: header of %d bytes", len(b))
	}
	if err != nil && err != io.EOF {
		return nil, err
	}
	if string(b[:4]) != "LASF" {
		return nil, malformed("las: no LASF signature")
	}
	le := binary.LittleEndian
	h := &lasHeader{
		major: b[24], minor: b[25],
		size: int64(le.Uint16(b[94:])), data: int64(le.Uint32(b[96:])),
		format: b[104], record: int64(le.Uint16(b[105:])), points: uint64(le.Uint32(b[107:])),
	}
	if h.major != 1 || h.minor > 4 {
		return nil, unsupported("las: version %d.%d", h.major, h.minor)
	}
	if h.minor == 4 && (h.points == 0 || h.format >= 6) {
		if h.size < 375 || len(b) < 375 {
			return nil, malformed("las: version 1.4 with a header of %d bytes", h.size)
		}
		h.points = le.Uint64(b[247:])
	}
	if h.format&0xc0 != 0 {
		return nil, unsupported("las: compressed points (LAZ); decompress the file first")
	}
	if int(h.format) >= len(lasSizes) {
		return nil, unsupported("las: point format %d", h.format)
	}
	if h.size < 227 || h.record < lasSizes[h.format] {
		return nil, malformed("las: header of %d bytes, points of %d", h.size, h.record)
	}
	for i := range 3 {
		h.scale[i] = math.Float64frombits(le.Uint64(b[131+8*i:]))
		h.shift[i] = math.Float64frombits(le.Uint64(b[155+8*i:]))
		if !(math.Abs(h.scale[i]) <= math.MaxFloat32) || h.scale[i] == 0 || !(math.Abs(h.shift[i]) <= math.MaxFloat64) {
			return nil, malformed("las: axis %d: scale %v, offset %v", i, h.scale[i], h.shift[i])
		}
	}
	return h, nil
}

func (h *lasHeader) fields() []field {
	var out []field
	for i, c := range []component{compX, compY, compZ} {
		out = append(out, field{comp: c, typ: int32Type, at: 4 * i, scale: h.scale[i], shift: h.shift[i]})
	}
	out = append(out, newField(compIntensity, uint16Type, 12))
	if at := lasColors[h.format]; at != 0 {
		for i, c := range []component{compR, compG, compB} {
			out = append(out, newField(c, uint16Type, at+2*i))
		}
	}
	return out
}

// smallColors looks at the first points, where they lie within the window: the format wants
// colours of 16 bits, and many writers store 8.
func (h *lasHeader) smallColors(in *input) bool {
	b, _ := in.Peek(window)
	b = b[min(h.data-in.at(), int64(len(b))):]
	top := uint16(0)
	for i := uint64(0); i < h.points && int64(len(b)) >= h.record; i++ {
		for k := range 3 {
			top = max(top, binary.LittleEndian.Uint16(b[lasColors[h.format]+2*k:]))
		}
		b = b[h.record:]
	}
	return top > 0 && top < 256
}

// lasBody passes over variable length records before the first point.
type lasBody struct {
	skip int64
	records
}

func (b *lasBody) read(dst []Point) (int, error) {
	for b.skip > 0 {
		n, err := b.in.Discard(int(min(b.skip, 1<<30)))
		b.skip -= int64(n)
		if err != nil {
			return 0, err
		}
	}
	return b.records.read(dst)
}
