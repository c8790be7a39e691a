package tensor

import "fmt"

// Tensor is a dense float32 array in row-major order. len(Data) is the product of Shape.
type Tensor struct {
	Data  []float32
	Shape []int
}

// New returns a zeroed tensor of the shape.
func New(shape ...int) Tensor {
	return Tensor{Data: make([]float32, Size(shape)), Shape: append([]int(nil), shape...)}
}

// Of wraps data (not copied) in a shape. It panics when the sizes differ.
func Of(data []float32, shape ...int) Tensor {
	if len(data) != Size(shape) {
		panic(fmt.Sprintf("tensor: %d values for shape %v", len(data), shape))
	}
	return Tensor{Data: data, Shape: append([]int(nil), shape...)}
}

// Size is the number of values of a shape; the empty shape holds one.
func Size(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}

// Dim returns the size of axis i; negative i counts from the end.
func (t Tensor) Dim(i int) int {
	if i < 0 {
		i += len(t.Shape)
	}
	return t.Shape[i]
}

// Cols is the size of the last axis (1 for a scalar).
func (t Tensor) Cols() int {
	if len(t.Shape) == 0 {
		return 1
	}
	return t.Shape[len(t.Shape)-1]
}

// Rows is the product of all axes but the last.
func (t Tensor) Rows() int {
	if len(t.Shape) == 0 {
		return 1
	}
	return Size(t.Shape[:len(t.Shape)-1])
}

// Row returns row i of the tensor seen as Rows()×Cols().
func (t Tensor) Row(i int) []float32 {
	c := t.Cols()
	return t.Data[i*c : (i+1)*c : (i+1)*c]
}

// At returns element i of the first axis: shape Shape[1:], sharing the data.
func (t Tensor) At(i int) Tensor {
	n := Size(t.Shape[1:])
	return Tensor{Data: t.Data[i*n : (i+1)*n : (i+1)*n], Shape: t.Shape[1:]}
}

// Slice returns elements [from,to) of the first axis, sharing the data.
func (t Tensor) Slice(from, to int) Tensor {
	n := Size(t.Shape[1:])
	shape := append([]int{to - from}, t.Shape[1:]...)
	return Tensor{Data: t.Data[from*n : to*n : to*n], Shape: shape}
}

// Reshape returns the same data under another shape of the same size.
func (t Tensor) Reshape(shape ...int) Tensor { return Of(t.Data, shape...) }

// Clone returns a copy that shares nothing.
func (t Tensor) Clone() Tensor {
	return Tensor{Data: append([]float32(nil), t.Data...), Shape: append([]int(nil), t.Shape...)}
}
