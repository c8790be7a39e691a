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

// question is the queries for one element of a batch, folded (see foldedQuery): keys and values
// of its latents, and a function that writes the queries in the keys' space.
type question struct {
	item, n      int
	keys, values tensor.Tensor // N×K, N×E
	bias         []float32     // N
	fill         func(q tensor.Tensor, from, to int) error
}

// answer answers questions (all of the same K) chunk by chunk through a tail: out gets the
// element, the first row and rows×F', scratch.
func (d *Decoder) answer(ctx context.Context, a *tensor.Arena, questions []question, t tail, out func(item, from int, y tensor.Tensor) error) error {
	total, done := 0, 0
	for _, q := range questions {
		total += q.n
	}
	block := d.opt.block(d.shape.query)
	for _, q := range questions {
		for from := 0; from < q.n; from += block {
			if err := step(ctx, "decode", done, total); err != nil {
				return err
			}
			to := min(from+block, q.n)
			done += to - from
			mark := a.Mark()
			y, err := d.answerRows(a, q, t, from, to)
			if err == nil {
				err = out(q.item, from, y)
			}
			a.Release(mark)
			if err != nil {
				return err
			}
		}
	}
	return step(ctx, "decode", total, total)
}

func (d *Decoder) answerRows(a *tensor.Arena, q question, t tail, from, to int) (tensor.Tensor, error) {
	n, k, e := to-from, q.keys.Dim(1), d.shape.query
	x, y := a.New(n, k), a.New(n, e)
	if err := q.fill(x, from, to); err != nil {
		return tensor.Tensor{}, err
	}
	kernel.Attention(&kernel.AttnArgs{
		Heads: 1, QK: k, V: e, Scale: d.scale(), L: n, S: q.keys.Dim(0), Q: x.Data, LDQ: k, K: q.keys.Data, LDK: k,
		VV: q.values.Data, LDV: e, Out: y.Data, LDO: e, KeyBias: q.bias,
	})
	h := d.ff.mlp.Up.ForwardAct(a, d.ff.norm.Forward(a, y), d.ff.mlp.Act)
	f := len(t.bias)
	z := a.New(n, f)
	kernel.Gemm(z.Data, f, y.Data, e, n, t.y, kernel.Epilogue{Bias: t.bias})
	kernel.Gemm(z.Data, f, h.Data, h.Cols(), n, t.h, kernel.Epilogue{Add: true})
	return z, nil
}
