package pipeline

import (
	"context"
	"math"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/modality/imagefile"
	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/pipeline/conditioned"
	"github.com/mmserve/mmserve/vision"
)

// sliced names the preprocessing of MiniCPM-V: the whole picture at about 448×448 pixels in
// its own aspect ratio and, when it is larger, up to nine slices of about that size.
const sliced = "minicpmv"

// MiniCPM-V's published slice_config.
const (
	sliceSide  = 448
	slicePatch = 14
	maxSlices  = 9
)

// divisible rounds a length to a multiple of n, half to even as Python does, at least n.
func divisible(length float64, n int) int {
	return max(int(math.RoundToEven(length/float64(n)))*n, n)
}

// bestSize is a size of about sliceSide² pixels in the aspect ratio of w×h, in whole patches; a
// smaller picture is enlarged only when asked.
func bestSize(w, h float64, enlarge bool) (int, int) {
	if w*h > sliceSide*sliceSide || enlarge {
		r := w / h
		h = math.Floor(sliceSide / math.Sqrt(r))
		w = math.Floor(h * r)
	}
	return divisible(w, slicePatch), divisible(h, slicePatch)
}

// sliceGrid is the division of a w×h picture into columns and rows, 1×1 for none: of the
// divisions into about as many slices as it has 448×448 areas, the one nearest its shape.
func sliceGrid(w, h int) (cols, rows int) {
	ratio := float64(w) * float64(h) / (sliceSide * sliceSide)
	n := min(int(math.Ceil(ratio)), maxSlices)
	if n <= 1 {
		return 1, 1
	}
	shape, least := math.Log(float64(w)/float64(h)), math.Inf(1)
	cols, rows = 1, 1
	for k := n - 1; k <= n+1; k++ {
		if k == 1 || k > maxSlices {
			continue
		}
		for c := 1; c <= k; c++ {
			if k%c != 0 {
				continue
			}
			if off := math.Abs(shape - math.Log(float64(c)/float64(k/c))); off < least {
				cols, rows, least = c, k/c, off
			}
		}
	}
	return cols, rows
}

// plan448 gives the size of the whole picture and, with slices, their size and grid.
func plan448(w, h int) (whole, part [2]int, cols, rows int) {
	cols, rows = sliceGrid(w, h)
	one := cols*rows == 1
	whole[0], whole[1] = bestSize(float64(w), float64(h), one)
	if one {
		return whole, part, 1, 1
	}
	fw, fh := float64(divisible(float64(w), cols))/float64(cols), float64(divisible(float64(h), rows))/float64(rows)
	part[0], part[1] = bestSize(fw, fh, true)
	return whole, part, cols, rows
}

// sliceSizes are the heights and widths of the pictures that a w×h file becomes.
func sliceSizes(w, h int) [][2]int {
	whole, part, cols, rows := plan448(w, h)
	out := [][2]int{{whole[1], whole[0]}}
	if cols*rows > 1 {
		for range cols * rows {
			out = append(out, [2]int{part[1], part[0]})
		}
	}
	return out
}

// slices448 decodes a file and makes the whole picture and its slices, row by row of cols.
func slices448(ctx context.Context, p *modality.ImageProcessor, in media.Input) (pictures []conditioned.Pictures, cols int, notes []string, err error) {
	img, err := imagefile.Decode(ctx, in, imagefile.Options{})
	if err != nil {
		return nil, 0, nil, err
	}
	src := img.RGB(imagefile.DropAlpha)
	if src.W < 1 || src.H < 1 {
		return nil, 0, nil, media.Errorf(media.TooSmall, "image: no pixels")
	}
	whole, part, cols, rows := plan448(src.W, src.H)
	all := [][2]int{whole}
	if cols*rows > 1 {
		all = append(all, [2]int{part[0] * cols, part[1] * rows})
	}
	for _, s := range all {
		if err := in.Limits.Picture("image: resized", int64(s[0]), int64(s[1]), 15); err != nil {
			return nil, 0, nil, err
		}
	}
	list := []*imagefile.RGB{src.Resize(whole[0], whole[1], imagefile.Bicubic)}
	if cols*rows > 1 {
		fine := src.Resize(part[0]*cols, part[1]*rows, imagefile.Bicubic)
		for i := range cols * rows {
			list = append(list, fine.Crop(i%cols*part[0], i/cols*part[1], part[0], part[1]))
		}
	}
	var out []conditioned.Pictures
	for _, pic := range list {
		px := p.Normalise([]*imagefile.RGB{pic})
		out = append(out, conditioned.Pictures{Pixels: vision.ChannelsLast(px.Values)})
	}
	return out, cols, img.Notes, nil
}
