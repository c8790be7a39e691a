package vision

import (
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/internal/nn"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// Tower is a loaded vision transformer. It never changes and is safe for concurrent use.
type Tower struct {
	Config Config

	patch     nn.Conv2D
	class     []float32     // CLIP: the class token, Width
	positions tensor.Tensor // rows×Width
	pre, post *nn.LayerNorm // nil where the family has none
	layers    []layer
	project   *kernel.Packed // CLIP with a projection
	head      *head          // SigLIP
	scale     float32
	ids       []string // hidden_states.I
}

// layer is one pre-norm transformer layer.
type layer struct {
	norm1, norm2 nn.LayerNorm
	qkv          []nn.Linear // queries, keys, values
	out          nn.Linear
	mlp          nn.MLP
}

// New reads a tower whose "vision_model" lies directly below s; a "visual_projection"
// stands beside it.
func New(s weights.Scope, c Config) (*Tower, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	v := s.At("vision_model")
	emb := v.At("embeddings")
	emb.Ignore("position_ids") // a buffer of old files
	t := &Tower{Config: c, scale: float32(1 / math.Sqrt(float64(c.Width/c.Heads)))}
	t.patch = nn.NewConv2D(emb.At("patch_embedding"), c.Channels, c.Width, c.Patch, c.Patch, 0, c.Kind != CLIP)
	t.positions = emb.At("position_embedding").Tensor("weight", c.Tokens(), c.Width)
	post := nn.NewLayerNorm(v.At("post_layernorm"), c.Width, c.Eps)
	t.post = &post
	if c.Kind == CLIP {
		t.class = emb.Tensor("class_embedding", c.Width).Data
		pre := nn.NewLayerNorm(v.At("pre_layrnorm"), c.Width, c.Eps) // the published spelling
		t.pre = &pre
	}
	for i := range c.Layers {
		t.layers = append(t.layers, newLayer(v.At("encoder", "layers").Index(i), c))
	}
	switch {
	case c.Projection > 0 && c.Fused:
		t.project = v.LinearT("proj", c.Projection, c.Width)
	case c.Projection > 0:
		t.project = s.At("visual_projection").Linear("weight", c.Projection, c.Width)
	}
	if c.Head {
		t.head = newHead(v.At("head"), c)
	}
	for i := range c.Layers + 1 {
		t.ids = append(t.ids, "hidden_states."+strconv.Itoa(i))
	}
	return t, nil
}

func newLayer(s weights.Scope, c Config) layer {
	at, w := s.At("self_attn"), c.Width
	l := layer{
		norm1: nn.NewLayerNorm(s.At("layer_norm1"), w, c.Eps),
		norm2: nn.NewLayerNorm(s.At("layer_norm2"), w, c.Eps),
		out:   nn.NewLinear(at.At("out_proj"), w, w),
		mlp: nn.MLP{
			Up:   nn.NewLinear(s.At("mlp").At("fc1"), w, c.Hidden),
			Down: nn.NewLinear(s.At("mlp").At("fc2"), c.Hidden, w),
			Act:  c.Act,
		},
	}
	if c.Fused {
		l.qkv = nn.SplitLinear(at, "in_proj_weight", "in_proj_bias", w, w, w, w)
	} else {
		l.qkv = []nn.Linear{
			nn.NewLinear(at.At("q_proj"), w, w), nn.NewLinear(at.At("k_proj"), w, w), nn.NewLinear(at.At("v_proj"), w, w),
		}
	}
	return l
}

func (l *layer) queries(dst, h tensor.Tensor) { l.qkv[0].Into(dst, h, kernel.Epilogue{}) }

func (l *layer) keysValues(k, v, h tensor.Tensor) {
	l.qkv[1].Into(k, h, kernel.Epilogue{})
	l.qkv[2].Into(v, h, kernel.Epilogue{})
}

// Input is a batch of pictures of one size.
type Input struct {
	Pixels tensor.Tensor // B×H×W×Channels, normalised
	// Masks marks the real patches of each picture, in raster order over the grid; nil means
	// all. Only Idefics2 reads it, whose pictures are padded at the right and bottom.
	Masks [][]bool
}

// Features says which tokens to return. The zero value is what Hugging Face calls
// last_hidden_state.
type Features struct {
	Skip      int  // leave out that many last layers; with any, the final norm too
	DropClass bool // without the class token of a CLIP tower
}

// Forward returns the tokens of each picture as scratch, B×T×Width; rows of masked patches
// are computed too, as the reference does, and mean nothing. Stages go to Trace as
// embeddings, hidden_states.I and last_hidden_state.
func (t *Tower) Forward(a *tensor.Arena, in Input, f Features) (tensor.Tensor, error) {
	if err := t.check(in, f); err != nil {
		return tensor.Tensor{}, err
	}
	gh, gw := t.patch.Size(in.Pixels.Dim(1), in.Pixels.Dim(2))
	b, count := in.Pixels.Dim(0), gh*gw
	if t.class != nil {
		count++
	}
	out := a.New(b, count, t.Config.Width)
	mark := a.Mark()
	p := order(b, count, in.Masks)
	x := out
	if p.perm != nil {
		x = a.New(b, count, t.Config.Width)
	}
	t.embed(a, x, in, p)
	for i := range len(t.layers) - f.Skip {
		t.emit(a, t.ids[i], x, p)
		t.layer(a, &t.layers[i], x, p)
	}
	t.emit(a, t.ids[len(t.layers)-f.Skip], x, p)
	if t.Config.Kind != CLIP && f.Skip == 0 {
		t.post.Into(x, x)
	}
	if p.perm != nil {
		p.restore(out, x)
	}
	a.Release(mark)
	if f.Skip == 0 {
		a.Emit("last_hidden_state", out)
	}
	if f.DropClass && t.class != nil {
		return dropClass(out), nil
	}
	return out, nil
}

// dropClass closes the gap that token 0 of each picture leaves, in place.
func dropClass(x tensor.Tensor) tensor.Tensor {
	b, n, w := x.Dim(0), x.Dim(1), x.Dim(2)
	for i := range b {
		copy(x.Data[i*(n-1)*w:(i+1)*(n-1)*w], x.At(i).Data[w:])
	}
	return tensor.Of(x.Data[:b*(n-1)*w], b, n-1, w)
}

func (t *Tower) check(in Input, f Features) error {
	s, c := in.Pixels.Shape, t.Config
	if len(s) != 4 || s[0] < 1 || s[3] != c.Channels {
		return fmt.Errorf("vision: input: want pictures×height×width×%d, got shape %v", c.Channels, s)
	}
	if c.Kind != Idefics2 && (s[1] != c.Image || s[2] != c.Image) {
		return fmt.Errorf("vision: input: picture size of %s: want %d×%d, got %d×%d", c.Kind, c.Image, c.Image, s[1], s[2])
	}
	if s[1] < c.Patch || s[2] < c.Patch {
		return fmt.Errorf("vision: input: picture of %d×%d is smaller than a patch of %d", s[1], s[2], c.Patch)
	}
	if s[1] > maxSize || s[2] > maxSize {
		return fmt.Errorf("vision: input: picture of %d×%d: limit is %d", s[1], s[2], maxSize)
	}
	if f.Skip < 0 || f.Skip > c.Layers {
		return fmt.Errorf("vision: features: skip %d of %d layers", f.Skip, c.Layers)
	}
	if in.Masks == nil {
		return nil
	}
	gh, gw := t.patch.Size(s[1], s[2])
	if c.Kind != Idefics2 || len(in.Masks) != s[0] {
		return fmt.Errorf("vision: input: %d patch masks for %d pictures of %s", len(in.Masks), s[0], c.Kind)
	}
	for i, m := range in.Masks {
		if len(m) != gh*gw {
			return fmt.Errorf("vision: input: patch mask of picture %d: want %d×%d, got %d values", i, gh, gw, len(m))
		}
		if !slices.Contains(m, true) {
			return fmt.Errorf("vision: input: picture %d has no real patch", i)
		}
	}
	return nil
}

// blockRows bounds the rows whose queries are held at once.
const blockRows = 1024

// layer runs one transformer layer over x in place. Keys and values are held whole; norms,
// queries and attention outputs a block of rows at a time.
func (t *Tower) layer(a *tensor.Arena, l *layer, x tensor.Tensor, p patches) {
	mark := a.Mark()
	defer a.Release(mark)
	w, n := t.Config.Width, x.Dim(1)
	all := x.Reshape(x.Rows(), w)
	k, v := a.New(all.Shape...), a.New(all.Shape...)
	h := a.New(min(blockRows, all.Rows()), w)
	for from := 0; from < all.Rows(); from += blockRows {
		to := min(from+blockRows, all.Rows())
		part := h.Slice(0, to-from)
		l.norm1.Into(part, all.Slice(from, to))
		l.keysValues(k.Slice(from, to), v.Slice(from, to), part)
	}
	q, o := a.New(h.Shape...), a.New(h.Shape...)
	args := kernel.AttnArgs{
		Heads: t.Config.Heads, KVHeads: t.Config.Heads, QK: w / t.Config.Heads, V: w / t.Config.Heads,
		Scale: t.scale, LDQ: w, LDK: w, LDV: w, LDO: w, DType: l.out.W.DType(),
	}
	for i := range x.Dim(0) {
		args.K, args.VV, args.S = k.Data[i*n*w:], v.Data[i*n*w:], p.real(i)
		for from := 0; from < n; from += blockRows {
			to := min(from+blockRows, n)
			rows := all.Slice(i*n+from, i*n+to)
			qb, ob := q.Slice(0, to-from), o.Slice(0, to-from)
			l.norm1.Into(ob, rows)
			l.queries(qb, ob)
			args.L, args.Q, args.Out = to-from, qb.Data, ob.Data
			kernel.Attention(&args)
			l.out.Into(rows, ob, kernel.Epilogue{Residual: rows.Data, LDR: w})
		}
	}
	for from := 0; from < all.Rows(); from += blockRows {
		to := min(from+blockRows, all.Rows())
		part := h.Slice(0, to-from)
		l.norm2.Into(part, all.Slice(from, to))
		l.mlp.AddTo(a, all.Slice(from, to), part)
	}
}

func (t *Tower) emit(a *tensor.Arena, name string, x tensor.Tensor, p patches) {
	if a.Trace == nil {
		return
	}
	out := tensor.New(x.Shape...)
	p.restore(out, x)
	a.Emit(name, out)
}
