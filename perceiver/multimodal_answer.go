package perceiver

import (
	"context"
	"math"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/tensor"
)

// answer decodes each modality by itself. Its queries are [code, pad] with a pad that is the same
// for all of them, so that with a folded key k, and μ and σ of the query row, a score is
//
//	(code·k_code + pad·k_pad − μ·Σk) / σ
//
// and queries and keys shrink to the code's width and two columns: [code, 1, −μ]/σ against
// [k_code, pad·k_pad, Σk].
func (m *MultimodalAutoencoder) answer(ctx context.Context, a *tensor.Arena, memory Memory, r *Reconstruction, p Points) error {
	results := [3]tensor.Tensor{r.Audio, r.Image, r.Label}
	for k, n := range p.counts() {
		if n == 0 {
			continue
		}
		mark := a.Mark()
		width := m.out.width - len(m.out.pad[k])
		var questions []question
		for i := range memory.keys.Dim(0) {
			questions = append(questions, m.pointQuestion(a, memory, i, p, k, width))
		}
		out := results[k]
		err := m.Decoder.answer(ctx, a, questions, m.tails[k], func(item, from int, y tensor.Tensor) error {
			copy(out.At(item).Data[from*y.Cols():], y.Data)
			return nil
		})
		a.Release(mark)
		if err != nil {
			return err
		}
	}
	return nil
}

// pointQuestion asks the points of modality k of element item.
func (m *MultimodalAutoencoder) pointQuestion(a *tensor.Arena, memory Memory, item int, p Points, k, width int) question {
	d, values := m.Decoder, memory.values.At(item)
	if m.tails[k].lean != nil {
		values = memory.narrow.At(item)
	}
	keys, bias, v := m.shortKeys(a, memory.keys.At(item), k, width), memory.bias.Row(item), values.Cols()
	return question{item: item, n: p.counts()[k], block: d.opt.block(m.out.width), width: v, attend: func(a *tensor.Arena, y tensor.Tensor, from, to int) error {
		mark := a.Mark()
		defer a.Release(mark)
		q := a.New(to-from, width+2)
		m.shortQueries(q, p, k, width, from)
		kernel.Attention(&kernel.AttnArgs{
			Heads: 1, QK: width + 2, V: v, Scale: d.scale(), L: to - from, S: keys.Dim(0), Q: q.Data, LDQ: width + 2,
			K: keys.Data, LDK: width + 2, VV: values.Data, LDV: v, Out: y.Data, LDO: v, KeyBias: bias, DType: d.dtype,
		})
		return nil
	}}
}

// shortKeys returns [k_code, pad·k_pad, Σk] of folded keys N×E as scratch, N×(width+2).
func (m *MultimodalAutoencoder) shortKeys(a *tensor.Arena, keys tensor.Tensor, modality, width int) tensor.Tensor {
	short, pad := a.New(keys.Dim(0), width+2), m.out.pad[modality]
	kernel.Parallel(keys.Dim(0), func(i int) {
		row, dst := keys.Row(i), short.Row(i)
		copy(dst, row[:width])
		var inner, sum float64
		for c, x := range row {
			sum += float64(x)
			if c >= width {
				inner += float64(x) * float64(pad[c-width])
			}
		}
		dst[width], dst[width+1] = float32(inner), float32(sum)
	})
	return short
}

// shortQueries writes [code, 1, −μ]/σ of queries from, from+1, … of a modality to the rows of q.
func (m *MultimodalAutoencoder) shortQueries(q tensor.Tensor, p Points, modality, width, from int) {
	var padSum, padSquare float64
	for _, x := range m.out.pad[modality] {
		padSum += float64(x)
		padSquare += float64(x) * float64(x)
	}
	e := float64(m.out.width)
	const part = 64
	kernel.Parallel((q.Dim(0)+part-1)/part, func(b int) {
		for i := b * part; i < min(q.Dim(0), (b+1)*part); i++ {
			row := q.Row(i)
			m.code(row, p, modality, from+i)
			sum, square := padSum, padSquare
			for _, x := range row[:width] {
				sum += float64(x)
				square += float64(x) * float64(x)
			}
			mean := sum / e
			inv := 1 / math.Sqrt(max(0, square/e-mean*mean)+normEps)
			for c := range row[:width] {
				row[c] *= float32(inv)
			}
			row[width], row[width+1] = float32(inv), float32(-mean*inv)
		}
	})
}
