package perceiver

import (
	"math"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/internal/nn"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// normEps is every LayerNorm's epsilon: the reference never reads config.layer_norm_eps.
const normEps = 1e-5

// shape is what a layer's constructor needs to name and size its tensors.
type shape struct {
	query, key   int // widths of the query and key rows
	qk, v, heads int
	widening     int
	act          kernel.Act
}

// scale is 1/sqrt of the query/key width of a head.
func (p shape) scale() float32 { return float32(1 / math.Sqrt(float64(p.qk/p.heads))) }

// feedForward is x + Dense2(act(Dense1(LN(x)))), the second half of every layer.
type feedForward struct {
	norm nn.LayerNorm
	mlp  nn.MLP
}

func newFeedForward(s weights.Scope, width, widening int, act kernel.Act) feedForward {
	mlp := s.At("mlp")
	return feedForward{
		norm: nn.NewLayerNorm(s.At("layernorm"), width, normEps),
		mlp: nn.MLP{
			Up:   nn.NewLinear(mlp.At("dense1"), width, widening*width),
			Down: nn.NewLinear(mlp.At("dense2"), widening*width, width),
			Act:  act,
		},
	}
}

// add adds the feed-forward of x (…×width) to x, in blocks of rows that bound the scratch.
func (f feedForward) add(a *tensor.Arena, x tensor.Tensor) {
	c, rows := x.Cols(), x.Rows()
	const block = 2048
	for from := 0; from < rows; from += block {
		mark := a.Mark()
		n := min(block, rows-from)
		part := tensor.Of(x.Data[from*c:(from+n)*c], n, c)
		h := f.mlp.Up.ForwardAct(a, f.norm.Forward(a, part), f.mlp.Act)
		f.mlp.Down.Into(part, h, kernel.Epilogue{Add: true})
		a.Release(mark)
	}
}

// selfLayer is one layer of the latent tower: x += Attend(LN(x)), then the feed-forward.
type selfLayer struct {
	norm              nn.LayerNorm
	query, key, value nn.Linear
	output            nn.Linear
	heads             nn.Heads
	ff                feedForward
}

func newSelfLayer(s weights.Scope, p shape) selfLayer {
	att := s.At("attention")
	self := att.At("self")
	return selfLayer{
		norm:   nn.NewLayerNorm(self.At("layernorm1"), p.query, normEps),
		query:  nn.NewLinear(self.At("query"), p.query, p.qk),
		key:    nn.NewLinear(self.At("key"), p.query, p.qk),
		value:  nn.NewLinear(self.At("value"), p.query, p.v),
		output: nn.NewLinear(att.At("output", "dense"), p.v, p.query),
		heads:  nn.Heads{Heads: p.heads, Scale: p.scale(), DType: s.ComputeDType()},
		ff:     newFeedForward(s, p.query, p.widening, p.act),
	}
}

// forward changes x (B×N×D) in place.
func (l *selfLayer) forward(a *tensor.Arena, x tensor.Tensor) {
	mark := a.Mark()
	n := l.norm.Forward(a, x)
	q, k, v := l.query.Forward(a, n), l.key.Forward(a, n), l.value.Forward(a, n)
	l.output.Into(x, l.heads.Attend(a, q, k, v), kernel.Epilogue{Add: true})
	a.Release(mark)
	l.ff.add(a, x)
}
