package pointfile

import (
	"bufio"
	"io"
)

// lines reads a text format line by line.
type lines struct {
	in *input
	no int64 // lines read
}

// next returns the next line without its end; it is valid until the next call. A last line
// without an end counts. Lines longer than the window are malformed.
func (l *lines) next() ([]byte, error) {
	b, err := l.in.ReadSlice('\n')
	l.no++
	switch {
	case err == bufio.ErrBufferFull:
		return nil, malformed("line %d is longer than %d bytes", l.no, window)
	case err == io.EOF && len(b) == 0:
		return nil, io.EOF
	case err != nil && err != io.EOF:
		return nil, err
	}
	for len(b) > 0 && (b[len(b)-1] == '\n' || b[len(b)-1] == '\r') {
		b = b[:len(b)-1]
	}
	return b, nil
}

func isSpace(c byte) bool {
	return c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == '\v' || c == '\f'
}

// split appends the fields of a line, separated by white space, to tok.
func split(tok [][]byte, line []byte) [][]byte {
	for i := 0; i < len(line); {
		for i < len(line) && isSpace(line[i]) {
			i++
		}
		start := i
		for i < len(line) && !isSpace(line[i]) {
			i++
		}
		if i > start {
			tok = append(tok, line[start:i])
		}
	}
	return tok
}

// words is split into strings, for headers.
func words(line []byte) []string {
	var out []string
	for _, t := range split(nil, line) {
		out = append(out, string(t))
	}
	return out
}
