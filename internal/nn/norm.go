package nn

import (
	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// LayerNorm normalises the last axis and applies a learned scale and shift.
type LayerNorm struct {
	Gamma, Beta []float32 // Beta nil for none
	Eps         float32
}

// NewLayerNorm reads "weight" and "bias", both (n).
func NewLayerNorm(s weights.Scope, n int, eps float32) LayerNorm {
	return LayerNorm{Gamma: s.Tensor("weight", n).Data, Beta: s.Tensor("bias", n).Data, Eps: eps}
}

// Into writes the normalised rows of x into dst; the two may be the same.
func (l LayerNorm) Into(dst, x tensor.Tensor) {
	c := x.Cols()
	kernel.LayerNorm(dst.Data, x.Data, c, c, x.Rows(), c, l.Gamma, l.Beta, l.Eps)
}

// Forward returns the normalised rows of x as scratch.
func (l LayerNorm) Forward(a *tensor.Arena, x tensor.Tensor) tensor.Tensor {
	dst := a.New(x.Shape...)
	l.Into(dst, x)
	return dst
}
