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

func (m MLP) run(a *tensor.Arena, x, residual tensor.Tensor) tensor.Tensor {
	dst := like(a, x, m.Down.Out())
	mark := a.Mark()
	h := m.Up.ForwardAct(a, x, m.Act)
	e := kernel.Epilogue{}
	if residual.Data != nil {
		e.Residual, e.LDR = residual.Data, m.Down.Out()
	}
	m.Down.Into(dst, h, e)
	a.Release(mark)
	return dst
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

func (m GatedMLP) run(a *tensor.Arena, x, residual tensor.Tensor) tensor.Tensor {
	dst := like(a, x, m.Down.Out())
	mark := a.Mark()
	g := m.Gate.ForwardAct(a, x, m.Act)
	u := m.Up.Forward(a, x)
	kernel.Mul(g.Data, g.Data, u.Data)
	e := kernel.Epilogue{}
	if residual.Data != nil {
		e.Residual, e.LDR = residual.Data, m.Down.Out()
	}
	m.Down.Into(dst, g, e)
	a.Release(mark)
	return dst
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
