package weights

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
)

// maxNPYHeader bounds the text of a NumPy header.
const maxNPYHeader = 1 << 16

// ReadNPY reads a NumPy file of at most maxBytes of data. Little-endian and single-byte
// numbers are taken, in C order; big-endian ones are turned round and Fortran order is
// rearranged. Objects, structures and strings are refused. Memory grows with what arrives,
// not with what the header claims.
func ReadNPY(r io.Reader, maxBytes int64) (Raw, error) {
	h, err := readNPYHeader(r)
	if err != nil {
		return Raw{}, fmt.Errorf("weights: npy: %w", err)
	}
	_, n, err := byteSize(h.dtype, h.shape)
	if err != nil {
		return Raw{}, fmt.Errorf("weights: npy: %w", err)
	}
	if n > maxBytes {
		return Raw{}, fmt.Errorf("weights: npy: %d bytes of data, at most %d", n, maxBytes)
	}
	data, err := io.ReadAll(io.LimitReader(r, n))
	if err != nil {
		return Raw{}, fmt.Errorf("weights: npy: %w", err)
	}
	if int64(len(data)) != n {
		return Raw{}, fmt.Errorf("weights: npy: %d bytes of data, want %d for %v of %s", len(data), n, h.shape, h.dtype)
	}
	width := h.dtype.Size()
	if h.big {
		for i := 0; i < len(data); i += width {
			slices.Reverse(data[i : i+width])
		}
	}
	if h.fortran && n > 0 {
		strides := make([]int64, len(h.shape))
		step := int64(1)
		for i, d := range h.shape {
			strides[i] = step
			step *= int64(d)
		}
		data = gather(data, width, h.shape, strides)
	}
	return Raw{DType: h.dtype, Shape: h.shape, Data: data}, nil
}

// StatNPY returns the type and shape that the header of a NumPy file states; the data is not
// read.
func StatNPY(r io.Reader) (DType, []int, error) {
	h, err := readNPYHeader(r)
	if err == nil {
		_, _, err = byteSize(h.dtype, h.shape)
	}
	if err != nil {
		return "", nil, fmt.Errorf("weights: npy: %w", err)
	}
	return h.dtype, h.shape, nil
}

type npyHeader struct {
	dtype        DType
	shape        []int
	big, fortran bool
}

func readNPYHeader(r io.Reader) (npyHeader, error) {
	var head [12]byte
	if _, err := io.ReadFull(r, head[:10]); err != nil {
		return npyHeader{}, errors.New("no header")
	}
	if string(head[:6]) != "\x93NUMPY" {
		return npyHeader{}, errors.New("not a NumPy file")
	}
	n := uint32(binary.LittleEndian.Uint16(head[8:]))
	switch head[6] {
	case 1:
	case 2, 3:
		if _, err := io.ReadFull(r, head[10:]); err != nil {
			return npyHeader{}, errors.New("no header")
		}
		n = binary.LittleEndian.Uint32(head[8:])
	default:
		return npyHeader{}, fmt.Errorf("version %d.%d, want 1 to 3", head[6], head[7])
	}
	if n > maxNPYHeader {
		return npyHeader{}, fmt.Errorf("header of %d bytes, at most %d", n, maxNPYHeader)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(r, text); err != nil {
		return npyHeader{}, fmt.Errorf("header of %d bytes is cut short", n)
	}
	h, err := parseNPYHeader(string(text))
	if err != nil {
		return npyHeader{}, fmt.Errorf("header: %w", err)
	}
	return h, nil
}

// parseNPYHeader reads the Python dictionary {'descr': '<f4', 'fortran_order': False,
// 'shape': (2, 3), }.
func parseNPYHeader(text string) (h npyHeader, err error) {
	s := pyText{strings.TrimRight(text, " \n\x00")}
	if !s.eat("{") {
		return h, errors.New("no dictionary")
	}
	seen := map[string]bool{}
	for !s.eat("}") {
		key, ok := s.quoted()
		if !ok || seen[key] || !s.eat(":") {
			return h, errors.New("bad or repeated key")
		}
		seen[key] = true
		switch key {
		case "descr":
			err = h.descr(&s)
		case "fortran_order":
			h.fortran = s.eat("True")
			if !h.fortran && !s.eat("False") {
				err = errors.New("fortran_order is not a truth value")
			}
		case "shape":
			h.shape, err = s.tuple()
		default:
			err = fmt.Errorf("unknown key %q", clip(key))
		}
		if err != nil {
			return h, err
		}
		if !s.eat(",") && !strings.HasPrefix(s.rest(), "}") {
			return h, errors.New("no comma between entries")
		}
	}
	if s.rest() != "" {
		return h, errors.New("text after the dictionary")
	}
	if len(seen) != 3 {
		return h, errors.New("want descr, fortran_order and shape")
	}
	return h, nil
}

// descr reads the element type.
func (h *npyHeader) descr(s *pyText) error {
	d, ok := s.quoted()
	if !ok || len(d) < 3 || !strings.ContainsRune("<>|=", rune(d[0])) {
		return errors.New("descr is not a plain number type")
	}
	h.big = d[0] == '>'
	for dt, name := range npyTypes {
		if name[1:] == d[1:] {
			h.dtype = dt
			return nil
		}
	}
	return fmt.Errorf("element type %q is not supported", clip(d))
}

// pyText reads Python literals from the front of a text.
type pyText struct{ s string }

// rest is what is left, without leading space.
func (p *pyText) rest() string {
	p.s = strings.TrimLeft(p.s, " \t\n\r")
	return p.s
}

func (p *pyText) eat(token string) bool {
	rest, ok := strings.CutPrefix(p.rest(), token)
	if ok {
		p.s = rest
	}
	return ok
}

// quoted reads a string without escapes.
func (p *pyText) quoted() (string, bool) {
	s := p.rest()
	if s == "" || s[0] != '\'' && s[0] != '"' {
		return "", false
	}
	end := strings.IndexByte(s[1:], s[0])
	if end < 0 {
		return "", false
	}
	p.s = s[end+2:]
	return s[1 : end+1], !strings.Contains(s[1:end+1], `\`)
}

// tuple reads (), (3,) or (2, 3).
func (p *pyText) tuple() ([]int, error) {
	if !p.eat("(") {
		return nil, errors.New("shape is not a tuple")
	}
	shape := []int{}
	for !p.eat(")") {
		s := p.rest()
		n := 0
		for n < len(s) && s[n] >= '0' && s[n] <= '9' {
			n++
		}
		d, err := strconv.ParseInt(s[:n], 10, 64)
		if err != nil || d > math.MaxInt {
			return nil, errors.New("shape is not a tuple of sizes")
		}
		p.s = strings.TrimPrefix(s[n:], "L") // Python 2 wrote long integers so
		if shape = append(shape, int(d)); len(shape) > maxAxes {
			return nil, fmt.Errorf("more than %d axes", maxAxes)
		}
		if !p.eat(",") && !strings.HasPrefix(p.rest(), ")") {
			return nil, errors.New("shape is not a tuple of sizes")
		}
	}
	return shape, nil
}
