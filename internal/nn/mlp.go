package nn

import (
	"fmt"
	"sort"
	"strings"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/tensor"
)

// MLP is Down(act(Up(x))), the feed-forward of a transformer layer.
type MLP struct {
	Up, Down Linear
	Act      kernel.Act
}

// Forward returns the feed-forward of x as scratch.
func (m MLP) Forward(a *tensor.Arena, x tensor.Tensor) tensor.Tensor {
	return m.run(a, x, tensor.Tensor{})
}

// ForwardAdd returns residual + MLP(x).
func (m MLP) ForwardAdd(a *tensor.Arena, x, residual tensor.Tensor) tensor.Tensor {
	return m.run(a, x, residual)
}

// AddTo adds MLP(x) to dst in place; dst has the result's shape.
func (m MLP) AddTo(a *tensor.Arena, dst, x tensor.Tensor) { m.into(a, dst, x, dst) }

func (m MLP) run(a *tensor.Arena, x, residual tensor.Tensor) tensor.Tensor {
	dst := like(a, x, m.Down.Out())
	m.into(a, dst, x, residual)
	return dst
}

func (m MLP) into(a *tensor.Arena, dst, x, residual tensor.Tensor) {
	byBlocks(x.Rows(), m.Up.Out(), func(from, to int) {
		mark := a.Mark()
		h := m.Up.ForwardAct(a, rowsOf(x, from, to), m.Act)
		m.Down.Into(rowsOf(dst, from, to), h, added(residual, from, m.Down.Out()))
		a.Release(mark)
	})
}

// hiddenValues bounds the widened rows of a feed-forward, in values (16 MiB): rows beyond it
// are computed in blocks, to the same bits.
const hiddenValues = 4 << 20

// byBlocks calls f for blocks of n rows, equal but for rounding, whose hidden values fit.
func byBlocks(n, hidden int, f func(from, to int)) {
	most := max(64, hiddenValues/max(hidden, 1))
	blocks := max(1, (n+most-1)/most)
	for i := range blocks {
		f(i*n/blocks, (i+1)*n/blocks)
	}
}

// rowsOf is rows [from,to) of x seen as a matrix.
func rowsOf(x tensor.Tensor, from, to int) tensor.Tensor {
	c := x.Cols()
	return tensor.Tensor{Data: x.Data[from*c : to*c], Shape: []int{to - from, c}}
}

// added is an epilogue that adds the residual's rows from a place on, n values each.
func added(residual tensor.Tensor, from, n int) kernel.Epilogue {
	if residual.Data == nil {
		return kernel.Epilogue{}
	}
	return kernel.Epilogue{Residual: residual.Data[from*n:], LDR: n}
}

// GatedMLP is Down(act(Gate(x)) ⊙ Up(x)), the feed-forward of LLaMA and its kin
// (arXiv 2002.05202).
type GatedMLP struct {
	Gate, Up, Down Linear
	Act            kernel.Act
}

// Forward returns the feed-forward of x as scratch.
func (m GatedMLP) Forward(a *tensor.Arena, x tensor.Tensor) tensor.Tensor {
	return m.run(a, x, tensor.Tensor{})
}

// ForwardAdd returns residual + GatedMLP(x).
func (m GatedMLP) ForwardAdd(a *tensor.Arena, x, residual tensor.Tensor) tensor.Tensor {
	return m.run(a, x, residual)
}

// AddTo adds GatedMLP(x) to dst in place; dst has the result's shape.
func (m GatedMLP) AddTo(a *tensor.Arena, dst, x tensor.Tensor) { m.into(a, dst, x, dst) }

func (m GatedMLP) run(a *tensor.Arena, x, residual tensor.Tensor) tensor.Tensor {
	dst := like(a, x, m.Down.Out())
	m.into(a, dst, x, residual)
	return dst
}

func (m GatedMLP) into(a *tensor.Arena, dst, x, residual tensor.Tensor) {
	byBlocks(x.Rows(), 2*m.Up.Out(), func(from, to int) {
		mark := a.Mark()
		part := rowsOf(x, from, to)
		g := m.Gate.ForwardAct(a, part, m.Act)
		u := m.Up.Forward(a, part)
		kernel.Mul(g.Data, g.Data, u.Data)
		m.Down.Into(rowsOf(dst, from, to), g, added(residual, from, m.Down.Out()))
		a.Release(mark)
	})
}

// activations are the names that published configurations use (transformers' ACT2FN).
var activations = map[string]kernel.Act{
	"gelu":              kernel.GELU,
	"gelu_new":          kernel.GELUTanh,
	"gelu_pytorch_tanh": kernel.GELUTanh,
	"gelu_fast":         kernel.GELUTanh,
	"quick_gelu":        kernel.QuickGELU,
	"relu":              kernel.ReLU,
	"silu":              kernel.SiLU,
	"swish":             kernel.SiLU,
	"tanh":              kernel.Tanh,
	"linear":            kernel.Identity,
}

// ParseAct returns the activation of a published configuration's name.
func ParseAct(name string) (kernel.Act, error) {
	if act, ok := activations[name]; ok {
		return act, nil
	}
	var known []string
	for k := range activations {
		known = append(known, k)
	}
	sort.Strings(known)
	return 0, fmt.Errorf("nn: unknown activation %q (known: %s)", name, strings.Join(known, ", "))
}
