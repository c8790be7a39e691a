package pointfile

import (
	"encoding/binary"
	"io"
	"math"
)

// records is a body of binary records of one size.
type records struct {
	in     *input
	size   int
	order  binary.ByteOrder
	fields []field
	buf    []byte
}

// read decodes as many whole records as dst and the buffer take. A partial record at the end
// counts as the end.
func (r *records) read(dst []Point) (int, error) {
	if r.buf == nil {
		r.buf = make([]byte, max(window/r.size, 1)*r.size)
	}
	n := min(len(dst), len(r.buf)/r.size)
	got, err := io.ReadFull(r.in, r.buf[:n*r.size])
	n = got / r.size
	if err == io.ErrUnexpectedEOF || err == io.EOF {
		err = io.EOF
		if n > 0 {
			err = nil
		}
	}
	decode(dst[:n], r.buf, r.size, r.order, r.fields)
	return n, err
}

// decode fills dst from consecutive records of size bytes.
func decode(dst []Point, b []byte, size int, order binary.ByteOrder, fields []field) {
	clear(dst)
	for k := range fields {
		f := &fields[k]
		if f.comp == compPacked {
			for i := range dst {
				setPacked(&dst[i], order.Uint32(b[i*size+f.at:]))
			}
			continue
		}
		if f.typ == float32Type && f.comp <= compZ && order == binary.LittleEndian && f.scale == 1 {
			for i := range dst {
				bits := binary.LittleEndian.Uint32(b[i*size+f.at:])
				dst[i].XYZ[f.comp-compX] = float64(math.Float32frombits(bits)) + f.shift
			}
			continue
		}
		for i := range dst {
			f.set(&dst[i], f.typ.get(b[i*size+f.at:], order))
		}
	}
}
