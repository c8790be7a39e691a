package pointfile

import (
	"bytes"
	"io"
)

// jsonText is a JSON array of points, each an array of numbers. It is read value by value, so
// nothing deeper than a point is ever entered.
type jsonText struct {
	in     *input
	fields []field
	width  int
	row    []float64
	begun  bool
}

func looksLikeJSON(b []byte) bool {
	b, outer := bytes.CutPrefix(bytes.TrimSpace(b), []byte("["))
	return outer && bytes.HasPrefix(bytes.TrimSpace(b), []byte("["))
}

func openJSON(r *Reader, in *input, o *Options) error {
	r.Encoding = "ascii"
	look, err := in.Peek(window)
	if err != nil && err != io.EOF {
		return err
	}
	// The rows of the first window tell colours from normals.
	b := &jsonText{in: newInput(bytes.NewReader(look))}
	var rows [][]float64
	for len(rows) < surveyRows {
		row, err := b.next(o.Limits.Columns)
		if err != nil || len(rows) > 0 && len(row) != b.width {
			if len(rows) == 0 && err == io.EOF {
				return empty("json: no points")
			}
			if len(rows) == 0 {
				return err
			}
			break // cut by the window, or for the reader to say
		}
		b.width = len(row)
		rows = append(rows, append([]float64(nil), row...))
	}
	if b.width < 3 {
		return malformed("json: point of %d numbers", b.width)
	}
	var columns []component
	columns, r.Notes = guess(rows, b.width)
	fields, _ := r.attributes(tableFields(columns, rows))
	r.body = &jsonText{in: in, fields: fields, width: b.width}
	return nil
}

// next reads one point; io.EOF after the closing bracket.
func (b *jsonText) next(maxColumns int) ([]float64, error) {
	c, err := b.token()
	if !b.begun {
		if err == nil && c != '[' {
			return nil, malformed("json: want [[x, y, z], …]")
		}
		b.begun = true
		if err == nil {
			c, err = b.token()
		}
	} else if err == nil && c == ',' {
		c, err = b.token()
	}
	switch {
	case err == io.EOF:
		return nil, truncated("json: no closing bracket")
	case err != nil:
		return nil, err
	case c == ']':
		return nil, io.EOF
	case c != '[':
		return nil, malformed("json: want [[x, y, z], …]")
	}
	b.row = b.row[:0]
	for c != ']' {
		v, end, err := b.number()
		if err != nil {
			return nil, err
		}
		if b.row = append(b.row, v); len(b.row) > maxColumns {
			return nil, tooLarge("json: numbers of a point", int64(maxColumns), int64(len(b.row)))
		}
		c = end
	}
	return b.row, nil
}

// token is the next byte that is not white space.
func (b *jsonText) token() (byte, error) {
	for {
		c, err := b.in.ReadByte()
		if err != nil || !isSpace(c) {
			return c, err
		}
	}
}

// number reads a number and the comma or bracket behind it.
func (b *jsonText) number() (v float64, end byte, err error) {
	var buf [64]byte
	n := 0
	c, err := b.token()
	for ; err == nil && c != ',' && c != ']' && !isSpace(c); c, err = b.in.ReadByte() {
		if n == len(buf) {
			return 0, 0, malformed("json: %q… is not a number", buf[:16])
		}
		buf[n] = c
		n++
	}
	if err == nil && isSpace(c) {
		c, err = b.token()
	}
	if err == io.EOF {
		return 0, 0, truncated("json: ends in a point")
	}
	if err != nil {
		return 0, 0, err
	}
	v, ok := parseNumber(buf[:n])
	if !ok || c != ',' && c != ']' {
		return 0, 0, malformed("json: %q is not a number", clip(buf[:n]))
	}
	return v, c, nil
}

func (b *jsonText) read(dst []Point) (int, error) {
	for n := range dst {
		row, err := b.next(b.width)
		if err == io.EOF && n > 0 {
			// The next call meets the end again.
			return n, b.in.UnreadByte()
		}
		if err != nil {
			return n, err
		}
		if len(row) != b.width {
			return n, malformed("json: point of %d numbers, want %d", len(row), b.width)
		}
		dst[n] = Point{}
		for i := range b.fields {
			b.fields[i].set(&dst[n], row[b.fields[i].at])
		}
	}
	return len(dst), nil
}
