package pipeline

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/modality/imagefile"
	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/pipeline/conditioned"
	"github.com/mmserve/mmserve/vision"
)

// slicer is MiniCPM-V's preprocessing: the whole picture at about side×side pixels in its own
// aspect ratio and, when it is larger, up to most slices of about that size. Its class is code
// beside the published weights (image_processing_minicpmv.py).
type slicer struct {
	side, patch, most int
	ids               bool // pictures are numbered in the prompt
}

// readSlicer reads the sizes from preprocessor_config.json, else slice_config of config.json,
// else the published ones, and the levels of the pixels.
func readSlicer(d *Dir) (*slicer, *modality.ImageProcessor, error) {
	type sizes struct {
		Most  int   `json:"max_slice_nums"`
		Side  int   `json:"scale_resolution"`
		Patch int   `json:"patch_size"`
		IDs   *bool `json:"use_image_id"`
		Mode  *bool `json:"slice_mode"`
	}
	var own struct {
		sizes
		Mean []float64 `json:"norm_mean"`
		Std  []float64 `json:"norm_std"`
	}
	var config struct {
		Slices sizes `json:"slice_config"`
		IDs    *bool `json:"use_image_id"`
	}
	text, err := d.optional(preprocessorFile)
	if err == nil && text != nil {
		err = json.Unmarshal(text, &own)
	}
	if err == nil {
		err = json.Unmarshal(d.Config, &config)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("pipeline: %s: %w", d.Path, err)
	}
	if own.Mode != nil && !*own.Mode {
		return nil, nil, fmt.Errorf("pipeline: %s: %s: slice_mode false is not known here; max_slice_nums 1 keeps pictures whole", d.Path, preprocessorFile)
	}
	ids := cmp.Or(own.IDs, config.IDs)
	s := &slicer{
		side:  cmp.Or(own.Side, config.Slices.Side, 448),
		patch: cmp.Or(own.Patch, config.Slices.Patch, 14),
		most:  cmp.Or(own.Most, config.Slices.Most, 9),
		ids:   ids != nil && *ids,
	}
	if s.side < s.patch || s.patch < 1 || s.most < 1 || s.side > 1<<14 || s.most > 1<<10 {
		return nil, nil, fmt.Errorf("pipeline: %s: %d slices of %d pixels in patches of %d", d.Path, s.most, s.side, s.patch)
	}
	half := []float64{0.5, 0.5, 0.5}
	mean, std := own.Mean, own.Std
	if len(mean) == 0 {
		mean = half
	}
	if len(std) == 0 {
		std = half
	}
	p, err := modality.ParseImageProcessor(mustJSON(map[string]any{"image_processor_type": "SiglipImageProcessor", "image_mean": mean, "image_std": std}))
	return s, p, err
}

// divisible rounds a length to a multiple of n, half to even as Python does, at least n.
func divisible(length float64, n int) int {
	return max(int(math.RoundToEven(length/float64(n)))*n, n)
}

// bestSize is a size of about side² pixels in the aspect ratio of w×h, in whole patches; a
// smaller picture is enlarged only when asked.
func (s *slicer) bestSize(w, h float64, enlarge bool) (int, int) {
	side := float64(s.side)
	if w*h > side*side || enlarge {
		r := w / h
		h = math.Floor(side / math.Sqrt(r))
		w = math.Floor(h * r)
	}
	return divisible(w, s.patch), divisible(h, s.patch)
}

// grid is the division of a w×h picture into columns and rows, 1×1 for none: of the
// divisions into about as many slices as it has side×side areas, the one nearest its shape.
func (s *slicer) grid(w, h int) (cols, rows int) {
	ratio := float64(w) * float64(h) / float64(s.side*s.side)
	n := min(int(math.Ceil(ratio)), s.most)
	if n <= 1 {
		return 1, 1
	}
	shape, least := math.Log(float64(w)/float64(h)), math.Inf(1)
	cols, rows = 1, 1
	for k := n - 1; k <= n+1; k++ {
		if k == 1 || k > s.most {
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

// plan gives the size of the whole picture and, with slices, their size and grid.
func (s *slicer) plan(w, h int) (whole, part [2]int, cols, rows int) {
	cols, rows = s.grid(w, h)
	one := cols*rows == 1
	whole[0], whole[1] = s.bestSize(float64(w), float64(h), one)
	if one {
		return whole, part, 1, 1
	}
	fw, fh := float64(divisible(float64(w), cols))/float64(cols), float64(divisible(float64(h), rows))/float64(rows)
	part[0], part[1] = s.bestSize(fw, fh, true)
	return whole, part, cols, rows
}

// sizes are the heights and widths of the pictures that a w×h file becomes.
func (s *slicer) sizes(w, h int) [][2]int {
	whole, part, cols, rows := s.plan(w, h)
	out := [][2]int{{whole[1], whole[0]}}
	if cols*rows > 1 {
		for range cols * rows {
			out = append(out, [2]int{part[1], part[0]})
		}
	}
	return out
}

// pictures decodes a file and makes the whole picture and its slices, row by row of cols.
func (s *slicer) pictures(ctx context.Context, p *modality.ImageProcessor, in media.Input) (pictures []conditioned.Pictures, cols int, notes []string, err error) {
	img, err := imagefile.Decode(ctx, in, imagefile.Options{})
	if err != nil {
		return nil, 0, nil, err
	}
	src := img.RGB(imagefile.DropAlpha)
	if src.W < 1 || src.H < 1 {
		return nil, 0, nil, media.Errorf(media.TooSmall, "image: no pixels")
	}
	whole, part, cols, rows := s.plan(src.W, src.H)
	all := [][2]int{whole}
	if cols*rows > 1 {
		all = append(all, [2]int{part[0] * cols, part[1] * rows})
	}
	for _, size := range all {
		if err := in.Limits.Picture("image: resized", int64(size[0]), int64(size[1]), 15); err != nil {
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
