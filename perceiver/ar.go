package perceiver

import (
	"context"
	"encoding/json"
	"fmt"
	"math"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/internal/nn"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// CausalConfig is the configuration of Perceiver AR (krasserm/perceiver-io's model_config).
type CausalConfig struct {
	VocabSize     int
	MaxSeqLen     int
	MaxLatents    int
	Channels      int
	Heads         int
	Layers        int // num_self_attention_layers
	RotaryLayers  int // self-attention layers that rotate; -1 for all
	SelfWidening  int
	CrossWidening int
	OutputNorm    bool
	OutputBias    bool
	AbsPos        bool // absolute position embeddings; rotary then takes half of each head
}

// ParseCausalConfig reads a config.json, its settings below "model_config".
func ParseCausalConfig(text []byte) (CausalConfig, error) {
	f, err := parseFields(text)
	if err != nil {
		return CausalConfig{}, err
	}
	if f.has("model_config") {
		var inner map[string]json.RawMessage
		if !f.get("model_config", &inner, "an object") {
			return CausalConfig{}, f.err()
		}
		f.raw = inner
	}
	c := CausalConfig{
		VocabSize:     f.integer("vocab_size", 262, 1),
		MaxSeqLen:     f.integer("max_seq_len", 4096, 1),
		MaxLatents:    f.integer("max_latents", 512, 1),
		Channels:      f.integer("num_channels", 512, 1),
		Heads:         f.integer("num_heads", 8, 1),
		Layers:        f.layers("num_self_attention_layers", 8, 0),
		RotaryLayers:  f.integer("num_self_attention_rotary_layers", 1, -1),
		SelfWidening:  f.integer("self_attention_widening_factor", 4, 1),
		CrossWidening: f.integer("cross_attention_widening_factor", 4, 1),
		OutputNorm:    f.flag("output_norm", false),
		OutputBias:    f.flag("output_bias", true),
		AbsPos:        f.flag("abs_pos_emb", true),
	}
	if c.Channels%c.Heads != 0 {
		f.fault("%q: %d is not a multiple of \"num_heads\" %d", "num_channels", c.Channels, c.Heads)
	} else if c.rotated()%2 != 0 {
		f.fault("%q: %d of %d heads leaves %d rotated channels a head, want an even number", "num_channels", c.Channels, c.Heads, c.rotated())
	}
	if c.Channels > 0 && c.MaxSeqLen > maxTurns/c.Channels {
		f.fault("%q: %d positions of %d channels, want a product of at most %d", "max_seq_len", c.MaxSeqLen, c.Channels, maxTurns)
	}
	if c.MaxLatents > c.MaxSeqLen {
		f.fault("%q: %d, more than \"max_seq_len\" %d", "max_latents", c.MaxLatents, c.MaxSeqLen)
	}
	return c, f.err()
}

// maxTurns bounds max_seq_len × num_channels: a table of rotations is kept.
const maxTurns = 1 << 30

// rotated is the number of channels of a head that rotary embeddings turn.
func (c CausalConfig) rotated() int {
	w := c.Channels / c.Heads
	if c.AbsPos {
		w /= 2
	}
	return w
}

// CausalLM is Perceiver AR: the last tokens are latents, which attend causally to everything
// before them and then among themselves; each predicts the token after it.
type CausalLM struct {
	Config    CausalConfig
	tokens    weights.Table
	positions weights.Table // only with AbsPos
	freqs     []float32     // of the rotated pairs
	turns     []float32     // max_seq_len × pairs: sine and cosine of position·frequency
	qnorm     nn.LayerNorm  // of latents, as queries and as keys
	kvnorm    nn.LayerNorm  // of the prefix
	cross     arAttention
	crossFF   feedForward
	layers    []arLayer
	norm      nn.LayerNorm // only with OutputNorm
	head      *kernel.Packed
	bias      []float32 // nil without OutputBias
}

// arAttention is the four projections of an attention, without biases but the cross-attention's
// output.
type arAttention struct{ q, k, v, o nn.Linear }

type arLayer struct {
	norm nn.LayerNorm
	att  arAttention
	ff   feedForward
}

func loadCausalLM(config []byte, s weights.Scope, _ Options) (Network, error) {
	c, err := ParseCausalConfig(config)
	if err != nil {
		return nil, err
	}
	s = s.At("backend_model")
	in := s.At("input_adapter")
	m := &CausalLM{Config: c, tokens: in.Table("txt_embedding.weight", c.VocabSize, c.Channels)}
	if c.AbsPos {
		m.positions = in.Table("pos_embedding.weight", c.MaxSeqLen, c.Channels)
	}
	m.freqs = frequencies(in.At("frq_pos_encoding"), c.rotated())
	m.turns = make([]float32, 2*c.MaxSeqLen*len(m.freqs))
	for i := range m.turns[:len(m.turns)/2] {
		pos, k := i/len(m.freqs), i%len(m.freqs)
		sin, cos := math.Sincos(float64(float32(pos) * m.freqs[k]))
		m.turns[2*i], m.turns[2*i+1] = float32(sin), float32(cos)
	}
	cross := s.At("cross_attention")
	module := cross.Index(0).At("module")
	m.qnorm = nn.NewLayerNorm(module.At("q_norm"), c.Channels, normEps)
	m.kvnorm = nn.NewLayerNorm(module.At("kv_norm"), c.Channels, normEps)
	m.cross = newARAttention(module.At("attention"), c.Channels)
	m.cross.o.Bias = module.Tensor("attention.o_proj.bias", c.Channels).Data
	m.crossFF = newARFeedForward(cross.Index(1).At("module"), c.Channels, c.CrossWidening)
	for i := range c.Layers {
		l := s.At("self_attention").Index(i)
		module := l.Index(0).At("module")
		m.layers = append(m.layers, arLayer{
			norm: nn.NewLayerNorm(module.At("norm"), c.Channels, normEps),
			att:  newARAttention(module.At("attention"), c.Channels),
			ff:   newARFeedForward(l.Index(1).At("module"), c.Channels, c.SelfWidening),
		})
	}
	if c.OutputNorm {
		m.norm = nn.NewLayerNorm(s.At("out_norm"), c.Channels, normEps)
	}
	if c.OutputBias {
		m.bias = s.Tensor("output_adapter.bias", c.VocabSize).Data
	}
	m.head = m.tokens.Packed()
	return m, nil
}

// frequencies reads the rotary frequencies, "inv_freq" (width/2); a file that leaves the buffer
// out has the usual ones, 10000^(-2i/width).
func frequencies(s weights.Scope, width int) []float32 {
	if s.Has("inv_freq") {
		return s.Tensor("inv_freq", width/2).Data
	}
	f := make([]float32, width/2)
	for i := range f {
		f[i] = 1 / float32(math.Pow(10000, float64(float32(2*i)/float32(width))))
	}
	return f
}

func newARAttention(s weights.Scope, c int) arAttention {
	return arAttention{
		q: nn.NewLinearNoBias(s.At("q_proj"), c, c), k: nn.NewLinearNoBias(s.At("k_proj"), c, c),
		v: nn.NewLinearNoBias(s.At("v_proj"), c, c), o: nn.NewLinearNoBias(s.At("o_proj"), c, c),
	}
}

func newARFeedForward(s weights.Scope, c, widening int) feedForward {
	return feedForward{
		norm: nn.NewLayerNorm(s.Index(0), c, normEps),
		mlp: nn.MLP{
			Up:   nn.NewLinearNoBias(s.Index(1), c, widening*c),
			Down: nn.NewLinearNoBias(s.Index(3), widening*c, c),
			Act:  kernel.GELU,
		},
	}
}

// check refuses sequences the network cannot take.
func (m *CausalLM) check(ids [][]int, prefix int, mask [][]float32) error {
	if len(ids) == 0 {
		return fmt.Errorf("perceiver: empty batch")
	}
	if mask != nil && len(mask) != len(ids) {
		return fmt.Errorf("perceiver: %d masks for a batch of %d", len(mask), len(ids))
	}
	n := len(ids[0])
	if n < 1 || n > m.Config.MaxSeqLen {
		return fmt.Errorf("perceiver: %d tokens, want 1 to %d", n, m.Config.MaxSeqLen)
	}
	if prefix < 0 || prefix >= n || n-prefix > m.Config.MaxLatents || prefix > m.Config.MaxSeqLen-m.Config.MaxLatents {
		return fmt.Errorf("perceiver: prefix of %d of %d tokens: want 1 to %d latents and a prefix of at most %d",
			prefix, n, m.Config.MaxLatents, m.Config.MaxSeqLen-m.Config.MaxLatents)
	}
	for b, seq := range ids {
		if len(seq) != n {
			return fmt.Errorf("perceiver: input %d: %d tokens, want %d as in input 0", b, len(seq), n)
		}
		for i, id := range seq {
			if id < 0 || id >= m.Config.VocabSize {
				return fmt.Errorf("perceiver: input %d: token %d is %d, want 0 to %d", b, i, id, m.Config.VocabSize-1)
			}
		}
		if mask != nil && len(mask[b]) != n {
			return fmt.Errorf("perceiver: input %d: mask of %d values for %d tokens", b, len(mask[b]), n)
		}
	}
	return nil
}

// padding counts the dropped tokens of a mask, which must all be on the left.
func padding(b int, mask []float32) (int, error) {
	pads := 0
	for pads < len(mask) && mask[pads] == 0 {
		pads++
	}
	for i, x := range mask[pads:] {
		if x != 1 {
			return 0, fmt.Errorf("perceiver: input %d: mask[%d] = %v: padding must be on the left, zeros and then ones", b, pads+i, x)
		}
	}
	return pads, nil
}

// arState is what one pass knows of the positions of its tokens.
type arState struct {
	pads   []int // padding of each element
	padded bool
	n      int
}

// at is the position of token i of element b.
func (s arState) at(b, i int) int { return max(0, i-s.pads[b]) }

// Forward returns the logits of the latents (the tokens from prefix on) as scratch, B×L×V, for
// sequences of equal length. mask, nil for all ones, is 0 on padding, which is on the left.
func (m *CausalLM) Forward(ctx context.Context, a *tensor.Arena, ids [][]int, prefix int, mask [][]float32) (tensor.Tensor, error) {
	return m.forward(ctx, a, ids, prefix, mask, nil)
}

func (m *CausalLM) forward(ctx context.Context, a *tensor.Arena, ids [][]int, prefix int, mask [][]float32, cache *arCache) (tensor.Tensor, error) {
	if err := m.check(ids, prefix, mask); err != nil {
		return tensor.Tensor{}, err
	}
	s := arState{pads: make([]int, len(ids)), n: len(ids[0])}
	for b := range mask {
		pads, err := padding(b, mask[b])
		if err != nil {
			return tensor.Tensor{}, err
		}
		s.pads[b], s.padded = pads, s.padded || pads > 0
	}
	b, n, c, l := len(ids), s.n, m.Config.Channels, s.n-prefix
	logits := a.New(b, l, m.Config.VocabSize)
	mark := a.Mark()
	defer a.Release(mark)
	rows := m.embed(a, ids, s)
	a.Emit("embedded_input", rows)
	m.traceAngles(a, s, b)

	x := a.New(b, l, c)
	keys := a.New(b, n, c) // normalised
	for i := range b {
		copy(x.At(i).Data, rows.At(i).Data[prefix*c:])
		if prefix > 0 {
			m.kvnorm.Into(keys.At(i).Slice(0, prefix), rows.At(i).Slice(0, prefix))
		}
		m.qnorm.Into(keys.At(i).Slice(prefix, n), x.At(i))
	}
	if err := m.layersOver(ctx, a, x, keys, s, cache); err != nil {
		return tensor.Tensor{}, err
	}
	m.predict(a, logits, x)
	return logits, finite("logits", logits)
}

// layersOver runs the cross-attention over keys (B×n×C, normalised) and the self-attention
// layers over x (B×L×C) in place, and fills the cache when there is one.
func (m *CausalLM) layersOver(ctx context.Context, a *tensor.Arena, x, keys tensor.Tensor, s arState, cache *arCache) error {
	b, n, l, c := x.Dim(0), s.n, x.Dim(1), x.Dim(2)
	first := n - l
	mark := a.Mark()
	q := a.New(b, l, c)
	for i := range b {
		m.cross.q.Into(q.At(i), keys.At(i).Slice(first, n), kernel.Epilogue{})
	}
	k, v := m.cross.k.Forward(a, keys), m.cross.v.Forward(a, keys)
	cache.fill(0, k, v)
	m.rotate(q, s, first)
	m.rotate(k, s, 0)
	m.cross.o.Into(x, m.heads(m.causal(a, s, l)).Attend(a, q, k, v), kernel.Epilogue{Add: true})
	a.Release(mark)
	m.crossFF.add(a, x)
	a.Emit("cross_attention_layer_output", x)
	for i := range m.layers {
		if err := step(ctx, "latents", i, len(m.layers)); err != nil {
			return err
		}
		layer := &m.layers[i]
		mark := a.Mark()
		h := layer.norm.Forward(a, x)
		q, k, v := layer.att.q.Forward(a, h), layer.att.k.Forward(a, h), layer.att.v.Forward(a, h)
		cache.fill(i+1, k, v)
		if m.rotates(i) {
			m.rotate(q, s, first)
			m.rotate(k, s, first)
		}
		layer.att.o.Into(x, m.heads(tensor.Tensor{}).Attend(a, q, k, v), kernel.Epilogue{Add: true})
		a.Release(mark)
		layer.ff.add(a, x)
		if a.Trace != nil {
			a.Emit(fmt.Sprintf("self_attention.%d.output", i), x)
		}
	}
	return step(ctx, "latents", len(m.layers), len(m.layers))
}

// predict writes the logits (B×L×V) of the last hidden states x (B×L×C).
func (m *CausalLM) predict(a *tensor.Arena, logits, x tensor.Tensor) {
	if m.Config.OutputNorm {
		m.norm.Into(x, x)
	}
	a.Emit("last_hidden_state", x)
	kernel.Gemm(logits.Data, logits.Cols(), x.Data, x.Cols(), x.Rows(), m.head, kernel.Epilogue{Bias: m.bias})
	a.Emit("logits", logits)
}

// rotates reports whether self-attention layer i applies rotary embeddings.
func (m *CausalLM) rotates(i int) bool {
	return m.Config.RotaryLayers < 0 || i < m.Config.RotaryLayers
}

// heads is causal attention; a mask, when there is one, holds the causal part too.
func (m *CausalLM) heads(mask tensor.Tensor) nn.Heads {
	scale := float32(1 / math.Sqrt(float64(m.Config.Channels/m.Config.Heads)))
	return nn.Heads{Heads: m.Config.Heads, Scale: scale, Causal: mask.Data == nil, Mask: mask}
}

// causal returns the additive mask B×L×n of a padded batch, empty without padding. Scores of
// masked keys are the lowest float, not absent: a latent that is padding itself, with nothing to
// see, averages all keys as the reference does.
func (m *CausalLM) causal(a *tensor.Arena, s arState, l int) tensor.Tensor {
	if !s.padded {
		return tensor.Tensor{}
	}
	mask := a.New(len(s.pads), l, s.n)
	for b, pads := range s.pads {
		for i := range l {
			row := mask.At(b).Row(i)
			for j := range row {
				row[j] = 0
				if j < pads || j > i+s.n-l {
					row[j] = -math.MaxFloat32
				}
			}
		}
	}
	return mask
}

// embed returns token embeddings, with position embeddings if the network has them: B×n×C.
func (m *CausalLM) embed(a *tensor.Arena, ids [][]int, s arState) tensor.Tensor {
	rows := a.New(len(ids), s.n, m.Config.Channels)
	for b, seq := range ids {
		for i, id := range seq {
			m.embedToken(rows.At(b).Row(i), id, s.at(b, i))
		}
	}
	return rows
}

func (m *CausalLM) embedToken(row []float32, id, pos int) {
	m.tokens.Row(row, id)
	if !m.Config.AbsPos {
		return
	}
	p := make([]float32, len(row))
	m.positions.Row(p, pos)
	for j := range row {
		row[j] += p[j]
	}
}

// rotate turns the first rotated channels of every head of x (B×L×C), whose first row is token
// first: pairs (x1, x2) by the angle position·frequency.
func (m *CausalLM) rotate(x tensor.Tensor, s arState, first int) {
	l, c, width := x.Dim(1), x.Dim(2), m.Config.Channels/m.Config.Heads
	pairs := len(m.freqs)
	kernel.Parallel(x.Dim(0)*l, func(r int) {
		turns := m.turns[2*pairs*s.at(r/l, first+r%l):][:2*pairs]
		row := x.Data[r*c : (r+1)*c]
		for h := 0; h < c; h += width {
			head := row[h : h+2*pairs]
			for k := 0; k < len(head); k += 2 {
				x1, x2, sin, cos := head[k], head[k+1], turns[k], turns[k+1]
				head[k] = float32(x1*cos) - float32(x2*sin)
				head[k+1] = float32(x2*cos) + float32(x1*sin)
			}
		}
	})
}

// traceAngles emits rotary_angles, B×n×rotated: the angle of each channel.
func (m *CausalLM) traceAngles(a *tensor.Arena, s arState, b int) {
	if a.Trace == nil {
		return
	}
	t := tensor.New(b, s.n, 2*len(m.freqs))
	for i := range b {
		for j := range s.n {
			row := t.At(i).Row(j)
			for k, f := range m.freqs {
				row[2*k] = float32(s.at(i, j)) * f
				row[2*k+1] = row[2*k]
			}
		}
	}
	a.Emit("rotary_angles", t)
}
