package pointfile

import (
	"bytes"
	"encoding/binary"
	"io"
	"strconv"
	"strings"
)

// plyTypes are the two generations of type names.
var plyTypes = map[string]scalar{
	"char": int8Type, "uchar": uint8Type, "short": int16Type, "ushort": uint16Type,
	"int": int32Type, "uint": uint32Type, "float": float32Type, "double": float64Type,
	"int8": int8Type, "uint8": uint8Type, "int16": int16Type, "uint16": uint16Type,
	"int32": int32Type, "uint32": uint32Type, "float32": float32Type, "float64": float64Type,
}

// plyProperty is a scalar, or a list when count is set.
type plyProperty struct {
	name  string
	typ   scalar
	count scalar
}

type plyElement struct {
	name  string
	count int64
	props []plyProperty
}

// lists reports whether a record has no fixed size.
func (e *plyElement) lists() bool {
	for _, p := range e.props {
		if p.count != 0 {
			return true
		}
	}
	return false
}

// least is the smallest number of bytes a record can take.
func (e *plyElement) least(ascii bool) int64 {
	n := int64(0)
	for _, p := range e.props {
		switch {
		case ascii:
			n += 2 // a digit and a separator
		case p.count != 0:
			n += int64(p.count.bytes())
		default:
			n += int64(p.typ.bytes())
		}
	}
	return n
}

type plyHeader struct {
	encoding, version string
	elements          []plyElement
}

const plyHeaderLines = 10000

// parsePLY reads up to and including the end_header line.
func parsePLY(in *input, maxColumns int) (*plyHeader, error) {
	h := &plyHeader{}
	l := lines{in: in}
	first, err := l.next()
	if err != nil || string(bytes.TrimSpace(first)) != "ply" {
		return nil, malformed("ply: first line is not \"ply\"")
	}
	for l.no < plyHeaderLines {
		line, err := l.next()
		if err == io.EOF {
			return nil, truncated("ply: header has no end_header line")
		}
		if err != nil {
			return nil, err
		}
		w := words(line)
		if len(w) == 0 {
			continue
		}
		if w[0] == "end_header" {
			return h, h.check(maxColumns)
		}
		if err := h.line(w); err != nil {
			return nil, err
		}
		if n := len(h.elements); n > 0 && len(h.elements[n-1].props) > maxColumns {
			return nil, tooLarge("ply: properties", int64(maxColumns), int64(len(h.elements[n-1].props)))
		}
	}
	return nil, malformed("ply: header longer than %d lines", plyHeaderLines)
}

// line takes in one line of the header.
func (h *plyHeader) line(w []string) error {
	switch w[0] {
	case "comment", "obj_info":
		return nil
	case "format":
		if len(w) != 3 {
			return malformed("ply: format line %q", strings.Join(w, " "))
		}
		h.encoding, h.version = w[1], w[2]
		return nil
	case "element":
		if len(w) != 3 {
			return malformed("ply: element line %q", strings.Join(w, " "))
		}
		n, err := strconv.ParseInt(w[2], 10, 64)
		if err != nil || n < 0 {
			return malformed("ply: element %s: count %q", w[1], w[2])
		}
		h.elements = append(h.elements, plyElement{name: w[1], count: n})
		return nil
	case "property":
		return h.property(w[1:])
	}
	return malformed("ply: header line begins with %q", w[0])
}

func (h *plyHeader) property(w []string) error {
	if len(h.elements) == 0 {
		return malformed("ply: property before any element")
	}
	e := &h.elements[len(h.elements)-1]
	var p plyProperty
	switch {
	case len(w) == 4 && w[0] == "list":
		p = plyProperty{name: w[3], count: plyTypes[w[1]], typ: plyTypes[w[2]]}
		if p.count == 0 || p.typ == 0 || p.count >= float16Type {
			return malformed("ply: list of type %q, %q", w[1], w[2])
		}
	case len(w) == 2:
		p = plyProperty{name: w[1], typ: plyTypes[w[0]]}
		if p.typ == 0 {
			return malformed("ply: property %s: type %q", w[1], w[0])
		}
	default:
		return malformed("ply: property line %q", strings.Join(w, " "))
	}
	for _, q := range e.props {
		if q.name == p.name {
			return malformed("ply: element %s: property %s twice", e.name, p.name)
		}
	}
	e.props = append(e.props, p)
	return nil
}

func (h *plyHeader) check(maxColumns int) error {
	if _, _, err := h.order(); err != nil {
		return err
	}
	if h.vertex() < 0 {
		return malformed("ply: no vertex element")
	}
	return nil
}

// order gives the byte order of binary data.
func (h *plyHeader) order() (ascii bool, order binary.ByteOrder, err error) {
	switch h.encoding {
	case "ascii":
		return true, binary.LittleEndian, nil
	case "binary_little_endian":
		return false, binary.LittleEndian, nil
	case "binary_big_endian":
		return false, binary.BigEndian, nil
	}
	return false, nil, malformed("ply: format %q", h.encoding)
}

func (h *plyHeader) vertex() int {
	for i, e := range h.elements {
		if e.name == "vertex" || e.name == "point" {
			return i
		}
	}
	return -1
}
