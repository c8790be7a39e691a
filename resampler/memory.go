package resampler

import (
	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/tensor"
)

// keysValues are the keys and values of one layer: picture i owns rows [start[i], start[i+1]),
// its tokens first and its latents last.
type keysValues struct {
	kt, vt   tensor.Tensor
	k, v     []float32 // of the first row; with one weight for both, v lies inside kt
	ldk, ldv int
	start    []int
}

// room makes place for the keys and values of pictures whose tokens start so, and of count
// latents each.
func (l *layer) room(a *tensor.Arena, tokens []int, count int) keysValues {
	m := keysValues{start: make([]int, len(tokens))}
	for i, at := range tokens {
		m.start[i] = at + i*count
	}
	total := m.start[len(m.start)-1]
	if l.kv != nil {
		m.kt = a.New(total, l.kv.Out())
		m.k, m.v, m.ldk, m.ldv = m.kt.Data, m.kt.Data[m.kt.Cols()/2:], m.kt.Cols(), m.kt.Cols()
		return m
	}
	m.kt, m.vt = a.New(total, l.k.Out()), a.New(total, l.v.Out())
	m.k, m.v, m.ldk, m.ldv = m.kt.Data, m.vt.Data, m.kt.Cols(), m.vt.Cols()
	return m
}

// project writes the keys and values of normalised rows h from row at on.
func (l *layer) project(m *keysValues, at int, h tensor.Tensor) {
	to := at + h.Rows()
	if l.kv != nil {
		l.kv.Into(m.kt.Slice(at, to), h, kernel.Epilogue{})
		return
	}
	l.k.Into(m.kt.Slice(at, to), h, kernel.Epilogue{})
	l.v.Into(m.vt.Slice(at, to), h, kernel.Epilogue{})
}

// blockRows bounds the tokens that are normalised at once.
const blockRows = 512

// addTokens normalises the tokens a block at a time and writes their keys and values.
func (b *blocks) addTokens(a *tensor.Arena, l *layer, m *keysValues, x rows) {
	mark := a.Mark()
	defer a.Release(mark)
	h := a.New(blockRows, b.c.Width)
	for i := range len(x.start) - 1 {
		for from := x.start[i]; from < x.start[i+1]; from += blockRows {
			to := min(from+blockRows, x.start[i+1])
			part := h.Slice(0, to-from)
			l.normX.apply(part.Data, x.x.Slice(from, to).Data, to-from)
			l.project(m, m.start[i]+from-x.start[i], part)
		}
	}
}

// stream makes the keys and values of every layer in one reading of the tokens. The projected
// tokens, wider than all keys and values together, are never held: only a block of them.
func (b *blocks) stream(a *tensor.Arena, in Input) []keysValues {
	n, v := in.X.Dim(0), in.X.Dim(1)
	tokens, place := make([]int, n+1), make([][]int, n) // place: input rows of the real tokens
	for i := range n {
		for t := range v {
			if in.Mask == nil || in.Mask[i][t] {
				place[i] = append(place[i], t)
			}
		}
		tokens[i+1] = tokens[i] + len(place[i])
	}
	ready := make([]keysValues, len(b.layers))
	for i := range b.layers {
		ready[i] = b.layers[i].room(a, tokens, b.c.Count())
	}
	mark := a.Mark()
	defer a.Release(mark)
	x, h := a.New(blockRows, b.c.In), a.New(blockRows, b.c.Width)
	for i := range n {
		for from := 0; from < len(place[i]); from += blockRows {
			to := min(from+blockRows, len(place[i]))
			for j, t := range place[i][from:to] {
				copy(x.Row(j), in.X.At(i).Row(t))
			}
			inner := a.Mark()
			y := b.projection.Forward(a, x.Slice(0, to-from))
			for k := range b.layers {
				l := &b.layers[k]
				part := h.Slice(0, to-from)
				l.normX.apply(part.Data, y.Data, to-from)
				l.project(&ready[k], ready[k].start[i]+from, part)
			}
			a.Release(inner)
		}
	}
	return ready
}
