package pipeline

import (
	"context"
	"fmt"

	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/tensor"
)

// Settings of optical flow that the published configuration leaves out (deepmind-research
// perceiver/colabs/optical_flow.ipynb).
const (
	flowOverlap = 20 // least overlap of neighbouring tiles, pixels
	flowScale   = 20 // the network answers in units of 1/20 pixel
)

// frame is an RGB picture, H×W×3, values 0..255.
type frame struct {
	h, w int
	rgb  []uint8
}

// tileCorners lists where tiles of a size start along a side, in the reference's order: every
// size−overlap, the last one moved flush with the border. A start that would run over the
// border is clamped to it. A start may repeat; the blend then counts it as often.
func tileCorners(side, tile, overlap int) []int {
	var at []int
	for y := 0; y < side; y += tile - overlap {
		at = append(at, min(y, side-tile))
	}
	at[len(at)-1] = side - tile
	return at
}

// flowTiles lays tiles of th×tw over two frames, asks the network for each and blends the
// answers, weighting a pixel by its distance to the tile's border. A tile is cut out before its
// pixels' neighbourhoods are gathered: beyond its border is zero, as in the reference.
type flowTiles struct {
	th, tw, overlap int
}

// run returns the flow of the pair, H×W×2 (dx, dy in pixels). net maps one tile of both frames
// (th×tw×3 each, values in [−1, 1]) to th×tw×2.
func (f flowTiles) run(ctx context.Context, a, b frame, net func(first, second tensor.Tensor) (tensor.Tensor, error)) (tensor.Tensor, error) {
	if a.h != b.h || a.w != b.w {
		return tensor.Tensor{}, fmt.Errorf("pipeline: %w: optical flow: frames differ in size: %d×%d and %d×%d", ErrInput, a.w, a.h, b.w, b.h)
	}
	if a.h < f.th || a.w < f.tw {
		return tensor.Tensor{}, f.tooSmall(a.h, a.w)
	}
	ys, xs := tileCorners(a.h, f.th, f.overlap), tileCorners(a.w, f.tw, f.overlap)
	sum, weight := tensor.New(a.h, a.w, 2), make([]float32, a.h*a.w)
	first, second := tensor.New(f.th, f.tw, 3), tensor.New(f.th, f.tw, 3)
	done := 0
	for i, y := range ys {
		for j, x := range xs {
			if repeated(ys, i) || repeated(xs, j) {
				continue // answered with its first occurrence
			}
			if err := ctx.Err(); err != nil {
				return tensor.Tensor{}, err
			}
			a.tile(first, y, x)
			b.tile(second, y, x)
			out, err := net(first, second)
			if err != nil {
				return tensor.Tensor{}, err
			}
			times := float32(count(ys, y) * count(xs, x))
			f.add(sum, weight, out, y, x, times)
			done++
			Report(ctx, "tiles", done, distinct(ys)*distinct(xs))
		}
	}
	for i, w := range weight {
		sum.Data[2*i] /= w
		sum.Data[2*i+1] /= w
	}
	return sum, nil
}

// tooSmall is the error for frames that do not hold a tile.
func (f flowTiles) tooSmall(h, w int) error {
	return media.Errorf(media.TooSmall, "pipeline: optical flow: frames of %d×%d, want at least %d×%d (width×height)", w, h, f.tw, f.th)
}

// add blends one tile's answer (th×tw×2) into the sums.
func (f flowTiles) add(sum tensor.Tensor, weight []float32, out tensor.Tensor, y0, x0 int, times float32) {
	w := sum.Dim(1)
	for y := range f.th {
		for x := range f.tw {
			k := float32(min(x+1, f.tw-x, y+1, f.th-y)) * times
			at, from := (y0+y)*w+x0+x, (y*f.tw+x)*2
			weight[at] += k
			sum.Data[2*at] += out.Data[from] * flowScale * k
			sum.Data[2*at+1] += out.Data[from+1] * flowScale * k
		}
	}
}

// tile cuts th×tw×3 values out of a frame, scaled to [−1, 1] in float32 steps.
func (img frame) tile(dst tensor.Tensor, y0, x0 int) {
	th, tw := dst.Dim(0), dst.Dim(1)
	for y := range th {
		src := img.rgb[((y0+y)*img.w+x0)*3:][:3*tw]
		for i, v := range src {
			dst.Data[y*tw*3+i] = float32(v)/255*2 - 1
		}
	}
}

func repeated(at []int, i int) bool { return count(at[:i], at[i]) > 0 }

func count(at []int, v int) int {
	n := 0
	for _, x := range at {
		if x == v {
			n++
		}
	}
	return n
}

func distinct(at []int) int {
	n := 0
	for i := range at {
		if !repeated(at, i) {
			n++
		}
	}
	return n
}
