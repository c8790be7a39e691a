package weights

import (
	"fmt"
	"math"
	"math/bits"
)

// DType is a stored element type, spelled as safetensors does.
type DType string

// The element types this package reads. Eight-bit floats and packed types are refused by
// name.
const (
	F64  DType = "F64"
	F32  DType = "F32"
	F16  DType = "F16"
	BF16 DType = "BF16"
	I64  DType = "I64"
	I32  DType = "I32"
	I16  DType = "I16"
	I8   DType = "I8"
	U64  DType = "U64"
	U32  DType = "U32"
	U16  DType = "U16"
	U8   DType = "U8"
	Bool DType = "BOOL"
)

// Size is the width of one element in bytes, 0 for an unknown type.
func (d DType) Size() int {
	switch d {
	case F64, I64, U64:
		return 8
	case F32, I32, U32:
		return 4
	case F16, BF16, I16, U16:
		return 2
	case I8, U8, Bool:
		return 1
	}
	return 0
}

// Float reports whether d is a floating-point type.
func (d DType) Float() bool { return d == F64 || d == F32 || d == F16 || d == BF16 }

// maxAxes bounds the axes of a stored tensor.
const maxAxes = 64

// byteSize returns the elements and bytes of a shape, or an error when they overflow.
func byteSize(d DType, shape []int) (elems, bytes int64, err error) {
	size := uint64(d.Size())
	if size == 0 {
		return 0, 0, fmt.Errorf("dtype %q is not supported", clip(string(d)))
	}
	if len(shape) > maxAxes {
		return 0, 0, fmt.Errorf("%d axes, at most %d", len(shape), maxAxes)
	}
	n, empty := uint64(1), false
	for _, s := range shape {
		if s < 0 {
			return 0, 0, fmt.Errorf("shape %v has a negative axis", shape)
		}
		if s == 0 {
			empty = true
			continue
		}
		hi, lo := bits.Mul64(n, uint64(s))
		if hi != 0 {
			return 0, 0, fmt.Errorf("shape %v overflows", shape)
		}
		n = lo
	}
	if empty {
		return 0, 0, nil
	}
	hi, lo := bits.Mul64(n, size)
	if hi != 0 || lo > math.MaxInt64 || lo > math.MaxInt {
		return 0, 0, fmt.Errorf("shape %v of %s overflows", shape, d)
	}
	return int64(n), int64(lo), nil
}

// clip shortens foreign text for a message.
func clip(s string) string {
	const most = 120
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}
