package pointfile

import (
	"encoding/binary"
	"io"
	"strings"
)

func openPLY(r *Reader, in *input, o *Options) error {
	h, err := parsePLY(in, o.Limits.Columns)
	if err != nil {
		return err
	}
	ascii, order, _ := h.order()
	at := h.vertex()
	v := &h.elements[at]
	r.Encoding, r.Version, r.Points = h.encoding, h.version, v.count
	if err := r.check(); err != nil {
		return err
	}
	if err := plyRoom(h.elements[:at+1], in.at(), o.Size, ascii); err != nil {
		return err
	}
	fields, ok := r.attributes(plyFields(v))
	if !ok {
		return malformed("ply: vertices have no x, y and z")
	}
	body := &plyBody{in: in, text: lines{in: in}, ascii: ascii, order: order, before: h.elements[:at], props: v.props, fields: fields}
	r.body = body
	if ascii || v.lists() {
		return nil
	}
	r.RecordBytes = int(v.least(false))
	for i := range fields {
		fields[i].at = v.offset(fields[i].at)
	}
	body.fixed = &records{in: in, size: r.RecordBytes, order: order, fields: fields}
	return nil
}

// offset is the place of property i in a record without lists.
func (e *plyElement) offset(i int) int {
	n := 0
	for _, p := range e.props[:i] {
		n += p.typ.bytes()
	}
	return n
}

// plyRoom compares the counts of the elements with the bytes behind the header.
func plyRoom(elements []plyElement, at, size int64, ascii bool) error {
	left := size - at
	for i, e := range elements {
		least := e.least(ascii)
		if ascii && i == len(elements)-1 {
			left++ // the last row may lack its line end
		}
		if least > 0 && e.count > left/least {
			return truncated("ply: %d of element %s need at least %d bytes each, %d left", e.count, e.name, least, left)
		}
		if least == 0 && e.count > 0 {
			return malformed("ply: %d of element %s, which has no properties", e.count, e.name)
		}
		left -= least * e.count
	}
	return nil
}

// plyFields finds the known properties; at is the index of the property.
func plyFields(v *plyElement) []field {
	var fields []field
	for i, p := range v.props {
		c, known := names[strings.ToLower(p.name)]
		if !known || p.count != 0 {
			continue
		}
		fields = append(fields, newField(c, p.typ, i))
	}
	return fields
}

// plyBody reads vertices as text rows, as records with lists, or as plain records.
type plyBody struct {
	in     *input
	text   lines
	ascii  bool
	order  binary.ByteOrder
	before []plyElement // still to skip
	props  []plyProperty
	fields []field // at: index of the property
	fixed  *records

	tok [][]byte
	raw []float64
}

func (b *plyBody) read(dst []Point) (int, error) {
	for len(b.before) > 0 {
		if err := b.skip(&b.before[0]); err != nil {
			return 0, err
		}
		b.before = b.before[1:]
	}
	if b.fixed != nil {
		return b.fixed.read(dst)
	}
	if b.raw == nil {
		b.raw = make([]float64, len(b.props))
	}
	for n := range dst {
		err := b.row(b.props, b.raw)
		if err == io.EOF && n > 0 {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		dst[n] = Point{}
		for i := range b.fields {
			b.fields[i].set(&dst[n], b.raw[b.fields[i].at])
		}
	}
	return len(dst), nil
}

// skip passes over the records of an element in front of the vertices.
func (b *plyBody) skip(e *plyElement) error {
	if !b.ascii && !e.lists() {
		for left := e.least(false) * e.count; left > 0; {
			n, err := b.in.Discard(int(min(left, 1<<30)))
			if err != nil {
				return err
			}
			left -= int64(n)
		}
		return nil
	}
	for range e.count {
		if err := b.row(e.props, nil); err != nil {
			return err
		}
	}
	return nil
}

// row reads one record; the scalars go to raw, which may be nil.
func (b *plyBody) row(props []plyProperty, raw []float64) error {
	if b.ascii {
		return b.textRow(props, raw)
	}
	for i, p := range props {
		if p.count != 0 {
			n, err := b.scalar(p.count)
			if err != nil {
				return err
			}
			if n < 0 {
				return malformed("ply: list %s of length %v", p.name, n)
			}
			if err := b.discard(int64(n), p.typ.bytes()); err != nil {
				return err
			}
			continue
		}
		v, err := b.scalar(p.typ)
		if err != nil {
			return err
		}
		if raw != nil {
			raw[i] = v
		}
	}
	return nil
}

func (b *plyBody) scalar(t scalar) (float64, error) {
	var buf [8]byte
	if _, err := io.ReadFull(b.in, buf[:t.bytes()]); err != nil {
		return 0, io.EOF
	}
	return t.get(buf[:], b.order), nil
}

// discard skips n values of size bytes.
func (b *plyBody) discard(n int64, size int) error {
	for left := n * int64(size); left > 0; {
		d, err := b.in.Discard(int(min(left, 1<<30)))
		if err != nil {
			return err
		}
		left -= int64(d)
	}
	return nil
}

// textRow reads one line, blank ones passed over.
func (b *plyBody) textRow(props []plyProperty, raw []float64) error {
	for b.tok = b.tok[:0]; len(b.tok) == 0; {
		line, err := b.text.next()
		if err != nil {
			return err
		}
		b.tok = split(b.tok, line)
	}
	at := 0
	for i, p := range props {
		if at >= len(b.tok) {
			return malformed("ply: data line %d: %d values, want more", b.text.no, len(b.tok))
		}
		v, ok := parseNumber(b.tok[at])
		if !ok {
			return malformed("ply: data line %d: %q is not a number", b.text.no, clip(b.tok[at]))
		}
		at++
		if p.count != 0 {
			if !(v >= 0 && v <= float64(len(b.tok)-at)) {
				return malformed("ply: data line %d: list %s of length %v", b.text.no, p.name, v)
			}
			at += int(v)
		} else if raw != nil {
			raw[i] = v
		}
	}
	if at != len(b.tok) {
		return malformed("ply: data line %d: %d values, want %d", b.text.no, len(b.tok), at)
	}
	return nil
}

// clip shortens foreign text for an error.
func clip(b []byte) []byte { return b[:min(len(b), 32)] }
