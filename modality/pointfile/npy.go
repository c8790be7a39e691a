package pointfile

import (
	"encoding/binary"
	"io"
	"math"
	"strings"
)

// npyTypes are NumPy's kind and size.
var npyTypes = map[string]scalar{
	"i1": int8Type, "u1": uint8Type, "i2": int16Type, "u2": uint16Type, "i4": int32Type,
	"u4": uint32Type, "i8": int64Type, "u8": uint64Type,
	"f2": float16Type, "f4": float32Type, "f8": float64Type,
}

// npyHeader describes rows of width numbers, or of named ones for a structured array.
type npyHeader struct {
	version string
	order   binary.ByteOrder
	fields  []field // offsets in a row; nil when the columns have no names
	typ     scalar  // of a plain array
	size    int64   // bytes of a row
	rows    int64
	width   int64
	fortran bool
}

func openNPY(r *Reader, in *input, o *Options) error {
	h, err := parseNPY(in, o.Limits.Columns)
	if err != nil {
		return err
	}
	r.Version, r.Points, r.RecordBytes = h.version, h.rows, int(h.size)
	r.Encoding = "binary_little_endian"
	if h.order == binary.BigEndian {
		r.Encoding = "binary_big_endian"
	}
	if err := r.check(); err != nil {
		return err
	}
	left := o.Size - in.at()
	if h.rows > left/h.size {
		return truncated("npy: %d rows of %d bytes, %d bytes left", h.rows, h.size, left)
	}
	fields := h.fields
	if fields == nil {
		rows := h.look(in)
		var columns []component
		columns, r.Notes = guess(rows, int(h.width))
		fields = tableFields(columns, rows)
		for i := range fields {
			fields[i].typ = h.typ
			fields[i].at *= h.typ.bytes()
		}
	}
	fields, ok := r.attributes(fields)
	if !ok {
		return malformed("npy: no fields x, y and z")
	}
	if !h.fortran {
		r.body = &records{in: in, size: int(h.size), order: h.order, fields: fields}
		return nil
	}
	r.Held = h.rows * h.size
	if r.Held > o.Limits.Decoded {
		return tooLarge("npy: decoded bytes", o.Limits.Decoded, r.Held)
	}
	for i := range fields {
		fields[i].at *= int(h.rows)
	}
	r.body = &columns{order: h.order, points: h.rows, fields: fields,
		load: func() ([]byte, error) { return readAll(in, h.rows*h.size) }}
	return nil
}

// look reads the first rows without consuming them. A Fortran-ordered array shows none of its
// later columns in its first bytes; those past the third are then not guessed at.
func (h *npyHeader) look(in *input) (rows [][]float64) {
	if h.fortran {
		return nil
	}
	b, _ := in.Peek(window)
	for i := int64(0); i < min(h.rows, surveyRows, int64(len(b))/h.size); i++ {
		row := make([]float64, h.width)
		for k := range row {
			row[k] = h.typ.get(b[i*h.size+int64(k*h.typ.bytes()):], h.order)
		}
		rows = append(rows, row)
	}
	return rows
}

// parseNPY reads magic, version and the header dictionary.
func parseNPY(in *input, maxColumns int) (*npyHeader, error) {
	var pre [12]byte
	if _, err := io.ReadFull(in, pre[:10]); err != nil {
		return nil, truncated("npy: no header")
	}
	if string(pre[:6]) != "\x93NUMPY" {
		return nil, malformed("npy: no magic")
	}
	n := int64(binary.LittleEndian.Uint16(pre[8:]))
	switch pre[6] {
	case 1:
	case 2, 3:
		if _, err := io.ReadFull(in, pre[10:]); err != nil {
			return nil, truncated("npy: no header")
		}
		n = int64(binary.LittleEndian.Uint32(pre[8:]))
	default:
		return nil, unsupported("npy: version %d.%d", pre[6], pre[7])
	}
	if n > window {
		return nil, malformed("npy: header of %d bytes", n)
	}
	text, err := readAll(in, n)
	if err != nil {
		return nil, err
	}
	v, err := parseLiteral(string(text))
	dict, ok := v.(map[string]any)
	if err != nil || !ok {
		return nil, malformed("npy: header is not a dictionary of literals")
	}
	h := &npyHeader{version: string([]byte{'0' + pre[6], '.', '0'}), order: binary.LittleEndian}
	return h, h.take(dict, maxColumns)
}

func (h *npyHeader) take(dict map[string]any, maxColumns int) error {
	fortran, ok := dict["fortran_order"].(bool)
	shape, ok2 := dict["shape"].([]any)
	if !ok || !ok2 {
		return malformed("npy: header without fortran_order or shape")
	}
	var dims []int64
	for _, d := range shape {
		n, ok := d.(int64)
		if !ok || n < 0 {
			return malformed("npy: shape %v", shape)
		}
		dims = append(dims, n)
	}
	h.fortran = fortran
	switch descr := dict["descr"].(type) {
	case string:
		return h.plain(descr, dims, maxColumns)
	case []any:
		return h.structured(descr, dims, maxColumns)
	}
	return malformed("npy: header without descr")
}

// plain is an N×k array of one type.
func (h *npyHeader) plain(descr string, dims []int64, maxColumns int) error {
	t, err := h.element(descr)
	if err != nil {
		return err
	}
	if len(dims) != 2 || dims[1] < 3 {
		return malformed("npy: shape %v, want N×3 or wider", dims)
	}
	if dims[1] > int64(maxColumns) {
		return tooLarge("npy: columns", int64(maxColumns), dims[1])
	}
	h.typ, h.rows, h.width = t, dims[0], dims[1]
	h.size = h.width * int64(t.bytes())
	if h.rows > math.MaxInt64/h.size {
		return malformed("npy: shape %v", dims)
	}
	return nil
}

// structured is an array of named numbers.
func (h *npyHeader) structured(descr []any, dims []int64, maxColumns int) error {
	if len(dims) != 1 || len(descr) > maxColumns {
		return malformed("npy: shape %v of %d fields", dims, len(descr))
	}
	h.fortran = false
	h.fields = []field{}
	for _, d := range descr {
		pair, ok := d.([]any)
		if !ok || len(pair) != 2 {
			return unsupported("npy: field %v", d)
		}
		name, ok1 := pair[0].(string)
		typ, ok2 := pair[1].(string)
		if !ok1 || !ok2 {
			return unsupported("npy: field %v", pair)
		}
		t, err := h.element(typ)
		if err != nil {
			return err
		}
		if c, known := names[strings.ToLower(name)]; known {
			h.fields = append(h.fields, newField(c, t, int(h.size)))
		}
		h.size += int64(t.bytes())
	}
	h.rows, h.width = dims[0], int64(len(descr))
	if h.size == 0 || h.rows > math.MaxInt64/h.size {
		return malformed("npy: shape %v of %d fields", dims, len(descr))
	}
	return nil
}

// element reads a type such as "<f4" and notes its byte order.
func (h *npyHeader) element(descr string) (scalar, error) {
	if len(descr) < 2 {
		return 0, malformed("npy: type %q", descr)
	}
	t, ok := npyTypes[descr[1:]]
	if !ok {
		return 0, unsupported("npy: type %q", clip([]byte(descr)))
	}
	switch descr[0] {
	case '>':
		h.order = binary.BigEndian
	case '<', '|', '=':
	default:
		return 0, malformed("npy: type %q", clip([]byte(descr)))
	}
	return t, nil
}
