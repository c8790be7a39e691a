package perceiver

import (
	"context"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// tail is what a decoder does after its feed-forward's activation, in one step. With y the
// attention's result, h the activated hidden values and an optional head (Wc, bc) behind the
// final Linear,
//
//	Wc(Wf(y + W2 h + b2) + bf) + bc = (WcWf)·y + (WcWfW2)·h + (WcWf b2 + Wc bf + bc)
//
// which is narrow when the answer is: 2 channels of flow, 3 of a picture.
type tail struct {
	y, h *kernel.Packed // F'×E, F'×hidden
	bias []float32
	lean *lean // the way from the attention's result to h; nil for the decoder's own
}

// affine is a Linear at hand as it is stored.
type affine struct {
	w tensor.Tensor // out×in
	b []float32
}

func newAffine(s weights.Scope, in, out int) affine {
	return affine{s.Tensor("weight", out, in), s.Tensor("bias", out).Data}
}

// after returns l∘first as one affine map.
func (l affine) after(first affine) affine {
	out, mid, in := l.w.Dim(0), l.w.Dim(1), first.w.Dim(1)
	r := affine{tensor.New(out, in), make([]float32, out)}
	kernel.GemmNN(r.w.Data, in, l.w.Data, mid, first.w.Data, in, out, in, mid, kernel.Epilogue{})
	kernel.GemmNT(r.b, 1, l.w.Data, mid, first.b, mid, out, 1, mid, kernel.Epilogue{})
	kernel.Add(r.b, r.b, l.b)
	return r
}

func (l affine) packed() *kernel.Packed {
	return kernel.Pack(l.w.Dim(0), l.w.Dim(1), kernel.F32, func(i int, dst []float32) { copy(dst, l.w.Row(i)) })
}

// newTail reads "mlp.dense2" of the decoder's layer again and folds it with what follows it.
func newTail(s weights.Scope, p shape, last affine) tail {
	down := newAffine(s.At("decoding_cross_attention", "mlp", "dense2"), p.widening*p.query, p.query)
	all := last.after(down)
	return tail{y: last.packed(), h: all.packed(), bias: all.b}
}

// newLeanTail is newTail over averaged values in place of y = Wo m + bo; see lean.
func newLeanTail(s weights.Scope, p shape, last affine, l *lean) tail {
	t := newTail(s, p, last)
	out := newAffine(s.At("decoding_cross_attention", "attention", "output", "dense"), p.v, p.query)
	y := affine{w: last.w, b: make([]float32, len(last.b))}.after(out)
	kernel.Add(t.bias, t.bias, y.b)
	t.y, t.lean = y.packed(), l
	return t
}

// question is the queries for one element of a batch of a folded decoder (see foldedQuery).
type question struct {
	item, n int
	block   int // rows of a chunk
	width   int // E, or v with a lean tail
	// attend writes the attention's result for queries [from,to), rows×width.
	attend func(a *tensor.Arena, y tensor.Tensor, from, to int) error
}

// answer answers questions chunk by chunk through a tail: out gets the element, the first row
// and rows×F', scratch.
func (d *Decoder) answer(ctx context.Context, a *tensor.Arena, questions []question, t tail, out func(item, from int, y tensor.Tensor) error) error {
	total, done := 0, 0
	for _, q := range questions {
		total += q.n
	}
	for _, q := range questions {
		for from := 0; from < q.n; from += q.block {
			if err := step(ctx, "decode", done, total); err != nil {
				return err
			}
			to := min(from+q.block, q.n)
			done += to - from
			mark := a.Mark()
			y := a.New(to-from, q.width)
			err := q.attend(a, y, from, to)
			if err == nil {
				err = out(q.item, from, d.finish(a, y, t))
			}
			a.Release(mark)
			if err != nil {
				return err
			}
		}
	}
	return step(ctx, "decode", total, total)
}

// finish returns the answers (rows×F') to the attention's results y as scratch.
func (d *Decoder) finish(a *tensor.Arena, y tensor.Tensor, t tail) tensor.Tensor {
	n, e, f := y.Dim(0), y.Dim(1), len(t.bias)
	var h tensor.Tensor
	if t.lean != nil {
		h = t.lean.hidden(a, y)
	} else {
		h = d.ff.mlp.Up.ForwardAct(a, d.ff.norm.Forward(a, y), d.ff.mlp.Act)
	}
	z := a.New(n, f)
	kernel.Gemm(z.Data, f, y.Data, e, n, t.y, kernel.Epilogue{Bias: t.bias})
	kernel.Gemm(z.Data, f, h.Data, h.Cols(), n, t.h, kernel.Epilogue{Add: true})
	return z
}

// gridQuestion asks the rows of a grid themselves: flow's queries. Their position codes meet the
// keys in small tables.
func (d *Decoder) gridQuestion(a *tensor.Arena, item int, g gridInput, m Memory) question {
	e := d.shape.query
	keys, values, bias := m.keys.At(item), m.values.At(item), m.bias.Row(item)
	t := g.tables(a, keys, d.scale())
	k := &kernel.GridQuery{}
	k.Start(kernel.GridQueryArgs{
		S: keys.Dim(0), H: g.lines, W: g.across, F: g.content, V: e, K: t.content.Data, LDK: t.content.Cols(),
		KMean: t.mean, SH: t.lines.Data, SW: t.across.Data, Bias: bias, Values: values.Data, LDV: e,
	})
	stats := g.stats(normEps)
	lines := max(1, max(d.opt.block(e), 2048)/g.across)
	return question{item: item, n: g.lines * g.across, block: lines * g.across, width: e, attend: func(a *tensor.Arena, y tensor.Tensor, from, to int) error {
		mark := a.Mark()
		defer a.Release(mark)
		n := to - from
		x, mean, inv := a.New(n, g.content), a.Floats(n), a.Floats(n)
		if err := g.readLines(x, from/g.across, n/g.across); err != nil {
			return err
		}
		stats.measure(mean, inv, x, from/g.across, n/g.across)
		k.Attend(y.Data, e, x.Data, g.content, mean, inv, from/g.across, n/g.across)
		return nil
	}}
}
