package weights

import (
	"encoding/binary"
	"fmt"
	"math"
	"unsafe"

	"github.com/mmserve/mmserve/tensor"
)

// Raw is a tensor as stored: little-endian, row-major. Data may be mapped from a file: it
// must not be written, and it is gone once its source is closed.
type Raw struct {
	DType DType
	Shape []int
	Data  []byte
}

// Numel is the number of elements.
func (r Raw) Numel() int {
	if s := r.DType.Size(); s > 0 {
		return len(r.Data) / s
	}
	return 0
}

// Float32s writes elements from, from+1, … to dst as float32, as many as dst holds. Halves
// widen exactly; doubles and wide integers round to nearest even; a boolean is 0 or 1.
func (r Raw) Float32s(dst []float32, from int) {
	size := r.DType.Size()
	b := r.Data[from*size : (from+len(dst))*size]
	switch r.DType {
	case F32:
		if littleEndian && len(dst) > 0 {
			copy(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(dst))), 4*len(dst)), b)
			return
		}
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
		}
	case F16:
		for i := range dst {
			dst[i] = F16ToF32(binary.LittleEndian.Uint16(b[2*i:]))
		}
	case BF16:
		for i := range dst {
			dst[i] = BF16ToF32(binary.LittleEndian.Uint16(b[2*i:]))
		}
	case F64:
		for i := range dst {
			dst[i] = float32(math.Float64frombits(binary.LittleEndian.Uint64(b[8*i:])))
		}
	case U64:
		for i := range dst {
			dst[i] = float32(binary.LittleEndian.Uint64(b[8*i:]))
		}
	default:
		for i := range dst {
			dst[i] = float32(r.int(b, i))
		}
	}
}

// int reads element i of an integer or boolean array.
func (r Raw) int(b []byte, i int) int64 {
	switch r.DType {
	case I64, U64:
		return int64(binary.LittleEndian.Uint64(b[8*i:]))
	case I32:
		return int64(int32(binary.LittleEndian.Uint32(b[4*i:])))
	case U32:
		return int64(binary.LittleEndian.Uint32(b[4*i:]))
	case I16:
		return int64(int16(binary.LittleEndian.Uint16(b[2*i:])))
	case U16:
		return int64(binary.LittleEndian.Uint16(b[2*i:]))
	case I8:
		return int64(int8(b[i]))
	case U8:
		return int64(b[i])
	case Bool:
		if b[i] != 0 {
			return 1
		}
		return 0
	}
	panic("weights: no element type " + string(r.DType))
}

// Tensor returns a float32 copy.
func (r Raw) Tensor() tensor.Tensor {
	out := make([]float32, r.Numel())
	r.Float32s(out, 0)
	return tensor.Of(out, r.Shape...)
}

// Ints returns the elements of an integer or boolean tensor, and an error for other types.
func (r Raw) Ints() ([]int, error) {
	if r.DType.Float() || r.DType.Size() == 0 {
		return nil, fmt.Errorf("weights: integers wanted, have %s", r.DType)
	}
	out := make([]int, r.Numel())
	for i := range out {
		out[i] = int(r.int(r.Data, i))
	}
	return out, nil
}

// Encode stores t as dt, one of F32, F16, BF16 (rounded to nearest even) and F64.
func Encode(t tensor.Tensor, dt DType) (Raw, error) {
	size := dt.Size()
	if !dt.Float() {
		return Raw{}, fmt.Errorf("weights: cannot store floats as %s", dt)
	}
	data := make([]byte, 0, size*len(t.Data))
	return Raw{DType: dt, Shape: append([]int{}, t.Shape...), Data: appendFloats(data, t.Data, dt)}, nil
}

// appendFloats appends v as little-endian elements of the floating type dt.
func appendFloats(b []byte, v []float32, dt DType) []byte {
	for _, x := range v {
		switch dt {
		case F32:
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
		case F16:
			b = binary.LittleEndian.AppendUint16(b, F32ToF16(x))
		case BF16:
			b = binary.LittleEndian.AppendUint16(b, F32ToBF16(x))
		case F64:
			b = binary.LittleEndian.AppendUint64(b, math.Float64bits(float64(x)))
		}
	}
	return b
}
