package perceiver

import (
	"context"
	"fmt"
	"math"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/internal/nn"
	"github.com/mmserve/mmserve/internal/position"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// OriginalConfig is the configuration of the original Perceiver in the layout of its most used
// open implementation (lucidrains/perceiver-pytorch).
type OriginalConfig struct {
	InputChannels int // channels of the data, positions not counted
	InputAxes     int // 1 to 8: axes of the grid the data lies on
	NumLatents    int
	LatentDim     int
	CrossHeads    int
	LatentHeads   int
	CrossHeadDim  int
	LatentHeadDim int
	NumClasses    int
	Tied          bool // layers from the second on share their weights
	Fourier       bool // append the Fourier code of the grid
	SelfPerCross  int
	Head          bool // mean over latents, LayerNorm, Linear
	Bands         int
	Depth         int
	MaxFreq       float64
}

// ParseOriginalConfig reads a config.json; num_freq_bands, depth and max_freq have no defaults.
func ParseOriginalConfig(text []byte) (OriginalConfig, error) {
	f, err := parseFields(text)
	if err != nil {
		return OriginalConfig{}, err
	}
	c := OriginalConfig{
		InputChannels: f.integer("input_channels", 3, 1),
		InputAxes:     f.integer("input_axis", 2, 1),
		NumLatents:    f.integer("num_latents", 512, 1),
		LatentDim:     f.integer("latent_dim", 512, 1),
		CrossHeads:    f.integer("cross_heads", 1, 1),
		LatentHeads:   f.integer("latent_heads", 8, 1),
		CrossHeadDim:  f.integer("cross_dim_head", 64, 1),
		LatentHeadDim: f.integer("latent_dim_head", 64, 1),
		NumClasses:    f.integer("num_classes", 1000, 1),
		Tied:          f.flag("weight_tie_layers", false),
		Fourier:       f.flag("fourier_encode_data", true),
		SelfPerCross:  f.layers("self_per_cross_attn", 1, 0),
		Head:          f.flag("final_classifier_head", true),
		Bands:         f.integer("num_freq_bands", 1, 1),
		Depth:         f.layers("depth", 1, 1),
		MaxFreq:       f.number("max_freq", 1),
	}
	for _, key := range []string{"num_freq_bands", "depth", "max_freq"} {
		if !f.has(key) {
			f.fault("%q: required", key)
		}
	}
	if !(c.MaxFreq > 0 && c.MaxFreq < maxSize) {
		f.fault("%q: %v, want a number in (0, %d)", "max_freq", c.MaxFreq, maxSize)
	}
	if c.InputAxes > 8 {
		f.fault("%q: %d, want at most 8", "input_axis", c.InputAxes)
		c.InputAxes = 1
	}
	if f.has("inverted_cross_attn") && f.flag("inverted_cross_attn", false) {
		f.fault("%q: only false is supported", "inverted_cross_attn")
	}
	return c, f.err()
}

// code is the Fourier code of the grid: one highest frequency for all axes, axis by axis.
func (c OriginalConfig) code() position.Fourier {
	f := position.Fourier{Order: position.AxisByAxis}
	for range c.InputAxes {
		f.Bands = append(f.Bands, position.Linspace(1, float32(c.MaxFreq/2), c.Bands))
	}
	return f
}

// Original is the Perceiver of the first paper: latents attend to the input again and again, with
// self-attention in between; class scores come from their mean.
type Original struct {
	Config   OriginalConfig
	latents  tensor.Tensor
	layers   []originalLayer // Depth of them; tied ones share what they point to
	code     position.Fourier
	channels int
	norm     nn.LayerNorm
	logits   nn.Linear
	opt      Options
}

// originalLayer is one cross-attention and the latent transformer after it.
type originalLayer struct {
	cross originalAttention
	ff    originalFeedForward
	self  []originalSelf
}

type originalSelf struct {
	attention originalAttention
	ff        originalFeedForward
}

// originalAttention is x + Attend(LN(x), LN(context)); context is x itself when its norm is nil.
type originalAttention struct {
	norm    nn.LayerNorm
	context *nn.LayerNorm
	q, kv   nn.Linear // kv: keys, then values
	out     nn.Linear
	heads   nn.Heads
}

// originalFeedForward is x + Down(up ⊙ gelu(gate)) of LN(x).
type originalFeedForward struct {
	norm nn.LayerNorm
	mlp  nn.GatedMLP
}

func loadOriginal(config []byte, s weights.Scope, opt Options) (Network, error) {
	c, err := ParseOriginalConfig(config)
	if err != nil {
		return nil, err
	}
	m := &Original{Config: c, opt: opt, code: c.code(), channels: c.InputChannels}
	if c.Fourier {
		m.channels += m.code.Channels()
	}
	m.latents = s.Tensor("latents", c.NumLatents, c.LatentDim)
	for i := range c.Depth {
		if c.Tied && i > 1 {
			s.At("layers").Index(i).Ignore("*") // the same tensors under more names
			m.layers = append(m.layers, m.layers[1])
			continue
		}
		m.layers = append(m.layers, newOriginalLayer(s.At("layers").Index(i), c, m.channels))
	}
	if c.Head {
		m.norm = nn.NewLayerNorm(s.At("to_logits.1"), c.LatentDim, normEps)
		m.logits = nn.NewLinear(s.At("to_logits.2"), c.LatentDim, c.NumClasses)
	}
	return m, nil
}

func newOriginalLayer(s weights.Scope, c OriginalConfig, channels int) originalLayer {
	l := originalLayer{
		cross: newOriginalAttention(s.Index(0), c.LatentDim, channels, c.CrossHeads, c.CrossHeadDim),
		ff:    newOriginalFeedForward(s.Index(1), c.LatentDim),
	}
	for j := range c.SelfPerCross {
		self := s.Index(2).Index(j)
		l.self = append(l.self, originalSelf{
			attention: newOriginalAttention(self.Index(0), c.LatentDim, 0, c.LatentHeads, c.LatentHeadDim),
			ff:        newOriginalFeedForward(self.Index(1), c.LatentDim),
		})
	}
	return l
}

func newOriginalAttention(s weights.Scope, d, context, heads, width int) originalAttention {
	l := originalAttention{norm: nn.NewLayerNorm(s.At("norm"), d, normEps)}
	in := d
	if context > 0 {
		in = context
		n := nn.NewLayerNorm(s.At("norm_context"), context, normEps)
		l.context = &n
	}
	fn := s.At("fn")
	inner := heads * width
	l.q = nn.NewLinearNoBias(fn.At("to_q"), d, inner)
	l.kv = nn.NewLinearNoBias(fn.At("to_kv"), in, 2*inner)
	l.out = nn.NewLinear(fn.At("to_out"), inner, d)
	l.heads = nn.Heads{Heads: heads, Scale: float32(1 / math.Sqrt(float64(width))), DType: s.ComputeDType()}
	return l
}

func newOriginalFeedForward(s weights.Scope, d int) originalFeedForward {
	net := s.At("fn", "net")
	const widening = 4
	inner := widening * d
	w, b := net.Tensor("0.weight", 2*inner, d), net.Tensor("0.bias", 2*inner).Data
	half := func(from int) nn.Linear {
		return nn.Linear{
			W:    kernel.Pack(inner, d, s.ComputeDType(), func(i int, dst []float32) { copy(dst, w.Row(from+i)) }),
			Bias: b[from : from+inner],
		}
	}
	return originalFeedForward{
		norm: nn.NewLayerNorm(s.At("norm"), d, normEps),
		mlp:  nn.GatedMLP{Up: half(0), Gate: half(inner), Down: nn.NewLinear(net.At("2"), inner, d), Act: kernel.GELU},
	}
}

func (f originalFeedForward) add(a *tensor.Arena, x tensor.Tensor) {
	mark := a.Mark()
	copy(x.Data, f.mlp.ForwardAdd(a, f.norm.Forward(a, x), x).Data)
	a.Release(mark)
}

// addSelf adds self-attention over x (B×N×D) to x.
func (l *originalAttention) addSelf(a *tensor.Arena, x tensor.Tensor) {
	mark := a.Mark()
	defer a.Release(mark)
	n := l.norm.Forward(a, x)
	q, kv := l.q.Forward(a, n), l.kv.Forward(a, n)
	inner := q.Cols()
	mixed := a.New(x.Dim(0), x.Dim(1), inner)
	for b := range x.Dim(0) {
		args := kernel.AttnArgs{
			Heads: l.heads.Heads, QK: inner / l.heads.Heads, V: inner / l.heads.Heads, Scale: l.heads.Scale,
			L: x.Dim(1), S: x.Dim(1), Q: q.At(b).Data, LDQ: inner,
			K: kv.At(b).Data, LDK: 2 * inner, VV: kv.At(b).Data[inner:], LDV: 2 * inner,
			Out: mixed.At(b).Data, LDO: inner, DType: l.heads.DType,
		}
		kernel.Attention(&args)
	}
	l.out.Into(x, mixed, kernel.Epilogue{Add: true})
}

// addCross adds attention over the inputs to x (B×N×D); rows are read anew.
func (l *originalAttention) addCross(ctx context.Context, a *tensor.Arena, x tensor.Tensor, in []Input, opt Options) error {
	mark := a.Mark()
	defer a.Release(mark)
	q := l.q.Forward(a, l.norm.Forward(a, x))
	inner := q.Cols()
	mixed := a.New(x.Dim(0), x.Dim(1), inner)
	_, c := in[0].Rows.Dims()
	block := opt.block(max(c, 2*inner))
	kv := a.New(block, 2*inner)
	for b := range in {
		s := kernel.Stream{DType: l.heads.DType}
		s.Start(l.heads.Heads, 0, inner/l.heads.Heads, inner/l.heads.Heads, x.Dim(1), l.heads.Scale, q.At(b).Data, inner)
		inMark := a.Mark()
		err := eachBlock(ctx, a, in[b], block, func(rows tensor.Tensor, bias []float32) {
			l.context.Into(rows, rows)
			n := rows.Dim(0)
			l.kv.Into(kv.Slice(0, n), rows, kernel.Epilogue{})
			s.Add(kv.Data, 2*inner, kv.Data[inner:], 2*inner, n, bias)
		})
		a.Release(inMark)
		if err != nil {
			return err
		}
		s.Finish(mixed.At(b).Data, inner)
	}
	l.out.Into(x, mixed, kernel.Epilogue{Add: true})
	return nil
}

// Rows returns what the network reads for pictures of InputAxes axes and InputChannels channels.
// mask, which may be nil, holds for each row whether it is attended to (1 or 0).
func (m *Original) Rows(in []Picture, mask [][]float32) ([]Input, error) {
	if mask != nil && len(mask) != len(in) {
		return nil, fmt.Errorf("perceiver: %d masks for a batch of %d", len(mask), len(in))
	}
	if len(in) == 0 {
		return nil, fmt.Errorf("perceiver: empty batch")
	}
	out := make([]Input, len(in))
	for i, p := range in {
		if err := p.check(i, m.Config.InputAxes, m.Config.InputChannels); err != nil {
			return nil, err
		}
		out[i].Rows = p.Rows
		if m.Config.Fourier {
			out[i].Rows = gridRows{p.Rows, position.NewGrid(m.code, p.Size...)}
		}
		if mask != nil {
			out[i].Mask = mask[i]
		}
		if err := out[i].check(i, m.channels); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Embed returns the latents of inputs as scratch, B×N×D. It emits encoded_data, latents_after.K
// after every sub-layer and embeddings.
func (m *Original) Embed(ctx context.Context, a *tensor.Arena, in []Input) (tensor.Tensor, error) {
	if a.Trace != nil {
		rows := make([]Rows, len(in))
		for i := range in {
			rows[i] = in[i].Rows
		}
		if err := traceRows(a, "encoded_data", rows); err != nil {
			return tensor.Tensor{}, err
		}
	}
	x := a.New(len(in), m.Config.NumLatents, m.Config.LatentDim)
	for b := range in {
		copy(x.At(b).Data, m.latents.Data)
	}
	state := 0
	after := func() {
		if a.Trace != nil {
			a.Emit(fmt.Sprintf("latents_after.%d", state), x)
		}
		state++
	}
	for i := range m.layers {
		l := &m.layers[i]
		if err := step(ctx, "latents", i, len(m.layers)); err != nil {
			return tensor.Tensor{}, err
		}
		if err := l.cross.addCross(ctx, a, x, in, m.opt); err != nil {
			return tensor.Tensor{}, err
		}
		after()
		l.ff.add(a, x)
		after()
		for j := range l.self {
			if err := ctx.Err(); err != nil {
				return tensor.Tensor{}, err
			}
			l.self[j].attention.addSelf(a, x)
			after()
			l.self[j].ff.add(a, x)
			after()
		}
	}
	a.Emit("embeddings", x)
	return x, finite("embeddings", x)
}

// Classify returns the logits of latents (B×N×D) as scratch, B×classes.
func (m *Original) Classify(a *tensor.Arena, latents tensor.Tensor) (tensor.Tensor, error) {
	if !m.Config.Head {
		return tensor.Tensor{}, fmt.Errorf("perceiver: config: \"final_classifier_head\" is false: the network has no logits")
	}
	b, n, d := latents.Dim(0), latents.Dim(1), latents.Dim(2)
	logits := a.New(b, m.Config.NumClasses)
	mark := a.Mark()
	defer a.Release(mark)
	mean := a.New(b, d)
	for i := range b {
		x := latents.At(i)
		for c := range d {
			sum := 0.0
			for r := range n {
				sum += float64(x.Data[r*d+c])
			}
			mean.Row(i)[c] = float32(sum / float64(n))
		}
	}
	m.logits.Into(logits, m.norm.Forward(a, mean), kernel.Epilogue{})
	a.Emit("logits", logits)
	return logits, finite("logits", logits)
}

// Forward returns the logits of pictures as scratch, B×classes, or the latents, B×N×D, when the
// network has no classifier.
func (m *Original) Forward(ctx context.Context, a *tensor.Arena, in []Picture, mask [][]float32) (tensor.Tensor, error) {
	rows, err := m.Rows(in, mask)
	if err != nil {
		return tensor.Tensor{}, err
	}
	x, err := m.Embed(ctx, a, rows)
	if err != nil || !m.Config.Head {
		return x, err
	}
	return m.Classify(a, x)
}

// RunCase implements Network: arguments data (B×axes…×C, channels last) and mask (B×axes…).
func (m *Original) RunCase(ctx context.Context, a *tensor.Arena, in CaseInput) error {
	t, err := in.float("data", m.Config.InputAxes+2)
	if err != nil {
		return err
	}
	_, err = m.Forward(ctx, a, ChannelsLast(t), in.mask("mask"))
	return err
}

// ChannelsLast returns the pictures of a tensor B×axes…×C; they share its data.
func ChannelsLast(t tensor.Tensor) []Picture {
	out := make([]Picture, t.Dim(0))
	for i := range out {
		x := t.At(i)
		out[i] = Picture{Rows: Matrix(tensor.Of(x.Data, x.Rows(), x.Cols())), Size: x.Shape[:len(x.Shape)-1]}
	}
	return out
}
