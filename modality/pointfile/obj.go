package pointfile

import (
	"bytes"
	"io"
)

// objText yields the vertices of a Wavefront OBJ file; every other statement is passed over.
type objText struct {
	lines
	tok   [][]byte
	color bool
}

func openOBJ(r *Reader, in *input, o *Options) error {
	r.Encoding = "ascii"
	b := &objText{lines: lines{in: in}}
	peek, _ := in.Peek(window)
	if bytes.IndexByte(peek, 0) >= 0 {
		return malformed("obj: binary data")
	}
	for len(peek) > 0 {
		line, rest, _ := bytes.Cut(peek, []byte("\n"))
		if tok := split(nil, line); len(tok) > 0 && string(tok[0]) == "v" {
			b.color = len(tok) == 7
			break
		}
		peek = rest
	}
	r.HasColor = b.color
	r.body = b
	return nil
}

func (b *objText) read(dst []Point) (int, error) {
	n := 0
	for n < len(dst) {
		line, err := b.next()
		if err == io.EOF && n > 0 {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		b.tok = split(b.tok[:0], line)
		if len(b.tok) == 0 || string(b.tok[0]) != "v" {
			continue
		}
		if err := b.vertex(&dst[n]); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

func (b *objText) vertex(p *Point) error {
	*p = Point{}
	if len(b.tok) < 4 {
		return malformed("obj: line %d: vertex of %d values", b.no, len(b.tok)-1)
	}
	for i, t := range b.tok[1:min(len(b.tok), 7)] {
		v, ok := parseNumber(t)
		if !ok {
			return malformed("obj: line %d: %q is not a number", b.no, clip(t))
		}
		switch {
		case i < 3:
			p.XYZ[i] = v
		case b.color && len(b.tok) == 7:
			f := newField(compR+component(i-3), float64Type, 0)
			f.set(p, v)
		}
	}
	return nil
}
