package pointfile

import (
	"bytes"
	"io"
	"strconv"
)

// offMagic splits a line that begins with [ST][C][N][4][n]OFF into the letters in front of OFF
// and what follows. Counts may follow without a space, as in part of ModelNet40.
func offMagic(line []byte) (prefix string, rest []byte, ok bool) {
	line = bytes.TrimLeft(line, " \t\r\n")
	at := bytes.Index(line, []byte("OFF"))
	if at < 0 || at > 5 {
		return "", nil, false
	}
	left := string(line[:at])
	for _, part := range []string{"ST", "C", "N", "4", "n"} {
		if len(left) >= len(part) && left[:len(part)] == part {
			left = left[len(part):]
		}
	}
	rest = line[at+3:]
	ok = left == "" && (len(rest) == 0 || isSpace(rest[0]) || rest[0] == '#' || rest[0] >= '0' && rest[0] <= '9')
	return string(line[:at]), rest, ok
}

func looksLikeOFF(b []byte) bool {
	for len(b) > 0 {
		line, rest, _ := bytes.Cut(b, []byte("\n"))
		if t := bytes.TrimSpace(line); len(t) > 0 && t[0] != '#' {
			_, _, ok := offMagic(line)
			return ok
		}
		b = rest
	}
	return false
}

// offText yields the rows of an OFF file: comments cut, blank lines passed over.
type offText struct {
	lines
	tok [][]byte

	fields []field
	width  int // fewest columns of a vertex row
}

func (b *offText) row() error {
	for b.tok = b.tok[:0]; len(b.tok) == 0; {
		line, err := b.next()
		if err != nil {
			return err
		}
		line, _, _ = bytes.Cut(line, []byte("#"))
		b.tok = split(b.tok, line)
	}
	return nil
}

func openOFF(r *Reader, in *input, o *Options) error {
	b := &offText{lines: lines{in: in}}
	r.Encoding = "ascii"
	prefix, err := b.magic()
	if err != nil {
		return err
	}
	for len(b.tok) == 0 {
		if err := b.row(); err == io.EOF {
			return truncated("off: no counts")
		} else if err != nil {
			return err
		}
	}
	if len(b.tok) != 2 && len(b.tok) != 3 {
		return malformed("off: counts line has %d values", len(b.tok))
	}
	n, err := strconv.ParseInt(string(b.tok[0]), 10, 64)
	if err != nil || n < 0 {
		return malformed("off: %q vertices", clip(b.tok[0]))
	}
	r.Points = n
	if left := o.Size - in.at(); n > (left+1)/6 {
		return truncated("off: %d vertices need at least 6 bytes each, %d left", n, left)
	}
	b.layout(r, prefix)
	r.body = b
	return nil
}

// magic reads the first row and leaves in tok the counts that share its line.
func (b *offText) magic() (prefix string, err error) {
	if err := b.row(); err != nil {
		return "", malformed("off: no magic word")
	}
	line := bytes.Join(b.tok, []byte(" "))
	prefix, rest, ok := offMagic(line)
	switch {
	case !ok:
		return "", malformed("off: first line does not begin with OFF")
	case bytes.HasPrefix(bytes.TrimSpace(rest), []byte("BINARY")):
		return "", unsupported("off: binary files are not read")
	case bytes.ContainsAny([]byte(prefix), "4n"):
		return "", unsupported("off: %sOFF, vertices that are not three-dimensional", prefix)
	}
	b.tok = split(nil, rest)
	return prefix, nil
}

// layout settles the columns: position, normal when N, colour when C. The values of the first
// vertex tell whether colours run to 1 or to 255.
func (b *offText) layout(r *Reader, prefix string) {
	b.fields = []field{newField(compX, float64Type, 0), newField(compY, float64Type, 1), newField(compZ, float64Type, 2)}
	b.width = 3
	if bytes.ContainsRune([]byte(prefix), 'N') {
		for i, c := range []component{compNX, compNY, compNZ} {
			b.fields = append(b.fields, newField(c, float64Type, b.width+i))
		}
		b.width += 3
	}
	if bytes.ContainsRune([]byte(prefix), 'C') {
		typ := uint8Type
		if peek, _ := b.in.Peek(512); bytes.ContainsRune(colorColumns(peek, b.width), '.') {
			typ = float64Type
		}
		for i, c := range []component{compR, compG, compB} {
			b.fields = append(b.fields, newField(c, typ, b.width+i))
		}
		b.width += 3
	}
	b.fields, _ = r.attributes(b.fields)
}

// colorColumns returns the text behind the first skip columns of the first data line.
func colorColumns(b []byte, skip int) []byte {
	for len(b) > 0 {
		line, rest, _ := bytes.Cut(b, []byte("\n"))
		line, _, _ = bytes.Cut(line, []byte("#"))
		if tok := split(nil, line); len(tok) > skip {
			return bytes.Join(tok[skip:], []byte(" "))
		}
		b = rest
	}
	return nil
}

func (b *offText) read(dst []Point) (int, error) {
	for n := range dst {
		err := b.row()
		if err == io.EOF && n > 0 {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		if len(b.tok) < b.width {
			return n, malformed("off: line %d: %d values, want %d", b.no, len(b.tok), b.width)
		}
		dst[n] = Point{}
		for i := range b.fields {
			f := &b.fields[i]
			v, ok := parseNumber(b.tok[f.at])
			if !ok {
				return n, malformed("off: line %d: %q is not a number", b.no, clip(b.tok[f.at]))
			}
			f.set(&dst[n], v)
		}
	}
	return len(dst), nil
}
