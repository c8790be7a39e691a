package perceiver

import (
	"context"
	"fmt"
	"math"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/tensor"
)

// Attention returns how much each of the named latents attends to every row of an input, as
// scratch: len(latents)×M, the softmax of the encoder's cross-attention averaged over heads.
// Each row of the result sums to one. Only the result is of size M; the rows are read twice.
func (e *Encoder) Attention(ctx context.Context, a *tensor.Arena, in Input, latents []int) (tensor.Tensor, error) {
	if err := in.check(0, e.c); err != nil {
		return tensor.Tensor{}, err
	}
	for _, l := range latents {
		if l < 0 || l >= e.n {
			return tensor.Tensor{}, fmt.Errorf("perceiver: latent %d, want 0 to %d", l, e.n-1)
		}
	}
	m, _ := in.Rows.Dims()
	out := a.New(len(latents), m)
	mark := a.Mark()
	defer a.Release(mark)
	w := attentionMap{x: &e.cross, picked: latents}
	if err := w.totals(ctx, a, in); err != nil {
		return tensor.Tensor{}, err
	}
	clear(out.Data)
	from := 0
	err := w.scores(ctx, a, in, func(h, l int, s []float32) {
		row, top, sum := out.Row(l)[from:], w.top[h*len(latents)+l], w.sum[h*len(latents)+l]
		for j, x := range s {
			row[j] += float32(math.Exp(float64(x)-top) / sum / float64(w.heads()))
		}
		if h == w.heads()-1 && l == len(latents)-1 {
			from += len(s)
		}
	})
	return out, err
}

// attentionMap computes the scores of a few latents, block by block.
type attentionMap struct {
	x        *encoderCross
	picked   []int
	top, sum []float64 // running maximum and sum of exponentials, heads × picked
}

func (w *attentionMap) heads() int {
	if w.x.folded != nil {
		return 1
	}
	return w.x.heads
}

// totals makes the first pass: the softmax's maximum and denominator.
func (w *attentionMap) totals(ctx context.Context, a *tensor.Arena, in Input) error {
	n := w.heads() * len(w.picked)
	w.top, w.sum = make([]float64, n), make([]float64, n)
	for i := range w.top {
		w.top[i] = math.Inf(-1)
	}
	return w.scores(ctx, a, in, func(h, l int, s []float32) {
		i := h*len(w.picked) + l
		top := w.top[i]
		for _, x := range s {
			top = math.Max(top, float64(x))
		}
		sum := w.sum[i] * math.Exp(w.top[i]-top)
		for _, x := range s {
			sum += math.Exp(float64(x) - top)
		}
		w.top[i], w.sum[i] = top, sum
	})
}

// scores calls f with the scores of every block: head, index among the picked, values.
func (w *attentionMap) scores(ctx context.Context, a *tensor.Arena, in Input, f func(h, l int, s []float32)) error {
	mark := a.Mark()
	defer a.Release(mark)
	x := w.x
	q := x.queries
	if x.folded != nil {
		q = x.folded.queries
	}
	width := q.Cols() / w.heads()
	picked := a.New(len(w.picked), q.Cols())
	for i, l := range w.picked {
		copy(picked.Row(i), q.Row(l))
	}
	block := x.opt.block(max(x.shape.key, x.qk))
	k, s := a.New(block, q.Cols()), a.New(len(w.picked), block)
	return eachBlock(ctx, a, in, block, func(rows tensor.Tensor, bias []float32) {
		n, c := rows.Dim(0), rows.Dim(1)
		keys := k.Slice(0, n)
		if x.folded != nil {
			kernel.LayerNorm(keys.Data, rows.Data, c, c, n, c, nil, nil, x.norm.Eps)
		} else {
			x.norm.Into(rows, rows)
			x.key.Into(keys, rows, kernel.Epilogue{})
		}
		for h := range w.heads() {
			kernel.GemmNT(s.Data, block, picked.Data[h*width:], q.Cols(), keys.Data[h*width:], q.Cols(),
				len(w.picked), n, width, kernel.Epilogue{Scale: x.scale()})
			for l := range w.picked {
				row := s.Row(l)[:n]
				if bias != nil {
					kernel.Add(row, row, bias)
				}
				f(h, l, row)
			}
		}
	})
}
