package perceiver

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/internal/nn"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// Options tune how a network computes. The zero value is the fast way.
type Options struct {
	// Plain computes every attention as it is written in the papers: keys and values are
	// projected row by row. The default uses exact algebra that the structure of the model and
	// of the input allows; results differ by rounding only.
	Plain bool
	// Block is the number of rows read or answered at a time; zero means a size that fits the
	// cache. Results do not depend on it.
	Block int
}

// block is the number of rows of width c to handle at a time, a multiple of the kernels' tile.
func (o Options) block(c int) int {
	n := o.Block
	if n <= 0 {
		n = min(max(blockValues/max(c, 1), 256), 2048)
	}
	return (n + kernel.KeyTile - 1) / kernel.KeyTile * kernel.KeyTile
}

// blockValues is about how many values of an input block are held (1 MiB).
const blockValues = 1 << 18

// Encoder maps inputs M×C to latents N×D: one cross-attention over the rows, then NumBlocks
// passes over the same self-attention layers.
type Encoder struct {
	n, d, c int // latents, their width, input channels
	blocks  int
	cross   encoderCross
	layers  []selfLayer
	opt     Options
}

// newEncoder reads "embeddings.latents" and "encoder" of the scope.
func newEncoder(s weights.Scope, c Config, channels int, opt Options) *Encoder {
	e := &Encoder{n: c.NumLatents, d: c.LatentDim, c: channels, blocks: c.NumBlocks, opt: opt}
	enc := s.At("encoder")
	qk, v := c.crossChannels(c.QKChannels, c.VChannels, c.LatentDim, channels)
	latents := s.Tensor("embeddings.latents", e.n, e.d)
	e.cross = newEncoderCross(enc.At("cross_attention"), latents, shape{
		query: e.d, key: channels, qk: qk, v: v, heads: c.CrossHeads, widening: c.CrossWidening, act: c.Act,
	}, c.UseQueryResidual, opt)
	qk, v = c.selfChannels()
	for i := range c.SelfPerBlock {
		e.layers = append(e.layers, newSelfLayer(enc.At("self_attends").Index(i), shape{
			query: e.d, qk: qk, v: v, heads: c.SelfHeads, widening: c.SelfWidening, act: c.Act,
		}))
	}
	return e
}

// Latents returns the shape of one element of Encode's result, N and D.
func (e *Encoder) Latents() (n, d int) { return e.n, e.d }

// Channels returns C, the width of the rows that Encode takes.
func (e *Encoder) Channels() int { return e.c }

// Encode returns the latents of the inputs as scratch, B×N×D. It emits the stages
// encoder_cross_attention_output, hidden_states.I (the state before every layer and after every
// block, so a border between blocks appears twice) and last_hidden_state.
func (e *Encoder) Encode(ctx context.Context, a *tensor.Arena, in []Input) (tensor.Tensor, error) {
	for i, x := range in {
		if err := x.check(i, e.c); err != nil {
			return tensor.Tensor{}, err
		}
	}
	x := a.New(len(in), e.n, e.d)
	for i := range in {
		if err := e.cross.attend(ctx, a, x.At(i), in[i]); err != nil {
			return tensor.Tensor{}, err
		}
	}
	e.cross.ff.add(a, x)
	a.Emit("encoder_cross_attention_output", x)
	if err := e.tower(ctx, a, x); err != nil {
		return tensor.Tensor{}, err
	}
	a.Emit("last_hidden_state", x)
	return x, finite("last_hidden_state", x)
}

// tower runs the blocks of self-attention layers over x in place.
func (e *Encoder) tower(ctx context.Context, a *tensor.Arena, x tensor.Tensor) error {
	state, total := 0, e.blocks*len(e.layers)
	emit := func() {
		if a.Trace != nil {
			a.Emit(fmt.Sprintf("hidden_states.%d", state), x)
			state++
		}
	}
	for b := range e.blocks {
		for i := range e.layers {
			if err := step(ctx, "latents", b*len(e.layers)+i, total); err != nil {
				return err
			}
			emit()
			e.layers[i].forward(a, x)
		}
		emit()
	}
	return step(ctx, "latents", total, total)
}

// ErrNotFinite is wrapped by errors about stages that held NaN or an infinity.
var ErrNotFinite = errors.New("result is not finite")

// finite returns an error naming the stage when x holds NaN or an infinity.
func finite(stage string, x tensor.Tensor) error {
	for i, v := range x.Data {
		if math.Float32bits(v)&0x7f800000 == 0x7f800000 {
			return fmt.Errorf("perceiver: stage %s: value %d is %v: %w", stage, i, v, ErrNotFinite)
		}
	}
	return nil
}

// encoderCross is the encoder's cross-attention. The latents are constants of the model, and so
// are their queries, which are computed once.
type encoderCross struct {
	shape
	norm    nn.LayerNorm  // of the input rows
	start   tensor.Tensor // what the attention's result is added to: N×D, bias included
	queries tensor.Tensor // N×qk
	key     nn.Linear     // unused when folded
	value   nn.Linear
	output  *kernel.Packed
	folded  *foldedCross // nil for the plain way
	ff      feedForward
	dtype   kernel.DType // of the products of scores and averages
	opt     Options
}

func newEncoderCross(s weights.Scope, latents tensor.Tensor, p shape, residual bool, opt Options) encoderCross {
	att := s.At("attention")
	self := att.At("self")
	x := encoderCross{shape: p, dtype: s.ComputeDType(), opt: opt}
	qnorm := nn.NewLayerNorm(self.At("layernorm1"), p.query, normEps)
	x.norm = nn.NewLayerNorm(self.At("layernorm2"), p.key, normEps)
	wq, bq := self.Tensor("query.weight", p.qk, p.query), self.Tensor("query.bias", p.qk)
	x.value = nn.NewLinear(self.At("value"), p.key, p.v)
	x.output = att.Linear("output.dense.weight", p.query, p.v)
	bias := att.Tensor("output.dense.bias", p.query).Data
	x.ff = newFeedForward(s, p.query, p.widening, p.act)

	n := latents.Dim(0)
	x.start = tensor.New(n, p.query)
	for i := range n {
		row := x.start.Row(i)
		copy(row, bias)
		if residual {
			kernel.Add(row, bias, latents.Row(i))
		}
	}
	x.queries = tensor.New(n, p.qk)
	normed := tensor.New(n, p.query)
	qnorm.Into(normed, latents)
	kernel.GemmNT(x.queries.Data, p.qk, normed.Data, p.query, wq.Data, p.query, n, p.qk, p.query, kernel.Epilogue{Bias: bq.Data})
	if foldable(p, n) && !opt.Plain {
		wk := self.Tensor("key.weight", p.qk, p.key)
		self.Tensor("key.bias", p.qk) // the same for every key of a query: softmax does not see it
		x.folded = newFoldedCross(x.queries, wk, x.norm, p.scale(), x.dtype)
		x.queries = tensor.Tensor{}
		return x
	}
	x.key = nn.NewLinear(self.At("key"), p.key, p.qk)
	return x
}

// keep turns a mask value into what is added to a score: 0 for 1, the lowest float for 0. The
// sum stays finite, so a row with nothing to attend to averages its values.
func keep(mask float32) float32 { return (1 - mask) * -math.MaxFloat32 }

// attend writes the cross-attention of one input, residual included, to dst (N×D).
func (x *encoderCross) attend(ctx context.Context, a *tensor.Arena, dst tensor.Tensor, in Input) error {
	mark := a.Mark()
	defer a.Release(mark)
	n := dst.Dim(0)
	mixed := a.New(n, x.v)
	if err := x.mix(ctx, a, mixed, in); err != nil {
		return err
	}
	copy(dst.Data, x.start.Data)
	kernel.Gemm(dst.Data, x.query, mixed.Data, x.v, n, x.output, kernel.Epilogue{Add: true})
	return nil
}

// mix writes the attention-weighted sums of the projected values to dst (N×V).
func (x *encoderCross) mix(ctx context.Context, a *tensor.Arena, dst tensor.Tensor, in Input) error {
	if x.folded != nil {
		sums := a.New(dst.Dim(0), x.shape.key)
		if err := x.folded.sums(ctx, a, sums, in, x.opt); err != nil {
			return err
		}
		x.value.Into(dst, sums, kernel.Epilogue{})
		return nil
	}
	s := getStream(x.dtype)
	defer streams.Put(s)
	s.Start(x.heads, 0, x.qk/x.heads, x.v/x.heads, dst.Dim(0), x.scale(), x.queries.Data, x.qk)
	block := x.opt.block(max(x.shape.key, x.qk, x.v))
	k, v := a.New(block, x.qk), a.New(block, x.v)
	err := x.rows(ctx, a, in, block, func(rows tensor.Tensor, bias []float32) {
		b := rows.Dim(0)
		x.key.Into(k.Slice(0, b), rows, kernel.Epilogue{})
		x.value.Into(v.Slice(0, b), rows, kernel.Epilogue{})
		s.Add(k.Data, x.qk, v.Data, x.v, b, bias)
	})
	if err != nil {
		return err
	}
	s.Finish(dst.Data, x.v)
	return nil
}

// streams keeps the memory of attentions between passes.
var streams = sync.Pool{New: func() any { return new(kernel.Stream) }}

func getStream(dt kernel.DType) *kernel.Stream {
	s := streams.Get().(*kernel.Stream)
	s.DType = dt
	return s
}

// rows calls f with every block of normalised rows (b×C) and their score biases.
func (x *encoderCross) rows(ctx context.Context, a *tensor.Arena, in Input, block int, f func(rows tensor.Tensor, bias []float32)) error {
	return eachBlock(ctx, a, in, block, func(rows tensor.Tensor, bias []float32) {
		x.norm.Into(rows, rows)
		f(rows, bias)
	})
}

// eachBlock calls f with every block of rows (b×C) as read, and what the mask adds to their
// scores (nil without a mask).
func eachBlock(ctx context.Context, a *tensor.Arena, in Input, block int, f func(rows tensor.Tensor, bias []float32)) error {
	m, c := in.Rows.Dims()
	rows := a.New(min(block, m), c)
	var bias []float32
	if in.Mask != nil {
		bias = a.Floats(min(block, m))
	}
	for from := 0; from < m; from += block {
		if err := step(ctx, "encode", from, m); err != nil {
			return err
		}
		to := min(from+block, m)
		part := rows.Slice(0, to-from)
		if err := in.Rows.Read(part, from, to); err != nil {
			return fmt.Errorf("perceiver: rows %d to %d: %w", from, to, err)
		}
		var b []float32
		if bias != nil {
			b = bias[:to-from]
			for i := range b {
				b[i] = keep(in.Mask[from+i])
			}
		}
		f(part, b)
	}
	return step(ctx, "encode", m, m)
}
