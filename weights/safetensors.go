package weights

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"unicode/utf8"
)

// maxHeader bounds a safetensors header, as the reference implementation does.
const maxHeader = 100_000_000

// addSafetensors reads the header of a safetensors file: eight bytes of length, a JSON
// object of tensors, then their bytes without holes.
func (c *Checkpoint) addSafetensors(m *mapped, size int64) error {
	if size < 8 {
		return fmt.Errorf("%d bytes are too few for a safetensors file", size)
	}
	head, err := m.bytes(0, 8)
	if err != nil {
		return err
	}
	n := binary.LittleEndian.Uint64(head)
	switch {
	case n > maxHeader:
		return fmt.Errorf("not a safetensors file: header of %d bytes, at most %d", n, maxHeader)
	case n > uint64(size-8):
		return fmt.Errorf("header of %d bytes in a file of %d", n, size)
	}
	text, err := m.bytes(8, int64(n))
	if err != nil {
		return err
	}
	list, meta, err := parseHeader(text)
	if err != nil {
		return fmt.Errorf("header: %w", err)
	}
	data := 8 + int64(n)
	if err := checkLayout(list, size-data); err != nil {
		return err
	}
	for _, t := range list {
		if err := c.put(t.name, entry{dtype: t.dtype, shape: t.shape, file: m, off: data + t.begin, size: t.end - t.begin}); err != nil {
			return err
		}
	}
	for k, v := range meta {
		if c.meta == nil {
			c.meta = map[string]string{}
		}
		c.meta[k] = v
	}
	return nil
}

// listed is one tensor of a safetensors header.
type listed struct {
	name       string
	dtype      DType
	shape      []int
	begin, end int64
}

// checkLayout requires that the tensors fill the data without hole or overlap.
func checkLayout(list []listed, size int64) error {
	sorted := slices.Clone(list)
	slices.SortFunc(sorted, func(a, b listed) int {
		if a.begin != b.begin {
			return compare(a.begin, b.begin)
		}
		return compare(a.end, b.end)
	})
	var at int64
	for _, t := range sorted {
		_, want, err := byteSize(t.dtype, t.shape)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", clip(t.name), err)
		}
		switch {
		case t.end < t.begin || t.end-t.begin != want:
			return fmt.Errorf("tensor %q: %d bytes at offsets [%d %d], %v of %s needs %d", clip(t.name), t.end-t.begin, t.begin, t.end, t.shape, t.dtype, want)
		case t.end > size:
			return fmt.Errorf("tensor %q: ends at byte %d of %d", clip(t.name), t.end, size)
		case t.begin < at:
			return fmt.Errorf("tensor %q: overlaps the one before it", clip(t.name))
		case t.begin > at:
			return fmt.Errorf("tensor %q: %d unused bytes before it", clip(t.name), t.begin-at)
		}
		at = t.end
	}
	if at != size {
		return fmt.Errorf("%d bytes after the last tensor", size-at)
	}
	return nil
}

func compare(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// parseHeader reads the JSON object of a safetensors header.
func parseHeader(text []byte) (list []listed, meta map[string]string, err error) {
	if len(text) == 0 || text[0] != '{' {
		return nil, nil, errors.New("does not begin with {")
	}
	if !utf8.Valid(text) {
		return nil, nil, errors.New("invalid UTF-8")
	}
	d := &reader{json.NewDecoder(bytes.NewReader(text))}
	d.UseNumber()
	err = d.object(func(name string) error {
		if name == "__metadata__" {
			meta = map[string]string{}
			return d.object(func(key string) error {
				v, err := d.text()
				meta[key] = v
				return err
			})
		}
		t, err := d.tensor(name)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", clip(name), err)
		}
		list = append(list, t)
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, nil, errors.New("text after the object")
	}
	return list, meta, nil
}

// reader walks JSON token by token, so that repeated keys show and nothing large is built.
type reader struct{ *json.Decoder }

// object reads an object, calling value before each value; a repeated key is an error.
func (d *reader) object(value func(key string) error) error {
	if err := d.delim('{'); err != nil {
		return err
	}
	seen := map[string]bool{}
	for d.More() {
		key, err := d.text()
		if err != nil {
			return err
		}
		if seen[key] {
			return fmt.Errorf("key %q appears twice", clip(key))
		}
		seen[key] = true
		if err := value(key); err != nil {
			return err
		}
	}
	return d.delim('}')
}

func (d *reader) delim(want json.Delim) error {
	t, err := d.Token()
	if err != nil {
		return ended(err)
	}
	if t != want {
		return fmt.Errorf("%v found where %v belongs", clip(fmt.Sprint(t)), want)
	}
	return nil
}

func (d *reader) text() (string, error) {
	t, err := d.Token()
	if err != nil {
		return "", ended(err)
	}
	s, ok := t.(string)
	if !ok {
		return "", fmt.Errorf("%v found where a string belongs", clip(fmt.Sprint(t)))
	}
	return s, nil
}

// ended names an end that came too early.
func ended(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// ints reads an array of at most most whole numbers, none negative.
func (d *reader) ints(most int) ([]int64, error) {
	if err := d.delim('['); err != nil {
		return nil, err
	}
	out := []int64{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, ended(err)
		}
		num, ok := t.(json.Number)
		if !ok {
			return nil, fmt.Errorf("%v found where a number belongs", clip(fmt.Sprint(t)))
		}
		n, err := strconv.ParseInt(num.String(), 10, 64)
		if err != nil || n < 0 || int64(int(n)) != n {
			return nil, fmt.Errorf("%s is not a size", clip(num.String()))
		}
		if len(out) == most {
			return nil, fmt.Errorf("more than %d numbers", most)
		}
		out = append(out, n)
	}
	return out, d.delim(']')
}

// tensor reads {"dtype", "shape", "data_offsets"}; other keys are skipped.
func (d *reader) tensor(name string) (listed, error) {
	t := listed{name: name}
	var haveShape, haveOffsets bool
	err := d.object(func(key string) error {
		switch key {
		case "dtype":
			s, err := d.text()
			t.dtype = DType(s)
			return err
		case "shape":
			shape, err := d.ints(maxAxes)
			if err != nil {
				return fmt.Errorf("shape: %w", err)
			}
			t.shape, haveShape = make([]int, len(shape)), true
			for i, n := range shape {
				t.shape[i] = int(n)
			}
			return nil
		case "data_offsets":
			at, err := d.ints(2)
			if err != nil {
				return fmt.Errorf("data_offsets: %w", err)
			}
			if len(at) != 2 {
				return fmt.Errorf("data_offsets: %d numbers, want 2", len(at))
			}
			t.begin, t.end, haveOffsets = at[0], at[1], true
			return nil
		}
		var skipped json.RawMessage
		return d.Decode(&skipped)
	})
	switch {
	case err != nil:
		return t, err
	case t.dtype == "":
		return t, errors.New("no dtype")
	case t.dtype.Size() == 0:
		return t, fmt.Errorf("dtype %q is not supported", clip(string(t.dtype)))
	case !haveShape:
		return t, errors.New("no shape")
	case !haveOffsets:
		return t, errors.New("no data_offsets")
	}
	return t, nil
}
