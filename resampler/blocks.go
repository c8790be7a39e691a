package resampler

import (
	"cmp"
	"fmt"
	"math"
	"strconv"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/internal/nn"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// blocks is the Flamingo family: latents attend over (tokens ⊕ latents) Depth times, each
// followed by a feed-forward, all pre-norm with plain residuals.
type blocks struct {
	c       Config
	latents tensor.Tensor // Latents×Width

	frames, media tensor.Tensor // rows×In; empty for none
	positions     tensor.Tensor // rows×In; empty for none
	projection    *nn.GatedMLP  // Idefics2: vision width → text width
	projIn        *nn.Linear    // IPAdapter
	poolNorm      norm          // IPAdapter with MeanPooled
	pool          *nn.Linear

	layers  []layer
	projOut *nn.Linear
	last    norm
	lastOn  string // stage to report before the last norm; empty for none
}

// layer is one attention and one feed-forward over the latents.
type layer struct {
	normX, normZ norm
	q            nn.Linear
	kv           *nn.Linear // keys then values in one; nil when apart
	k, v         nn.Linear
	normQ, normK *norm // per head; nil for none
	out          nn.Linear
	normFF       norm
	ff           feedForward
	ids          stageNames
}

// feedForward is nn.MLP or nn.GatedMLP.
type feedForward interface {
	AddTo(a *tensor.Arena, dst, x tensor.Tensor)
}

// stageNames keeps the reported names of a layer, so that a pass makes no strings.
type stageNames struct{ attn, after, out string }

func namesOf(i int) stageNames {
	p := "layers." + strconv.Itoa(i)
	return stageNames{p + ".attn_out", p + ".after_attn", p + ".out"}
}

// norm is a LayerNorm or an RMSNorm over the last axis.
type norm struct {
	gamma, beta []float32
	eps         float32
	rms         bool
}

func layerNorm(s weights.Scope, n int, eps float32) norm {
	return norm{gamma: s.Tensor("weight", n).Data, beta: s.Tensor("bias", n).Data, eps: eps}
}

func rmsNorm(s weights.Scope, n int, eps float32) norm {
	return norm{gamma: s.Tensor("weight", n).Data, eps: eps, rms: true}
}

// apply normalises rows of x (n = len(gamma) values each, contiguous) into dst.
func (m norm) apply(dst, x []float32, rows int) {
	n := len(m.gamma)
	if m.rms {
		kernel.RMSNorm(dst, x, n, n, rows, n, m.gamma, m.eps)
		return
	}
	kernel.LayerNorm(dst, x, n, n, rows, n, m.gamma, m.beta, m.eps)
}

func newBlocks(s weights.Scope, c Config) *blocks {
	b := &blocks{c: c}
	switch c.Kind {
	case OpenFlamingo, Lucidrains:
		b.flamingo(s)
	case Idefics:
		b.idefics(s)
	case Idefics2:
		b.idefics2(s)
	case IPAdapter:
		b.ipAdapter(s)
	}
	for i := range b.layers {
		b.layers[i].ids = namesOf(i)
	}
	return b
}

func (b *blocks) flamingo(s weights.Scope) {
	c := b.c
	b.latents = s.Tensor("latents", c.Latents, c.Width)
	if c.Kind == Lucidrains {
		b.media = s.Tensor("media_pos_emb", c.MaxMedia, 1, c.Width).Reshape(c.MaxMedia, c.Width)
	} else {
		if c.MaxFrames > 0 {
			b.frames = s.Tensor("frame_embs", c.MaxFrames, c.Width)
		}
		if c.MaxMedia > 0 {
			b.media = s.Tensor("media_time_embs", c.MaxMedia, 1, c.Width).Reshape(c.MaxMedia, c.Width)
		}
	}
	for i := range c.Depth {
		b.layers = append(b.layers, fusedLayer(s.At("layers").Index(i), c, "norm_media", "norm_latents"))
	}
	b.last = layerNorm(s.At("norm"), c.Width, c.Eps)
}

// fusedLayer is a layer as lucidrains wrote it first: to_q, to_kv, to_out without biases, and
// a feed-forward kept as a list. OpenFlamingo and IP-Adapter kept its names.
func fusedLayer(s weights.Scope, c Config, normX, normZ string) layer {
	at, ff := s.Index(0), s.Index(1)
	inner := c.Heads * c.HeadDim
	kv := nn.NewLinearNoBias(at.At("to_kv"), c.Width, 2*inner)
	return layer{
		normX:  layerNorm(at.At(normX), c.Width, c.Eps),
		normZ:  layerNorm(at.At(normZ), c.Width, c.Eps),
		q:      nn.NewLinearNoBias(at.At("to_q"), c.Width, inner),
		kv:     &kv,
		out:    nn.NewLinearNoBias(at.At("to_out"), inner, c.Width),
		normFF: layerNorm(ff.Index(0), c.Width, c.Eps),
		ff: nn.MLP{
			Up:   nn.NewLinearNoBias(ff.Index(1), c.Width, c.Hidden),
			Down: nn.NewLinearNoBias(ff.Index(3), c.Hidden, c.Width),
			Act:  c.Act,
		},
	}
}

func (b *blocks) idefics(s weights.Scope) {
	c := b.c
	inner := c.Heads * c.HeadDim
	b.latents = s.Tensor("latents", c.Latents, c.Width)
	for i := range c.Depth {
		at, ff := s.At("blocks").Index(i).Index(0), s.At("blocks").Index(i).Index(1)
		l := layer{
			normX:  layerNorm(at.At("context_layer_norm"), c.Width, c.Eps),
			normZ:  layerNorm(at.At("latents_layer_norm"), c.Width, c.Eps),
			q:      nn.NewLinearNoBias(at.At("q_proj"), c.Width, inner),
			k:      nn.NewLinearNoBias(at.At("k_proj"), c.Width, inner),
			v:      nn.NewLinearNoBias(at.At("v_proj"), c.Width, inner),
			out:    nn.NewLinearNoBias(at.At("output_proj"), inner, c.Width),
			normFF: layerNorm(ff.At("ln"), c.Width, c.Eps),
			ff: nn.MLP{
				Up:   nn.NewLinearNoBias(ff.At("fc"), c.Width, c.Hidden),
				Down: nn.NewLinearNoBias(ff.At("c_proj"), c.Hidden, c.Width),
				Act:  c.Act,
			},
		}
		if c.QKNorm {
			q, k := layerNorm(at.At("q_layer_norm"), c.HeadDim, c.Eps), layerNorm(at.At("k_layer_norm"), c.HeadDim, c.Eps)
			l.normQ, l.normK = &q, &k
		}
		b.layers = append(b.layers, l)
	}
	b.last = layerNorm(s.At("layer_norm"), c.Width, c.Eps)
}

func (b *blocks) idefics2(s weights.Scope) {
	c := b.c
	b.projection = gatedMLP(s.At("modality_projection"), c.In, c.Projection, c.Width, c.Act)
	r := s.At("perceiver_resampler")
	b.latents = r.Tensor("latents", c.Latents, c.Width)
	kvHeads := cmp.Or(c.KVHeads, c.Heads)
	for i := range c.Depth {
		at := r.At("layers").Index(i)
		self := at.At("self_attn")
		b.layers = append(b.layers, layer{
			normX:  rmsNorm(at.At("input_context_norm"), c.Width, c.Eps),
			normZ:  rmsNorm(at.At("input_latents_norm"), c.Width, c.Eps),
			q:      nn.NewLinearNoBias(self.At("q_proj"), c.Width, c.Heads*c.HeadDim),
			k:      nn.NewLinearNoBias(self.At("k_proj"), c.Width, kvHeads*c.HeadDim),
			v:      nn.NewLinearNoBias(self.At("v_proj"), c.Width, kvHeads*c.HeadDim),
			out:    nn.NewLinearNoBias(self.At("o_proj"), c.Heads*c.HeadDim, c.Width),
			normFF: rmsNorm(at.At("post_attention_layernorm"), c.Width, c.Eps),
			ff:     *gatedMLP(at.At("mlp"), c.Width, c.Hidden, c.Width, c.Act),
		})
	}
	b.last = rmsNorm(r.At("norm"), c.Width, c.Eps)
}

func gatedMLP(s weights.Scope, in, hidden, out int, act kernel.Act) *nn.GatedMLP {
	return &nn.GatedMLP{
		Gate: nn.NewLinearNoBias(s.At("gate_proj"), in, hidden),
		Up:   nn.NewLinearNoBias(s.At("up_proj"), in, hidden),
		Down: nn.NewLinearNoBias(s.At("down_proj"), hidden, out),
		Act:  act,
	}
}

func (b *blocks) ipAdapter(s weights.Scope) {
	c := b.c
	if c.Positions > 0 {
		b.positions = s.At("pos_emb").Tensor("weight", c.Positions, c.In)
	}
	b.latents = s.Tensor("latents", 1, c.Latents, c.Width).Reshape(c.Latents, c.Width)
	in := nn.NewLinear(s.At("proj_in"), c.In, c.Width)
	out := nn.NewLinear(s.At("proj_out"), c.Width, c.Out)
	b.projIn, b.projOut = &in, &out
	if c.MeanPooled > 0 {
		p := s.At("to_latents_from_mean_pooled_seq")
		b.poolNorm = layerNorm(p.Index(0), c.Width, c.Eps)
		pool := nn.NewLinear(p.Index(1), c.Width, c.Width*c.MeanPooled)
		b.pool = &pool
	}
	for i := range c.Depth {
		b.layers = append(b.layers, fusedLayer(s.At("layers").Index(i), c, "norm1", "norm2"))
	}
	b.last, b.lastOn = layerNorm(s.At("norm_out"), c.Out, c.Eps), "proj_out"
}

func (b *blocks) check(in Input) error {
	v := in.X.Shape[1]
	frames := max(in.Frames, 1)
	if v%frames != 0 {
		return fmt.Errorf("resampler: input: %d tokens do not divide into %d frames", v, frames)
	}
	if n := b.frames.Rows(); b.frames.Data != nil && frames > n {
		return fmt.Errorf("resampler: input: %d frames, the checkpoint has embeddings for %d", frames, n)
	}
	if n := b.positions.Rows(); b.positions.Data != nil && v > n {
		return fmt.Errorf("resampler: input: %d tokens, the checkpoint has positions for %d", v, n)
	}
	if b.media.Data != nil {
		for i, t := range in.Media {
			if n := b.media.Rows(); t < 0 || t >= n {
				return fmt.Errorf("resampler: input: picture %d is number %d of its sequence, the checkpoint has embeddings for %d", i, t+1, n)
			}
		}
	}
	return nil
}

// rows are the tokens of a batch laid one picture after the other: picture i owns rows
// [start[i], start[i+1]) of x.
type rows struct {
	x     tensor.Tensor // total×width
	start []int
}

func (b *blocks) forward(a *tensor.Arena, in Input) tensor.Tensor {
	n := in.X.Dim(0)
	out := a.New(n, b.c.Count(), b.c.Out)
	mark := a.Mark()
	defer a.Release(mark)
	z := a.New(n, b.c.Count(), b.c.Width)
	if b.projection != nil && a.Trace == nil {
		b.start(a, z, rows{})
		ready := b.stream(a, in)
		for i := range b.layers {
			b.layer(a, &b.layers[i], z, rows{}, &ready[i])
		}
	} else {
		x := b.tokens(a, in)
		b.start(a, z, x)
		for i := range b.layers {
			b.layer(a, &b.layers[i], z, x, nil)
		}
	}
	b.finish(a, out, z)
	return out
}

// finish projects and normalises the latents into out.
func (b *blocks) finish(a *tensor.Arena, out, z tensor.Tensor) {
	if b.projOut != nil {
		z = b.projOut.Forward(a, z)
	}
	if b.lastOn != "" {
		a.Emit(b.lastOn, z)
	}
	b.last.apply(out.Data, z.Data, z.Rows())
}

// start writes the initial latents: those made from the mean of the tokens, then the learned.
func (b *blocks) start(a *tensor.Arena, z tensor.Tensor, x rows) {
	for i := range z.Dim(0) {
		copy(z.At(i).Data[b.c.MeanPooled*b.c.Width:], b.latents.Data)
	}
	if b.pool == nil {
		return
	}
	mark := a.Mark()
	mean := a.New(z.Dim(0), b.c.Width)
	for i := range z.Dim(0) {
		average(mean.Row(i), x.x.Slice(x.start[i], x.start[i+1]))
	}
	b.poolNorm.apply(mean.Data, mean.Data, mean.Rows())
	made := b.pool.Forward(a, mean)
	for i := range z.Dim(0) {
		copy(z.At(i).Data, made.Row(i))
	}
	a.Release(mark)
}

// average writes the mean of the rows of x into dst.
func average(dst []float32, x tensor.Tensor) {
	sum := make([]float64, len(dst))
	for r := range x.Rows() {
		for j, v := range x.Row(r) {
			sum[j] += float64(v)
		}
	}
	for j := range dst {
		dst[j] = float32(sum[j] / float64(x.Rows()))
	}
}

// layer updates the latents z (N×n×Width) by one attention and one feed-forward. The keys and
// values of the tokens are ready, or made from x.
func (b *blocks) layer(a *tensor.Arena, l *layer, z tensor.Tensor, x rows, ready *keysValues) {
	mark := a.Mark()
	defer a.Release(mark)
	branch := a.New(z.Shape...)
	b.attend(a, l, branch, z, x, ready)
	a.Emit(l.ids.attn, branch)
	kernel.Add(z.Data, z.Data, branch.Data)
	a.Emit(l.ids.after, z)
	l.normFF.apply(branch.Data, z.Data, z.Rows())
	l.ff.AddTo(a, z, branch)
	a.Emit(l.ids.out, z)
}

// attend writes the attention branch of the latents into dst: queries from the latents, keys
// and values from the tokens and the latents, both normalised.
func (b *blocks) attend(a *tensor.Arena, l *layer, dst, z tensor.Tensor, x rows, ready *keysValues) {
	c := b.c
	mark := a.Mark()
	defer a.Release(mark)
	n, count := z.Dim(0), z.Dim(1)
	zn := a.New(z.Shape...)
	l.normZ.apply(zn.Data, z.Data, z.Rows())
	q := l.q.Forward(a, zn)
	if l.normQ != nil {
		l.normQ.apply(q.Data, q.Data, q.Rows()*c.Heads)
	}
	kv := ready
	if kv == nil {
		made := l.room(a, x.start, count)
		kv = &made
		b.addTokens(a, l, kv, x)
	}
	for i := range n {
		l.project(kv, kv.start[i+1]-count, zn.At(i))
	}
	if l.normK != nil {
		l.normK.apply(kv.kt.Data, kv.kt.Data, kv.kt.Rows()*cmp.Or(c.KVHeads, c.Heads))
	}
	o := a.New(n, count, c.Heads*c.HeadDim)
	args := kernel.AttnArgs{
		Heads: c.Heads, KVHeads: cmp.Or(c.KVHeads, c.Heads), QK: c.HeadDim, V: c.HeadDim,
		Scale: float32(1 / math.Sqrt(float64(c.HeadDim))),
		L:     count, LDQ: q.Cols(), LDK: kv.ldk, LDV: kv.ldv, LDO: o.Cols(), DType: l.out.W.DType(),
	}
	for i := range n {
		at := kv.start[i]
		args.S = kv.start[i+1] - at
		args.Q, args.Out = q.At(i).Data, o.At(i).Data
		args.K, args.VV = kv.k[at*kv.ldk:], kv.v[at*kv.ldv:]
		kernel.Attention(&args)
	}
	l.out.Into(dst, o, kernel.Epilogue{})
}
