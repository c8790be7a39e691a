package nn

import (
	"fmt"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// Linear is y = x·Wᵀ + b, with W stored out×in as PyTorch does.
type Linear struct {
	W    *kernel.Packed
	Bias []float32 // nil for none
}

// NewLinear reads "weight" (out×in) and "bias" (out) of the scope.
func NewLinear(s weights.Scope, in, out int) Linear {
	return Linear{W: s.Linear("weight", out, in), Bias: s.Tensor("bias", out).Data}
}

// NewLinearNoBias reads "weight" (out×in) of the scope.
func NewLinearNoBias(s weights.Scope, in, out int) Linear {
	return Linear{W: s.Linear("weight", out, in)}
}

// Out is the width of the result.
func (l Linear) Out() int { return l.W.N() }

// Into writes x·Wᵀ + b into dst: x is …×in, dst …×out. The epilogue's own Bias is replaced.
func (l Linear) Into(dst, x tensor.Tensor, e kernel.Epilogue) {
	m := x.Rows()
	if x.Cols() != l.W.K() || dst.Cols() != l.W.N() || dst.Rows() != m {
		panic(fmt.Sprintf("nn: linear %d→%d given %v → %v", l.W.K(), l.W.N(), x.Shape, dst.Shape))
	}
	e.Bias = l.Bias
	kernel.Gemm(dst.Data, l.W.N(), x.Data, l.W.K(), m, l.W, e)
}

// Forward returns x·Wᵀ + b as scratch: x is …×in, the result …×out.
func (l Linear) Forward(a *tensor.Arena, x tensor.Tensor) tensor.Tensor {
	return l.ForwardAct(a, x, kernel.Identity)
}

// ForwardAct is Forward with an activation applied to the result.
func (l Linear) ForwardAct(a *tensor.Arena, x tensor.Tensor, act kernel.Act) tensor.Tensor {
	dst := like(a, x, l.W.N())
	l.Into(dst, x, kernel.Epilogue{Act: act})
	return dst
}

// ForwardAdd returns residual + x·Wᵀ + b; residual has the result's shape.
func (l Linear) ForwardAdd(a *tensor.Arena, x, residual tensor.Tensor) tensor.Tensor {
	dst := like(a, x, l.W.N())
	l.Into(dst, x, kernel.Epilogue{Residual: residual.Data, LDR: l.W.N()})
	return dst
}

// like makes scratch with x's leading axes and n columns.
func like(a *tensor.Arena, x tensor.Tensor, n int) tensor.Tensor {
	var buf [8]int
	shape := append(buf[:0], x.Shape...)
	shape[len(shape)-1] = n
	return a.New(shape...)
}
