package perceiver

import (
	"context"
	"fmt"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/internal/nn"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// Decoder answers queries O×E from latents N×D with one cross-attention layer and, unless it has
// none, a final Linear: O×F. Queries are read in chunks.
type Decoder struct {
	shape
	qnorm, knorm nn.LayerNorm
	query        nn.Linear // unused when folded
	key, value   nn.Linear
	output       nn.Linear
	residual     bool
	ff           feedForward
	final        nn.Linear // no W: the layer's output is the answer
	folded       *foldedQuery
	dtype        kernel.DType // of the products of scores and averages
	opt          Options
}

// decoderShape is what distinguishes one model's decoder from another's.
type decoderShape struct {
	shape
	residual bool
	final    int  // F; zero for no final Linear
	fold     bool // many queries of one head: fold the projections into the latents' side
}

// newDecoder reads "decoding_cross_attention" and "final_layer" of the scope.
func newDecoder(s weights.Scope, p decoderShape, opt Options) *Decoder {
	layer := s.At("decoding_cross_attention")
	att := layer.At("attention")
	self := att.At("self")
	d := &Decoder{
		shape:    p.shape,
		qnorm:    nn.NewLayerNorm(self.At("layernorm1"), p.query, normEps),
		knorm:    nn.NewLayerNorm(self.At("layernorm2"), p.key, normEps),
		key:      nn.NewLinear(self.At("key"), p.key, p.qk),
		value:    nn.NewLinear(self.At("value"), p.key, p.v),
		output:   nn.NewLinear(att.At("output", "dense"), p.v, p.query),
		residual: p.residual,
		ff:       newFeedForward(layer, p.query, p.widening, p.act),
		dtype:    s.ComputeDType(),
		opt:      opt,
	}
	if p.fold && p.heads == 1 && !opt.Plain {
		d.folded = newFoldedQuery(self.At("query"), d.qnorm, p.shape)
	} else {
		d.query = nn.NewLinear(self.At("query"), p.query, p.qk)
	}
	if p.final > 0 {
		d.final = nn.NewLinear(s.At("final_layer"), p.query, p.final)
	}
	return d
}

// checkDecoder refuses head counts that do not divide the decoder's widths.
func checkDecoder(p shape) error {
	if min(p.query, p.key, p.qk, p.v, p.heads, p.widening) < 1 {
		return fmt.Errorf("perceiver: config: decoder of %d query, %d latent, %d query/key and %d value channels, %d heads, widening %d: want at least 1 of each",
			p.query, p.key, p.qk, p.v, p.heads, p.widening)
	}
	if p.qk%p.heads != 0 || p.v%p.heads != 0 {
		return fmt.Errorf("perceiver: config: decoder of %d heads over %d query/key and %d value channels: not a multiple", p.heads, p.qk, p.v)
	}
	return nil
}

// Width is F, the width of an answer.
func (d *Decoder) Width() int {
	if d.final.W == nil {
		return d.shape.query
	}
	return d.final.Out()
}

// QueryDim is E, the width of a query.
func (d *Decoder) QueryDim() int { return d.shape.query }

// Memory is what a decoder keeps of the latents of a batch: projected keys and values. It lives
// in the arena of the pass that made it.
type Memory struct {
	keys, values tensor.Tensor // B×N×qk, B×N×v; B×N×E both when folded
	bias         tensor.Tensor // B×N, added to every score of a key; empty when not folded
	narrow       tensor.Tensor // B×N×v: values before the output projection; only when folded
}

// Remember projects latents (B×N×D) to what Decode reads, as scratch.
func (d *Decoder) Remember(a *tensor.Arena, latents tensor.Tensor) Memory {
	b, n := latents.Dim(0), latents.Dim(1)
	if d.folded == nil {
		m := Memory{keys: a.New(b, n, d.qk), values: a.New(b, n, d.v)}
		mark := a.Mark()
		x := d.knorm.Forward(a, latents)
		d.key.Into(m.keys, x, kernel.Epilogue{})
		d.value.Into(m.values, x, kernel.Epilogue{})
		a.Release(mark)
		return m
	}
	m := Memory{
		keys: a.New(b, n, d.shape.query), values: a.New(b, n, d.shape.query),
		bias: a.New(b, n), narrow: a.New(b, n, d.v),
	}
	mark := a.Mark()
	x := d.knorm.Forward(a, latents)
	d.folded.keys(m, d.key.Forward(a, x), d.scale())
	d.value.Into(m.narrow, x, kernel.Epilogue{})
	d.output.Into(m.values, m.narrow, kernel.Epilogue{})
	a.Release(mark)
	return m
}

// span is a run of the queries of one element of the batch.
type span struct{ item, from, to int }

// Decode answers queries[b] (O×E) from element b of m, chunk by chunk: out gets the element, the
// first row and the answers (rows×F), scratch. It emits decoder_query,
// decoder_cross_attention_output and decoder_final_layer_output.
func (d *Decoder) Decode(ctx context.Context, a *tensor.Arena, m Memory, queries []Rows, out func(item, from int, y tensor.Tensor) error) error {
	total := 0
	for i, q := range queries {
		o, e := q.Dims()
		if e != d.shape.query {
			return fmt.Errorf("perceiver: queries %d: %d channels, want %d", i, e, d.shape.query)
		}
		total += o
	}
	if err := traceRows(a, "decoder_query", queries); err != nil {
		return err
	}
	mark := a.Mark()
	defer a.Release(mark)
	t := newDecoderTrace(a, queries, d)
	block := d.opt.block(max(d.shape.query, d.qk, d.v))
	done, rows := 0, 0
	var group []span
	flush := func() error {
		if err := step(ctx, "decode", done, total); err != nil {
			return err
		}
		done += rows
		err := d.chunk(a, m, queries, group, rows, t, out)
		group, rows = group[:0], 0
		return err
	}
	for i, q := range queries {
		o, _ := q.Dims()
		for from := 0; from < o; {
			n := min(o-from, block-rows)
			group = append(group, span{i, from, from + n})
			rows, from = rows+n, from+n
			if rows == block {
				if err := flush(); err != nil {
					return err
				}
			}
		}
	}
	if rows > 0 {
		if err := flush(); err != nil {
			return err
		}
	}
	t.emit(a, d)
	return step(ctx, "decode", total, total)
}

// chunk answers the rows of a group of spans together.
func (d *Decoder) chunk(a *tensor.Arena, m Memory, queries []Rows, group []span, rows int, t *decoderTrace, out func(item, from int, y tensor.Tensor) error) error {
	mark := a.Mark()
	defer a.Release(mark)
	x := a.New(rows, d.shape.query)
	at := 0
	for _, s := range group {
		n := s.to - s.from
		if err := queries[s.item].Read(x.Slice(at, at+n), s.from, s.to); err != nil {
			return fmt.Errorf("perceiver: queries %d to %d: %w", s.from, s.to, err)
		}
		at += n
	}
	d.attend(a, x, m, group)
	d.ff.add(a, x)
	y := x
	if d.final.W != nil {
		y = d.final.Forward(a, x)
	}
	at = 0
	for _, s := range group {
		n := s.to - s.from
		t.put(s, x.Slice(at, at+n), y.Slice(at, at+n))
		if err := out(s.item, s.from, y.Slice(at, at+n)); err != nil {
			return err
		}
		at += n
	}
	return nil
}

// attend replaces the queries x (rows×E) by the attention's output, with the residual if the
// layer has one.
func (d *Decoder) attend(a *tensor.Arena, x tensor.Tensor, m Memory, group []span) {
	mark := a.Mark()
	defer a.Release(mark)
	rows := x.Dim(0)
	if d.folded != nil {
		q := a.New(rows, d.shape.query)
		e := d.shape.query
		kernel.LayerNorm(q.Data, x.Data, e, e, rows, e, nil, nil, normEps)
		if d.residual {
			mixed := a.New(rows, e)
			d.mix(mixed, q, m, group, 1)
			kernel.Add(x.Data, x.Data, mixed.Data)
			return
		}
		d.mix(x, q, m, group, 1)
		return
	}
	q := d.query.Forward(a, d.qnorm.Forward(a, x))
	mixed := a.New(rows, d.v)
	d.mix(mixed, q, m, group, d.heads)
	d.output.Into(x, mixed, kernel.Epilogue{Add: d.residual})
}

// mix attends with projected queries q (rows×qk) and writes rows×v.
func (d *Decoder) mix(dst, q tensor.Tensor, m Memory, group []span, heads int) {
	at := 0
	for _, s := range group {
		n := s.to - s.from
		k, v := m.keys.At(s.item), m.values.At(s.item)
		args := kernel.AttnArgs{
			Heads: heads, KVHeads: heads, QK: q.Cols() / heads, V: dst.Cols() / heads, Scale: d.scale(),
			L: n, S: k.Dim(0), Q: q.Data[at*q.Cols():], LDQ: q.Cols(), K: k.Data, LDK: k.Cols(),
			VV: v.Data, LDV: v.Cols(), Out: dst.Data[at*dst.Cols():], LDO: dst.Cols(), DType: d.dtype,
		}
		if m.bias.Data != nil {
			args.KeyBias = m.bias.Row(s.item)
		}
		kernel.Attention(&args)
		at += n
	}
}

// decoderTrace collects the stages of a traced pass; nil collects nothing.
type decoderTrace struct{ layer, final tensor.Tensor }

func newDecoderTrace(a *tensor.Arena, queries []Rows, d *Decoder) *decoderTrace {
	if a.Trace == nil {
		return nil
	}
	o, e := queries[0].Dims()
	return &decoderTrace{layer: a.New(len(queries), o, e), final: a.New(len(queries), o, d.Width())}
}

func (t *decoderTrace) put(s span, layer, final tensor.Tensor) {
	if t == nil {
		return
	}
	copy(t.layer.At(s.item).Data[s.from*layer.Cols():], layer.Data)
	copy(t.final.At(s.item).Data[s.from*final.Cols():], final.Data)
}

func (t *decoderTrace) emit(a *tensor.Arena, d *Decoder) {
	if t == nil {
		return
	}
	a.Emit("decoder_cross_attention_output", t.layer)
	a.Emit("decoder_final_layer_output", t.final)
}

// traceRows emits rows of equal sizes as one B×M×C tensor, assembled only when somebody listens.
func traceRows(a *tensor.Arena, stage string, rows []Rows) error {
	if a.Trace == nil || len(rows) == 0 {
		return nil
	}
	m, c := rows[0].Dims()
	for _, r := range rows[1:] {
		if m2, c2 := r.Dims(); m2 != m || c2 != c {
			return nil // a batch of different lengths has no such tensor
		}
	}
	mark := a.Mark() // scratch, so that the memory serves the next stage as well
	defer a.Release(mark)
	t := a.New(len(rows), m, c)
	for i, r := range rows {
		if err := r.Read(t.At(i), 0, m); err != nil {
			return fmt.Errorf("perceiver: stage %s: %w", stage, err)
		}
	}
	a.Emit(stage, t)
	return nil
}
