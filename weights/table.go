package weights

import (
	"encoding/binary"
	"unsafe"

	"github.com/mmserve/mmserve/internal/kernel"
)

// Table is embedding rows (rows×dim), kept in their stored type.
type Table struct {
	raw   Raw
	dtype kernel.DType
}

// Table reads an embedding (rows×dim). One that does not fit is noted, and a table of zeros
// returned.
func (s Scope) Table(name string, rows, dim int) Table {
	shape := []int{rows, dim}
	v, ok := s.open(name, shape)
	if !ok {
		zero, _ := Encode(s.zeros(name, shape), F32)
		return Table{raw: zero, dtype: s.dtype}
	}
	defer v.done()
	t := Table{raw: v.raw, dtype: s.dtype}
	if v.gen != nil {
		t.raw = Raw{DType: F32, Shape: shape, Data: make([]byte, 0, 4*rows*dim)}
	} else {
		t.raw.Data = append([]byte(nil), v.raw.Data...)
	}
	r, row, fine := tableRows(v, rows, dim), make([]float32, dim), true
	for i := 0; i < rows && fine; i++ {
		r.row(i, row)
		fine = s.finite(name, row, i*dim, 1)
		if v.gen != nil {
			t.raw.Data = appendFloats(t.raw.Data, row, F32)
		}
	}
	if len(t.raw.Data) < rows*dim*t.raw.DType.Size() {
		t.raw.Data = make([]byte, rows*dim*t.raw.DType.Size())
	}
	return t
}

func tableRows(v values, total, width int) *rows { return &rows{v: v, width: width, total: total} }

// Rows is the number of rows.
func (t Table) Rows() int { return t.raw.Shape[0] }

// Dim is the width of a row.
func (t Table) Dim() int { return t.raw.Shape[1] }

// Bytes is the memory the table holds.
func (t Table) Bytes() int { return len(t.raw.Data) }

// Row writes row i to dst, which holds Dim values. It panics when there is no such row:
// callers check ids first.
func (t Table) Row(dst []float32, i int) { t.raw.Float32s(dst[:t.Dim()], i*t.Dim()) }

// Packed returns the table as a matrix of Rows outputs and Dim inputs, in the arithmetic of
// the scope it was read through: the output layer of a model whose embeddings are tied.
func (t Table) Packed() *kernel.Packed {
	if t.dtype == kernel.F16W && t.raw.DType == F16 || t.dtype == kernel.BF16W && t.raw.DType == BF16 {
		return kernel.PackRaw16(t.Rows(), t.Dim(), t.dtype, halves(t.raw.Data))
	}
	return kernel.Pack(t.Rows(), t.Dim(), t.dtype, func(i int, dst []float32) { t.Row(dst, i) })
}

// littleEndian reports the byte order of this machine.
var littleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// halves sees little-endian bytes as 16-bit words, without a copy where the machine allows.
func halves(b []byte) []uint16 {
	if len(b) < 2 {
		return nil
	}
	p := unsafe.Pointer(unsafe.SliceData(b))
	if littleEndian && uintptr(p)%2 == 0 {
		return unsafe.Slice((*uint16)(p), len(b)/2)
	}
	out := make([]uint16, len(b)/2)
	for i := range out {
		out[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return out
}
