package vision

import (
	"math"
	"sort"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/tensor"
)

// embed writes the token embeddings of each picture into x (B×T×Width), in the order of p.
func (t *Tower) embed(a *tensor.Arena, x tensor.Tensor, in Input, p patches) {
	mark := a.Mark()
	defer a.Release(mark)
	conv := t.patch.Forward(a, in.Pixels, kernel.Identity) // B×rows×cols×Width
	gh, gw := conv.Dim(1), conv.Dim(2)
	for i := range x.Dim(0) {
		dst, src := x.At(i), conv.At(i)
		ids := t.positionIDs(gh, gw, in.Masks, i)
		first := 0
		if t.class != nil {
			kernel.Add(dst.Row(0), t.class, t.positions.Row(0))
			first = 1
		}
		for j := range gh * gw {
			kernel.Add(dst.Row(first+j), src.Data[p.at(i, j)*t.Config.Width:][:t.Config.Width], t.positions.Row(first+ids[p.at(i, j)]))
		}
	}
	t.emit(a, "embeddings", x, p)
	if t.pre != nil {
		t.pre.Into(x, x)
	}
}

// positionIDs gives the row of the position table for each patch of picture i.
func (t *Tower) positionIDs(gh, gw int, masks [][]bool, i int) []int {
	ids := make([]int, gh*gw)
	if t.Config.Kind != Idefics2 {
		for j := range ids {
			ids[j] = j
		}
		return ids
	}
	if masks == nil {
		bucketise(ids, nil, gh, gw, t.Config.Side())
	} else {
		bucketise(ids, masks[i], gh, gw, t.Config.Side())
	}
	return ids
}

// bucketise places the real patches of a picture of any shape on the side×side grid of
// learned positions: the fractional coordinates k/n of n rows (columns) are put in buckets
// with boundaries 1/side, 2/side, …, a value on a boundary going up. Both lists are made in
// float32 as torch.arange makes them, because rounding decides at the edges. Padding keeps
// position 0.
func bucketise(ids []int, mask []bool, gh, gw, side int) {
	real := func(r, c int) bool { return mask == nil || mask[r*gw+c] }
	rows, cols := 0, 0
	for r := range gh {
		if real(r, 0) {
			rows++
		}
	}
	for c := range gw {
		if real(0, c) {
			cols++
		}
	}
	rb, cb := buckets(rows, side), buckets(cols, side)
	n := 0 // real patches in raster order take the grid's positions in order
	for r := range gh {
		for c := range gw {
			if !real(r, c) || n >= rows*cols {
				continue
			}
			ids[r*gw+c] = rb[n/cols]*side + cb[n%cols]
			n++
		}
	}
}

// buckets returns the bucket of each of the coordinates 0, 1/n, 2/n, … below 1 − 1e-6.
func buckets(n, side int) []int {
	bounds := arange(1/float64(side), 1, 1/float64(side))
	// the reference divides by a tensor, which makes this step a float32
	coords := arange(0, 1-1e-6, float64(1/float32(max(n, 1))))
	out := make([]int, n)
	for i := range out {
		if i < len(coords) {
			// right: boundaries ≤ the coordinate
			out[i] = sort.Search(len(bounds), func(j int) bool { return bounds[j] > coords[i] })
		}
	}
	return out
}

// arange is torch.arange over float32 on a CPU: ceil((end−start)/step) values. Values are made
// in float64 and rounded, but runs of 8 start from a rounded value: all whole pairs of runs,
// the rest singly.
func arange(start, end, step float64) []float32 {
	const lanes = 8
	n := int(math.Ceil((end - start) / step))
	out := make([]float32, n)
	whole := n / (2 * lanes) * (2 * lanes)
	for i := range out {
		if i >= whole {
			out[i] = float32(start + step*float64(i))
			continue
		}
		base := float32(start + step*float64(i/lanes*lanes))
		out[i] = float32(float64(base) + float64(i%lanes)*step)
	}
	return out
}

// patches is the order in which the tokens of each picture are computed: real ones first, so
// that attention reads them as one run and padding cannot show in the bits. The zero value of
// perm is the order of the input.
type patches struct {
	count int
	perm  [][]int // by picture: input place of each computed token; nil for none
	n     []int   // by picture: real tokens
}

func order(b, count int, masks [][]bool) patches {
	p := patches{count: count}
	if masks == nil {
		return p
	}
	for _, m := range masks {
		perm := make([]int, 0, count)
		for j, real := range m {
			if real {
				perm = append(perm, j)
			}
		}
		n := len(perm)
		for j, real := range m {
			if !real {
				perm = append(perm, j)
			}
		}
		p.perm, p.n = append(p.perm, perm), append(p.n, n)
	}
	return p
}

// real is the number of keys of picture i.
func (p patches) real(i int) int {
	if p.n == nil {
		return p.count
	}
	return p.n[i]
}

// at is the input place of computed token j of picture i.
func (p patches) at(i, j int) int {
	if p.perm == nil {
		return j
	}
	return p.perm[i][j]
}

// restore copies computed tokens to their input places.
func (p patches) restore(dst, x tensor.Tensor) {
	if p.perm == nil {
		copy(dst.Data, x.Data)
		return
	}
	for i := range x.Dim(0) {
		for j := range p.count {
			copy(dst.At(i).Row(p.perm[i][j]), x.At(i).Row(j))
		}
	}
}
