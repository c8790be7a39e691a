package flamingo

import (
	"fmt"
	"math"
	"strconv"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/internal/nn"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// Model is a loaded language model. It never changes and is safe for concurrent use; what a
// conversation computes is in its Sequence.
type Model struct {
	Config Config

	embed     weights.Table
	extra     weights.Table // Idefics' additional tokens; zero value without
	positions tensor.Tensor // learned positions, rows×Width; empty for none
	offset    int           // rows of positions before that of the first token
	projIn    *nn.Linear    // OPT-350m: embedding width → Width, and back
	projOut   *nn.Linear
	layers    []layer
	final     norm
	head      *kernel.Packed
	headExtra *kernel.Packed
	slopes    []float32 // ALiBi, one a head
	inverse   []float32 // rotary frequencies of a text within the trained context
}

// layer is one decoder layer and the gated cross-attention before it.
type layer struct {
	cross        *gated // nil for none
	norm1, norm2 norm
	qkv          []nn.Linear // one, or queries, keys, values
	perHead      bool        // one weight, ordered head by head (GPT-NeoX)
	normQ, normK *norm
	out          nn.Linear
	ff           feedForward
	id           string // reported name of the layer's output
}

// feedForward is nn.MLP or nn.GatedMLP.
type feedForward interface {
	Forward(a *tensor.Arena, x tensor.Tensor) tensor.Tensor
	ForwardAdd(a *tensor.Arena, x, residual tensor.Tensor) tensor.Tensor
	AddTo(a *tensor.Arena, dst, x tensor.Tensor)
}

// norm is a LayerNorm (beta nil when the model has no biases) or an RMSNorm.
type norm struct {
	gamma, beta []float32
	eps         float32
	rms         bool
}

func layerNorm(s weights.Scope, n int, eps float32, bias bool) norm {
	m := norm{gamma: s.Tensor("weight", n).Data, eps: eps}
	if bias {
		m.beta = s.Tensor("bias", n).Data
	}
	return m
}

func rmsNorm(s weights.Scope, n int, eps float32) norm {
	return norm{gamma: s.Tensor("weight", n).Data, eps: eps, rms: true}
}

// apply normalises rows of x (len(gamma) values each, contiguous) into dst.
func (m norm) apply(dst, x []float32, rows int) {
	n := len(m.gamma)
	if m.rms {
		kernel.RMSNorm(dst, x, n, n, rows, n, m.gamma, m.eps)
		return
	}
	kernel.LayerNorm(dst, x, n, n, rows, n, m.gamma, m.beta, m.eps)
}

// linear reads a layer whose weights stay in 16 bits when they are stored so.
func linear(s weights.Scope, in, out int, bias bool) nn.Linear {
	l := nn.Linear{W: s.AsStored("weight").Linear("weight", out, in)}
	if bias {
		l.Bias = s.Tensor("bias", out).Data
	}
	return l
}

// New reads a language model whose published names begin directly below s ("gpt_neox.…",
// "transformer.…", "model.…"). OpenFlamingo's parts are joined first by Assemble, and their
// place is s.At("lang_encoder").
func New(s weights.Scope, c Config) (*Model, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	m := &Model{Config: c}
	switch c.Arch {
	case GPTNeoX:
		m.gptNeoX(s)
	case MPT:
		m.mpt(s)
	case LLaMA:
		m.llama(s)
	case OPT:
		m.opt(s)
	default:
		return nil, fmt.Errorf("flamingo: unknown decoder %q", c.Arch)
	}
	for i := range m.layers {
		m.layers[i].id = "layers." + strconv.Itoa(i) + ".out"
	}
	if c.RotaryDim > 0 {
		m.inverse = c.frequencies(0)
	}
	if c.ALiBiMax > 0 {
		m.slopes = alibiSlopes(c.Heads, c.ALiBiMax)
	}
	return m, nil
}

// headOf reads the output layer: its own weight, or the embedding of a tied model. A tied
// model's file may hold the weight a second time.
//
// A released OpenFlamingo checkpoint over a LLaMA holds the resized embedding but not the
// resized output layer (its filter keeps names with "embed"): the base model's rows are then
// all there are, and the added tokens get the lowest logit, so they are never chosen.
func (m *Model) headOf(s weights.Scope, name string) {
	c, at := m.Config, s.AsStored(name)
	if c.Tied {
		s.Ignore(name)
		m.head = m.embed.Packed()
		return
	}
	rows := c.Vocab
	if shape := s.Shape(name); c.Cross != nil && c.Cross.Kind == OpenFlamingoCross && len(shape) == 2 && shape[0] < rows {
		rows = shape[0]
	}
	m.head = at.Linear(name, rows, c.embedWidth())
}

// Scored is the number of tokens that have a row in the output layer: fewer than Vocab only
// for an OpenFlamingo checkpoint without its resized output layer.
func (m *Model) Scored() int { return m.head.N() }

// table reads an embedding; tied heads keep its 16 bits.
func table(s weights.Scope, name string, rows, dim int) weights.Table {
	return s.AsStored(name).Table(name, rows, dim)
}

// Bytes is the memory that a token of a sequence holds in keys and values.
func (c Config) Bytes() int { return 2 * 4 * c.Layers * c.KVHeads * c.HeadDim }

// alibiSlopes are the per-head slopes of ALiBi (arXiv 2108.12409) as MPT makes them: heads
// rounded up to a power of two, odd places first.
func alibiSlopes(heads int, top float64) []float32 {
	n := 1
	for n < heads {
		n *= 2
	}
	all := make([]float32, n)
	for i := range all {
		base := float32(i+1) * float32(top/float64(n))
		all[i] = 1 / float32(math.Pow(2, float64(base)))
	}
	if n == heads {
		return all
	}
	var mixed []float32
	for i := 1; i < n; i += 2 {
		mixed = append(mixed, all[i])
	}
	for i := 0; i < n; i += 2 {
		mixed = append(mixed, all[i])
	}
	return mixed[:heads]
}
