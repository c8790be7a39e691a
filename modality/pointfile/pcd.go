package pointfile

import (
	"encoding/binary"
	"io"
	"math"
	"strconv"
	"strings"
)

// pcdHeader is the header of a PCD file; fields are in file order.
type pcdHeader struct {
	version               string
	fields                []string
	size, count           []int64
	typ                   []string
	width, height, points int64
	data                  string
}

func openPCD(r *Reader, in *input, o *Options) error {
	h, err := parsePCD(in, o.Limits.Columns)
	if err != nil {
		return err
	}
	r.Version, r.Points = h.version, h.points
	if err := r.check(); err != nil {
		return err
	}
	fields, size, err := h.layout()
	if err != nil {
		return err
	}
	ascii := h.data == "ascii"
	if ascii {
		fields = h.columns(fields)
	}
	fields, ok := r.attributes(fields)
	if !ok {
		return malformed("pcd: no x, y and z fields")
	}
	left := o.Size - in.at()
	switch h.data {
	case "ascii":
		r.Encoding = "ascii"
		if need := 2 * int64(len(h.fields)); r.Points > (left+1)/need {
			return truncated("pcd: %d points need at least %d bytes each, %d left", r.Points, need, left)
		}
		width := int64(0)
		for _, c := range h.count {
			width += c
		}
		r.body = &pcdText{lines: lines{in: in}, fields: fields, width: int(width)}
	case "binary":
		r.Encoding, r.RecordBytes = "binary_little_endian", int(size)
		if r.Points > left/size {
			return truncated("pcd: %d points of %d bytes, %d bytes left", r.Points, size, left)
		}
		r.body = &records{in: in, size: int(size), order: binary.LittleEndian, fields: fields}
	case "binary_compressed":
		r.Encoding, r.RecordBytes = h.data, int(size)
		return r.compressed(in, o, h, fields, size)
	default:
		return malformed("pcd: DATA %q", h.data)
	}
	return nil
}

// parsePCD reads up to and including the DATA line.
func parsePCD(in *input, maxColumns int) (*pcdHeader, error) {
	h := &pcdHeader{width: -1, height: 1, points: -1}
	l := lines{in: in}
	for l.no < 1000 {
		line, err := l.next()
		if err == io.EOF {
			return nil, truncated("pcd: header has no DATA line")
		}
		if err != nil {
			return nil, err
		}
		w := words(line)
		if len(w) == 0 || strings.HasPrefix(w[0], "#") {
			continue
		}
		if len(w)-1 > maxColumns {
			return nil, tooLarge("pcd: fields", int64(maxColumns), int64(len(w)-1))
		}
		if err := h.line(w[0], w[1:]); err != nil {
			return nil, err
		}
		if w[0] == "DATA" {
			return h, h.check()
		}
	}
	return nil, malformed("pcd: header longer than 1000 lines")
}

func (h *pcdHeader) line(key string, w []string) (err error) {
	switch key {
	case "VERSION":
		h.version = strings.Join(w, " ")
	case "FIELDS", "COLUMNS":
		h.fields = w
	case "SIZE":
		h.size, err = pcdInts(key, w)
	case "TYPE":
		h.typ = w
	case "COUNT":
		h.count, err = pcdInts(key, w)
	case "WIDTH":
		h.width, err = pcdInt(key, w)
	case "HEIGHT":
		h.height, err = pcdInt(key, w)
	case "POINTS":
		h.points, err = pcdInt(key, w)
	case "DATA":
		if len(w) != 1 {
			return malformed("pcd: DATA line %q", strings.Join(w, " "))
		}
		h.data = strings.ToLower(w[0])
	case "VIEWPOINT":
	default:
		return malformed("pcd: header line begins with %q", clip([]byte(key)))
	}
	return err
}

func pcdInts(key string, w []string) ([]int64, error) {
	var out []int64
	for _, s := range w {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 0 {
			return nil, malformed("pcd: %s %q", key, clip([]byte(s)))
		}
		out = append(out, n)
	}
	return out, nil
}

func pcdInt(key string, w []string) (int64, error) {
	n, err := pcdInts(key, w)
	if err == nil && len(n) != 1 {
		err = malformed("pcd: %s has %d values", key, len(n))
	}
	if err != nil {
		return 0, err
	}
	return n[0], nil
}

// check settles the counts. WIDTH×HEIGHT must equal POINTS when both are given.
func (h *pcdHeader) check() error {
	if h.count == nil {
		for range h.fields {
			h.count = append(h.count, 1)
		}
	}
	n := len(h.fields)
	if n == 0 || len(h.size) != n || len(h.typ) != n || len(h.count) != n {
		return malformed("pcd: %d fields, %d sizes, %d types, %d counts", n, len(h.size), len(h.typ), len(h.count))
	}
	if h.width < 0 {
		if h.points < 0 {
			return malformed("pcd: neither WIDTH nor POINTS")
		}
		return nil
	}
	if h.height != 0 && h.width > math.MaxInt64/h.height {
		return malformed("pcd: WIDTH %d times HEIGHT %d", h.width, h.height)
	}
	if h.points < 0 {
		h.points = h.width * h.height
	}
	if h.points != h.width*h.height {
		return malformed("pcd: POINTS %d, but WIDTH %d times HEIGHT %d", h.points, h.width, h.height)
	}
	return nil
}

// maxPCDRecord is the most bytes of one point; descriptors of a few kilobytes exist.
const maxPCDRecord = 1 << 20

// layout gives the known fields with their byte offsets, and the size of a record.
func (h *pcdHeader) layout() (fields []field, size int64, err error) {
	for i, name := range h.fields {
		t, ok := pcdTypes[strings.ToUpper(h.typ[i])+strconv.FormatInt(h.size[i], 10)]
		if !ok {
			return nil, 0, malformed("pcd: field %s: TYPE %s of SIZE %d", clip([]byte(name)), clip([]byte(h.typ[i])), h.size[i])
		}
		if h.count[i] > maxPCDRecord/h.size[i] || size > maxPCDRecord {
			return nil, 0, malformed("pcd: field %s: COUNT %d", clip([]byte(name)), h.count[i])
		}
		name = strings.ToLower(name)
		c, known := names[name]
		if (name == "rgb" || name == "rgba") && h.size[i] == 4 {
			c, known = compPacked, true
		}
		if known && h.count[i] == 1 {
			fields = append(fields, newField(c, t, int(size)))
		}
		size += h.size[i] * h.count[i]
	}
	if size == 0 {
		return nil, 0, malformed("pcd: points of no bytes")
	}
	return fields, size, nil
}

// columns turns byte offsets into text columns.
func (h *pcdHeader) columns(fields []field) []field {
	k, offset, column := 0, int64(0), int64(0)
	for i := range h.fields {
		if k < len(fields) && int64(fields[k].at) == offset && h.count[i] == 1 {
			fields[k].at = int(column)
			k++
		}
		offset += h.size[i] * h.count[i]
		column += h.count[i]
	}
	return fields
}

var pcdTypes = map[string]scalar{
	"I1": int8Type, "I2": int16Type, "I4": int32Type, "I8": int64Type,
	"U1": uint8Type, "U2": uint16Type, "U4": uint32Type, "U8": uint64Type,
	"F4": float32Type, "F8": float64Type,
}

// pcdText is the body of an ascii file.
type pcdText struct {
	lines
	fields []field
	width  int
	tok    [][]byte
}

func (b *pcdText) read(dst []Point) (int, error) {
	for n := range dst {
		for b.tok = b.tok[:0]; len(b.tok) == 0; {
			line, err := b.next()
			if err == io.EOF && n > 0 {
				return n, nil
			}
			if err != nil {
				return n, err
			}
			b.tok = split(b.tok, line)
		}
		if len(b.tok) != b.width {
			return n, malformed("pcd: data line %d: %d values, want %d", b.no, len(b.tok), b.width)
		}
		dst[n] = Point{}
		for i := range b.fields {
			f := &b.fields[i]
			v, ok := parseNumber(b.tok[f.at])
			if !ok {
				return n, malformed("pcd: data line %d: %q is not a number", b.no, clip(b.tok[f.at]))
			}
			if f.comp == compPacked {
				setPacked(&dst[n], packedBits(v, f.typ))
				continue
			}
			f.set(&dst[n], v)
		}
	}
	return len(dst), nil
}

// packedBits is the pattern of a packed colour written as a number of its declared type.
func packedBits(v float64, t scalar) uint32 {
	switch {
	case t == float32Type:
		return math.Float32bits(float32(v))
	case !(math.Abs(v) < 1<<33):
		return 0
	}
	return uint32(int64(v))
}
