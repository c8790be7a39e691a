package vision

import (
	"math"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/internal/nn"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// head is SigLIP's attention pooling: a learned probe attends over all tokens, followed by a
// norm and a feed-forward with a residual.
type head struct {
	q    tensor.Tensor // the projected probe, 1×1×Width
	k, v nn.Linear
	out  nn.Linear
	norm nn.LayerNorm
	mlp  nn.MLP
}

func newHead(s weights.Scope, c Config) *head {
	w := c.Width
	parts := nn.SplitLinear(s.At("attention"), "in_proj_weight", "in_proj_bias", w, w, w, w)
	h := &head{
		q: tensor.New(1, 1, w), k: parts[1], v: parts[2],
		out:  nn.NewLinear(s.At("attention", "out_proj"), w, w),
		norm: nn.NewLayerNorm(s.At("layernorm"), w, c.Eps),
		mlp: nn.MLP{
			Up:   nn.NewLinear(s.At("mlp", "fc1"), w, c.Hidden),
			Down: nn.NewLinear(s.At("mlp", "fc2"), c.Hidden, w),
			Act:  c.Act,
		},
	}
	parts[0].Into(h.q, s.Tensor("probe", 1, 1, w), kernel.Epilogue{})
	return h
}

// PooledWidth is the width of Pooled's result: that of the projection, else of the tower. It
// is 0 for a tower that pools nothing.
func (t *Tower) PooledWidth() int {
	switch {
	case t.project != nil:
		return t.Config.Projection
	case t.Config.Kind == CLIP || t.head != nil:
		return t.Config.Width
	}
	return 0
}

// Pooled returns one vector a picture as scratch, B×PooledWidth, from the tokens that Forward
// gave for the zero Features: CLIP's normed class token, projected if the tower has a
// projection (reported as image_embeds, else as pooler_output), or SigLIP's pooling head. It
// panics for a tower with PooledWidth 0.
func (t *Tower) Pooled(a *tensor.Arena, tokens tensor.Tensor) tensor.Tensor {
	if t.head != nil {
		return t.head.pool(a, t, tokens)
	}
	if t.Config.Kind != CLIP {
		panic("vision: this tower has no pooled output")
	}
	b, w := tokens.Dim(0), t.Config.Width
	x := a.New(b, w)
	for i := range b {
		copy(x.Row(i), tokens.At(i).Row(0))
	}
	t.post.Into(x, x)
	if t.project == nil {
		a.Emit("pooler_output", x)
		return x
	}
	y := nn.Linear{W: t.project}.Forward(a, x)
	a.Emit("image_embeds", y)
	return y
}

func (h *head) pool(a *tensor.Arena, t *Tower, tokens tensor.Tensor) tensor.Tensor {
	heads := nn.Heads{Heads: t.Config.Heads, Scale: float32(1 / math.Sqrt(float64(t.Config.Width/t.Config.Heads))), DType: h.out.W.DType()}
	b, w := tokens.Dim(0), t.Config.Width
	q := a.New(b, 1, w)
	for i := range b {
		copy(q.At(i).Data, h.q.Data)
	}
	x := h.out.Forward(a, heads.Attend(a, q, h.k.Forward(a, tokens), h.v.Forward(a, tokens)))
	y := h.mlp.ForwardAdd(a, h.norm.Forward(a, x), x)
	pooled := tensor.Of(y.Data, b, w)
	a.Emit("pooler_output", pooled)
	return pooled
}
