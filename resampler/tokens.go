package resampler

import (
	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/tensor"
)

// tokens readies the media tokens for the blocks: embeddings added, projected to the blocks'
// width, and padding left out.
func (b *blocks) tokens(a *tensor.Arena, in Input) rows {
	n, v := in.X.Dim(0), in.X.Dim(1)
	x := b.embed(a, in)
	switch {
	case b.projection != nil:
		x = b.projection.Forward(a, x)
		a.Emit("modality_projection", x)
	case b.projIn != nil:
		x = b.projIn.Forward(a, x)
		a.Emit("proj_in", x)
	}
	if b.c.Kind == Idefics2 && in.Mask != nil {
		return compact(a, x, in.Mask)
	}
	start := make([]int, n+1)
	for i := range start {
		start[i] = i * v
	}
	return rows{x: x.Reshape(n*v, x.Cols()), start: start}
}

// embed adds the frame, media and position embeddings; without any it returns X itself.
func (b *blocks) embed(a *tensor.Arena, in Input) tensor.Tensor {
	if b.frames.Data == nil && b.media.Data == nil && b.positions.Data == nil {
		return in.X
	}
	n, v := in.X.Dim(0), in.X.Dim(1)
	perFrame := v / max(in.Frames, 1)
	x := a.New(in.X.Shape...)
	copy(x.Data, in.X.Data)
	for i := range n {
		for t := range v {
			row := x.At(i).Row(t)
			if b.frames.Data != nil {
				kernel.Add(row, row, b.frames.Row(t/perFrame))
			}
			if b.media.Data != nil {
				kernel.Add(row, row, b.media.Row(place(in.Media, i)))
			}
			if b.positions.Data != nil {
				kernel.Add(row, row, b.positions.Row(t))
			}
		}
	}
	return x
}

func place(media []int, i int) int {
	if media == nil {
		return 0
	}
	return media[i]
}

// compact keeps the real tokens only. What a masked key would have weighed is exactly zero,
// so leaving it out changes nothing but the work, and the result cannot depend on padding.
func compact(a *tensor.Arena, x tensor.Tensor, mask [][]bool) rows {
	n, width := x.Dim(0), x.Cols()
	start := make([]int, n+1)
	for i, m := range mask {
		start[i+1] = start[i]
		for _, real := range m {
			if real {
				start[i+1]++
			}
		}
	}
	out := a.New(start[n], width)
	at := 0
	for i, m := range mask {
		for t, real := range m {
			if real {
				copy(out.Row(at), x.At(i).Row(t))
				at++
			}
		}
	}
	return rows{x: out, start: start}
}
