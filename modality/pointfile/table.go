package pointfile

import (
	"bytes"
	"fmt"
	"io"
	"strings"
)

// table is delimited text: columns separated by commas, semicolons or white space, comments
// behind '#' or "//", an optional line of names, and an optional first line with the number of
// points (PTS).
type table struct {
	lines
	tok    [][]byte
	fields []field
	width  int
}

// splitTable appends the columns of a line to tok, without comments and quotes. Between commas
// or semicolons a column may be empty; white space only separates.
func splitTable(tok [][]byte, line []byte) [][]byte {
	if at := bytes.IndexByte(line, '#'); at >= 0 {
		line = line[:at]
	}
	line = bytes.TrimSpace(line)
	if len(line) == 0 || bytes.HasPrefix(line, []byte("//")) {
		return tok
	}
	sep := byte(';')
	if bytes.IndexByte(line, sep) < 0 {
		sep = ','
	}
	if bytes.IndexByte(line, sep) < 0 {
		return split(tok, line)
	}
	for more := true; more && len(line) > 0; {
		var t []byte
		t, line, more = cutByte(line, sep)
		tok = append(tok, bytes.Trim(t, " \t\r\""))
	}
	return tok
}

func cutByte(b []byte, sep byte) (before, after []byte, found bool) {
	if i := bytes.IndexByte(b, sep); i >= 0 {
		return b[:i], b[i+1:], true
	}
	return b, nil, false
}

// columnsOf reads a line of names; nil unless x, y and z are among them.
func columnsOf(tok [][]byte) []component {
	var out []component
	seen := 0
	for _, t := range tok {
		c := names[strings.ToLower(strings.Trim(string(t), `"'`))]
		out = append(out, c)
		if c >= compX && c <= compZ {
			seen |= 1 << c
		}
	}
	if seen != 1<<compX|1<<compY|1<<compZ {
		return nil
	}
	return out
}

func openXYZ(r *Reader, in *input, o *Options) error {
	r.Encoding = "ascii"
	if b, _ := in.Peek(3); string(b) == "\xef\xbb\xbf" {
		in.Discard(3)
	}
	look, err := in.Peek(window)
	if err != nil && err != io.EOF {
		return err
	}
	whole := err == io.EOF
	if !whole { // the last line of the window may be cut
		look = look[:bytes.LastIndexByte(look, '\n')+1]
		if len(look) == 0 {
			return malformed("xyz: first line is longer than %d bytes", window)
		}
	}
	s := survey(look, o.Limits.Columns)
	if s.err != nil {
		return s.err
	}
	if s.points > 0 {
		r.Points = s.points
		if left := o.Size - in.at(); s.points > (left+1)/6 {
			return truncated("xyz: %d points need at least 6 bytes each, %d left", s.points, left)
		}
	}
	if s.skip > 0 {
		in.Discard(s.skip)
	}
	t := &table{lines: lines{in: in, no: s.lines}, width: s.width}
	columns := s.columns
	switch {
	case columns == nil && s.points > 0 && s.width == 7: // PTS
		columns = []component{compX, compY, compZ, compIntensity, compR, compG, compB}
	case columns == nil:
		columns, r.Notes = guess(s.rows, s.width)
	}
	t.fields = tableFields(columns, s.rows)
	var ok bool
	if t.fields, ok = r.attributes(t.fields); !ok {
		return malformed("xyz: %d columns, no x, y and z", s.width)
	}
	r.body = t
	return nil
}

// surveyed is what the first lines of a table say.
type surveyed struct {
	skip    int   // bytes before the first row of numbers
	lines   int64 // and the lines they hold
	points  int64 // PTS count, or 0
	columns []component
	rows    [][]float64 // the first rows
	width   int
	err     error
}

// surveyRows is how many rows are looked at to tell colours from normals.
const surveyRows = 256

func survey(b []byte, maxColumns int) (s surveyed) {
	var tok [][]byte
	all := len(b)
	for len(b) > 0 && len(s.rows) < surveyRows {
		start := all - len(b)
		line, rest, _ := bytes.Cut(b, []byte("\n"))
		b = rest
		if s.columns == nil && s.rows == nil {
			if c, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte("//")); ok { // CloudCompare
				s.columns = columnsOf(split(nil, c))
			}
		}
		tok = splitTable(tok[:0], line)
		if len(tok) > maxColumns {
			s.err = tooLarge("xyz: columns", int64(maxColumns), int64(len(tok)))
			return s
		}
		if len(tok) == 0 {
			s.count()
			continue
		}
		row, ok := numbers(tok)
		switch {
		case ok && len(tok) == 1 && s.points == 0 && s.rows == nil && row[0] == float64(int64(row[0])) && row[0] > 0 && row[0] < 1<<53:
			s.points = int64(row[0])
			s.count()
		case !ok && s.rows == nil && s.columns == nil && columnsOf(tok) != nil:
			s.columns = columnsOf(tok)
			s.count()
		case !ok || len(tok) < 3 || s.rows != nil && len(tok) != s.width:
			if s.rows != nil {
				return s // the reader will say so with its line
			}
			s.err = malformed("xyz: line %d is not a row of at least three numbers", s.lines+1)
			return s
		default:
			if s.rows == nil {
				s.skip, s.width = start, len(tok)
			}
			s.rows = append(s.rows, row)
		}
	}
	if s.rows == nil {
		s.err = empty("xyz: no points")
	}
	return s
}

// count notes a line in front of the first row.
func (s *surveyed) count() {
	if s.rows == nil {
		s.lines++
	}
}

// numbers parses a row; an empty column is not a number, and counts as a missing value.
func numbers(tok [][]byte) ([]float64, bool) {
	out := make([]float64, len(tok))
	for i, t := range tok {
		v, ok := tableNumber(t)
		if !ok {
			return nil, false
		}
		out[i] = v
	}
	return out, true
}

func (t *table) read(dst []Point) (int, error) {
	for n := range dst {
		for t.tok = t.tok[:0]; len(t.tok) == 0; {
			line, err := t.next()
			if err == io.EOF && n > 0 {
				return n, nil
			}
			if err != nil {
				return n, err
			}
			t.tok = splitTable(t.tok, line)
		}
		if len(t.tok) != t.width {
			return n, malformed("xyz: line %d: %d columns, want %d", t.no, len(t.tok), t.width)
		}
		dst[n] = Point{}
		for i := range t.fields {
			f := &t.fields[i]
			v, ok := tableNumber(t.tok[f.at])
			if !ok {
				return n, malformed("xyz: line %d: %q is not a number", t.no, clip(t.tok[f.at]))
			}
			f.set(&dst[n], v)
		}
	}
	return len(dst), nil
}

func ignored(n int) []string {
	if n <= 0 {
		return nil
	}
	return []string{fmt.Sprintf("%d further columns ignored", n)}
}
