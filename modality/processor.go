package modality

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strings"

	"github.com/mmserve/mmserve/modality/imagefile"
	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/tensor"
)

// ImageProcessor is the preprocessing of one published image model, as its
// preprocessor_config.json states it: crop, resize on bytes exactly as Pillow does, rescale,
// normalise. It is never changed once made and safe for concurrent use.
type ImageProcessor struct {
	Kind string // "perceiver", "clip", "openclip", "siglip", "idefics" or "idefics2"

	crop       bool     // cut the middle
	cropSize   [2]int   // height, width
	resize     bool     //
	size       sizeSpec //
	filter     imagefile.Filter
	split      bool // Idefics2: four quadrants and the whole
	pad        bool // Idefics2: pictures of one input padded to one size
	floatCrop  bool // Perceiver: the crop is a fraction of the short side, before the resize
	roundCrop  bool // torchvision: the crop's corner is rounded, half to even
	alpha      imagefile.Alpha
	normalised [3][256]float32 // the value of each byte in each channel
}

// sizeSpec is "size" of a configuration: both sides, the shortest edge, or bounds of both edges.
type sizeSpec struct {
	height, width     int // both set, or neither
	shortest, longest int
}

// processorConfig is what is read of a preprocessor_config.json.
type processorConfig struct {
	Type        string          `json:"image_processor_type"`
	Extractor   string          `json:"feature_extractor_type"`
	Crop        *bool           `json:"do_center_crop"`
	CropSize    json.RawMessage `json:"crop_size"`
	Resize      *bool           `json:"do_resize"`
	Size        json.RawMessage `json:"size"`
	ImageSize   json.RawMessage `json:"image_size"`
	Resample    *int            `json:"resample"`
	Rescale     *bool           `json:"do_rescale"`
	Factor      *float64        `json:"rescale_factor"`
	Normalize   *bool           `json:"do_normalize"`
	Mean        []float64       `json:"image_mean"`
	Std         []float64       `json:"image_std"`
	Split       *bool           `json:"do_image_splitting"`
	Pad         *bool           `json:"do_pad"`
	NumChannels int             `json:"image_num_channels"`
	Alpha       string          `json:"alpha"` // ours: "white" lays transparency on white, "drop" forgets it
}

var (
	imagenetMean, imagenetStd = []float64{0.485, 0.456, 0.406}, []float64{0.229, 0.224, 0.225}
	openaiMean, openaiStd     = []float64{0.48145466, 0.4578275, 0.40821073}, []float64{0.26862954, 0.26130258, 0.27577711}
	half                      = []float64{0.5, 0.5, 0.5}
)

// ImagePresets are the names ImagePreset knows.
func ImagePresets() []string {
	return []string{"clip", "idefics", "idefics2", "openclip", "perceiver", "siglip"}
}

// ImagePreset returns the processor of a published family with its published settings.
// "openclip" is torchvision's on Pillow, which OpenFlamingo uses: CLIP but for the rounding of
// the crop's corner and of the division by 255.
func ImagePreset(kind string) (*ImageProcessor, error) {
	return newProcessor(kind, processorConfig{})
}

// ParseImageProcessor reads a preprocessor_config.json. Keys that do not change pixels are
// ignored; absent ones take the defaults of the class that the file names.
func ParseImageProcessor(config []byte) (*ImageProcessor, error) {
	var c processorConfig
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, &Error{Code: media.BadOptions, Detail: "image: preprocessor_config.json", Err: err}
	}
	name := c.Type
	if name == "" {
		name = c.Extractor
	}
	kind := strings.ToLower(name)
	for _, suffix := range []string{"fast", "imageprocessor", "featureextractor"} {
		kind = strings.TrimSuffix(kind, suffix)
	}
	if kind == "" {
		return nil, BadOption("image", "preprocessor_config.json names no image_processor_type")
	}
	return newProcessor(kind, c)
}

// newProcessor fills in a family's defaults and the configuration over them.
func newProcessor(kind string, c processorConfig) (*ImageProcessor, error) {
	p := &ImageProcessor{Kind: kind, resize: true, filter: imagefile.Bicubic}
	mean, std := openaiMean, openaiStd
	switch kind {
	case "perceiver":
		p.crop, p.floatCrop, p.cropSize = true, true, [2]int{256, 256}
		p.size = sizeSpec{height: 224, width: 224}
		mean, std = imagenetMean, imagenetStd
	case "clip", "openclip":
		p.crop, p.cropSize, p.roundCrop = true, [2]int{224, 224}, kind == "openclip"
		p.size = sizeSpec{shortest: 224}
	case "siglip":
		p.size = sizeSpec{height: 224, width: 224}
		mean, std = half, half
	case "idefics":
		p.size, p.alpha = sizeSpec{height: 224, width: 224}, imagefile.OnWhite
		if len(c.ImageSize) > 0 {
			c.Size = c.ImageSize
		}
		c.Crop, c.Resize, c.Rescale, c.Normalize, c.Resample = nil, nil, nil, nil, nil // it has no such switches
	case "idefics2":
		p.size = sizeSpec{shortest: 378, longest: 980}
		p.filter, p.split, p.pad = imagefile.Bilinear, true, true
		mean, std = half, half
	default:
		return nil, BadOption("image", "image processor %q: have %s", kind, strings.Join(ImagePresets(), ", "))
	}
	if err := p.override(c); err != nil {
		return nil, err
	}
	switch c.Alpha {
	case "":
	case "white":
		p.alpha = imagefile.OnWhite
	case "drop":
		p.alpha = imagefile.DropAlpha
	default:
		return nil, BadOption("image", "alpha %q: want white or drop", c.Alpha)
	}
	if c.Mean != nil {
		mean = c.Mean
	}
	if c.Std != nil {
		std = c.Std
	}
	return p, p.levels(c, mean, std)
}

func override[T any](v *T, p *T) {
	if p != nil {
		*v = *p
	}
}

// override applies what a configuration sets.
func (p *ImageProcessor) override(c processorConfig) error {
	override(&p.crop, c.Crop)
	override(&p.resize, c.Resize)
	override(&p.split, c.Split)
	override(&p.pad, c.Pad)
	if c.Resample != nil {
		p.filter = imagefile.Filter(*c.Resample)
		if !p.filter.Known() {
			return BadOption("image", "resample %d: want 0 to 5", *c.Resample)
		}
	}
	if err := parseSize("size", c.Size, &p.size, p.Kind == "clip" || p.Kind == "openclip"); err != nil {
		return err
	}
	crop := sizeSpec{height: p.cropSize[0], width: p.cropSize[1]}
	if err := parseSize("crop_size", c.CropSize, &crop, false); err != nil {
		return err
	}
	if p.crop && crop.height == 0 {
		return BadOption("image", "crop_size needs height and width")
	}
	p.cropSize = [2]int{crop.height, crop.width}
	if p.floatCrop && p.crop && p.size.height == 0 {
		return BadOption("image", "size needs height and width")
	}
	if p.Kind == "idefics2" && p.resize && p.size.longest == 0 && p.size.height == 0 {
		return BadOption("image", "size needs shortest_edge and longest_edge")
	}
	return nil
}

// maxSide bounds the sizes a configuration may ask for.
const maxSide = 16384

// parseSize reads a size: a number, or an object of height and width or of edges.
func parseSize(name string, raw json.RawMessage, v *sizeSpec, edge bool) error {
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	var n int
	if json.Unmarshal(raw, &n) == nil {
		*v = sizeSpec{height: n, width: n}
		if edge {
			*v = sizeSpec{shortest: n}
		}
	} else {
		var o struct {
			Height   int `json:"height"`
			Width    int `json:"width"`
			Shortest int `json:"shortest_edge"`
			Longest  int `json:"longest_edge"`
		}
		if err := json.Unmarshal(raw, &o); err != nil {
			return BadOption("image", "%s: %v", name, err)
		}
		*v = sizeSpec{o.Height, o.Width, o.Shortest, o.Longest}
	}
	for _, s := range []int{v.height, v.width, v.shortest, v.longest} {
		if s < 0 || s > maxSide {
			return BadOption("image", "%s of %d: want 1 to %d", name, s, maxSide)
		}
	}
	if (v.height == 0) != (v.width == 0) || v.height == 0 && v.shortest == 0 {
		return BadOption("image", "%s %s: want height and width, or shortest_edge", name, raw)
	}
	return nil
}

// levels computes the value of each byte: float32(float64(v)·factor), then minus the mean and
// over the deviation in float32. torchvision divides by 255 in float32 instead.
func (p *ImageProcessor) levels(c processorConfig, mean, std []float64) error {
	if len(mean) != 3 || len(std) != 3 {
		return BadOption("image", "image_mean of %d and image_std of %d values: want 3", len(mean), len(std))
	}
	factor, rescale, normalise := 1.0/255, true, true
	override(&factor, c.Factor)
	override(&rescale, c.Rescale)
	override(&normalise, c.Normalize)
	for ch := range 3 {
		for v := range 256 {
			x := float32(v)
			switch {
			case rescale && p.roundCrop:
				x /= 255
			case rescale:
				x = float32(float64(v) * factor)
			}
			if normalise {
				x = float32(x-float32(mean[ch])) / float32(std[ch])
			}
			if math.IsNaN(float64(x)) || math.IsInf(float64(x), 0) {
				return BadOption("image", "image_std %g: gives no number", std[ch])
			}
			p.normalised[ch][v] = x
		}
	}
	return nil
}

// Levels is the value of each byte in each of the three channels.
func (p *ImageProcessor) Levels() *[3][256]float32 { return &p.normalised }

// Sizes says what a picture of w×h pixels becomes: the sizes (height, width) of the resulting
// pictures, one but for Idefics2 with splitting.
func (p *ImageProcessor) Sizes(w, h int) [][2]int {
	var out [][2]int
	for _, q := range p.parts(w, h) {
		w, h := q.w, q.h
		if p.crop && p.floatCrop {
			h, w = p.cropSides(h, w)
		}
		if p.resize {
			h, w = p.target(h, w)
		}
		if p.crop && !p.floatCrop {
			h, w = p.cropSize[0], p.cropSize[1]
		}
		out = append(out, [2]int{h, w})
	}
	return out
}

// box is a part of a picture.
type box struct{ x, y, w, h int }

// parts are what a picture is split into: itself, or its quadrants and itself.
func (p *ImageProcessor) parts(w, h int) []box {
	whole := box{0, 0, w, h}
	if !p.split || p.Kind != "idefics2" {
		return []box{whole}
	}
	x, y := w/2, h/2
	quarters := []box{{0, 0, x, y}, {x, 0, w - x, y}, {0, y, x, h - y}, {x, y, w - x, h - y}, whole}
	if x == 0 || y == 0 {
		return []box{whole}
	}
	return quarters
}

// target is the size that h×w pixels are resized to.
func (p *ImageProcessor) target(h, w int) (int, int) {
	s := p.size
	if s.height != 0 {
		return s.height, s.width
	}
	if s.longest != 0 {
		return boundedEdges(h, w, s.shortest, s.longest)
	}
	short, long := min(h, w), max(h, w)
	long = int(float64(s.shortest*long) / float64(short))
	if w <= h {
		return long, s.shortest
	}
	return s.shortest, long
}

// boundedEdges is Idefics2's rule: the longer edge at most longest, its aspect kept, and then
// each edge at least shortest.
func boundedEdges(h, w, shortest, longest int) (int, int) {
	aspect := float64(w) / float64(h)
	switch {
	case w >= h && w > longest:
		w = longest
		h = int(float64(w) / aspect)
	case h > w && h > longest:
		h = longest
		w = int(float64(h) * aspect)
	}
	return max(h, shortest), max(w, shortest)
}

// cropSides is the Perceiver's crop: size/crop_size of the short side.
func (p *ImageProcessor) cropSides(h, w int) (int, int) {
	short := float64(min(h, w))
	ch := int(float64(p.size.height) / float64(p.cropSize[0]) * short)
	cw := int(float64(p.size.width) / float64(p.cropSize[1]) * short)
	return max(ch, 1), max(cw, 1)
}

// Prepared is a picture as a model sees it, still in bytes.
type Prepared struct {
	Pictures []*imagefile.RGB // one, or the parts of a split
	Notes    []string         // what was cropped and resized
}

// Prepare crops, splits and resizes a decoded picture.
func (p *ImageProcessor) Prepare(ctx context.Context, img *imagefile.Image) (*Prepared, error) {
	src := img.RGB(p.alpha)
	out := &Prepared{}
	for _, q := range p.parts(src.W, src.H) {
		if err := ctx.Err(); err != nil {
			return nil, media.Wrap(err, media.Canceled, "image: prepare")
		}
		out.Pictures = append(out.Pictures, p.one(src.Crop(q.x, q.y, q.w, q.h)))
	}
	out.Notes = p.notes(src.W, src.H)
	return out, nil
}

// one crops and resizes one picture in the family's order.
func (p *ImageProcessor) one(src *imagefile.RGB) *imagefile.RGB {
	if p.crop && p.floatCrop {
		h, w := p.cropSides(src.H, src.W)
		src = centreCrop(src, h, w)
	}
	if p.resize {
		h, w := p.target(src.H, src.W)
		src = src.Resize(w, h, p.filter)
	}
	if p.crop && !p.floatCrop {
		if p.roundCrop {
			y, x := evenHalf(src.H-p.cropSize[0]), evenHalf(src.W-p.cropSize[1])
			return src.Crop(x, y, p.cropSize[1], p.cropSize[0])
		}
		src = centreCrop(src, p.cropSize[0], p.cropSize[1])
	}
	return src
}

// evenHalf is int(round(n/2)) in Python: half to even.
func evenHalf(n int) int { return int(math.RoundToEven(float64(n) / 2)) }

// centreCrop cuts the middle h×w pixels; a crop beyond the picture is filled with black, the
// picture's corner then at ceil of half the difference.
func centreCrop(src *imagefile.RGB, h, w int) *imagefile.RGB {
	y, x := floorHalf(src.H-h), floorHalf(src.W-w)
	if y < 0 || x < 0 {
		// The reference pads the picture to the crop's size and moves the corner along; where only
		// one side is short, the other keeps its corner.
		tall, wide := max(h, src.H), max(w, src.W)
		top, left := (tall-src.H+1)/2, (wide-src.W+1)/2
		return src.Crop(max(0, x+left)-left, max(0, y+top)-top, w, h)
	}
	return src.Crop(x, y, w, h)
}

func floorHalf(n int) int { return n >> 1 }

// notes say what a picture of w×h loses.
func (p *ImageProcessor) notes(w, h int) []string {
	var out []string
	sizes := p.Sizes(w, h)
	if p.crop && p.floatCrop {
		ch, cw := p.cropSides(h, w)
		if ch != h || cw != w {
			out = append(out, fmt.Sprintf("cropped from %d×%d to the middle %d×%d", w, h, cw, ch))
		}
		w, h = cw, ch
	}
	if p.resize {
		rh, rw := p.target(h, w)
		if rh != h || rw != w {
			out = append(out, fmt.Sprintf("resized from %d×%d to %d×%d", w, h, rw, rh))
		}
		w, h = rw, rh
	}
	if p.crop && !p.floatCrop && (w != p.cropSize[1] || h != p.cropSize[0]) {
		out = append(out, fmt.Sprintf("cropped from %d×%d to the middle %d×%d", w, h, p.cropSize[1], p.cropSize[0]))
	}
	if len(sizes) > 1 {
		out = append(out, fmt.Sprintf("split into %d pictures", len(sizes)))
	}
	return out
}

// Pixels is a prepared picture as numbers, channels first.
type Pixels struct {
	Values tensor.Tensor // N×3×H×W: N is 1, or the parts of a split, padded to one size
	Mask   tensor.Tensor // N×H×W: 1 where there is picture, 0 where padding
	Notes  []string
}

// Pixels decodes and prepares a picture into what the model's preprocessor gives.
func (p *ImageProcessor) Pixels(ctx context.Context, in Input, o imagefile.Options) (*Pixels, error) {
	img, err := imagefile.Decode(ctx, in, o)
	if err != nil {
		return nil, err
	}
	if err := p.Check(img.Config.Width, img.Config.Height, in.Limits); err != nil {
		return nil, err
	}
	prepared, err := p.Prepare(ctx, img)
	if err != nil {
		return nil, err
	}
	out := p.Normalise(prepared.Pictures)
	out.Notes = append(append([]string(nil), img.Notes...), prepared.Notes...)
	return out, nil
}

// Check refuses a picture that would become larger than the limits allow: the long side of a
// sliver grows with its short one.
func (p *ImageProcessor) Check(w, h int, l Limits) error {
	pw, ph := w, h
	if p.crop && p.floatCrop {
		ph, pw = p.cropSides(h, w)
		if err := l.Picture("image: cropped", int64(pw), int64(ph), 3); err != nil {
			return err
		}
	}
	if p.resize {
		h = ph
		ph, pw = p.target(ph, pw)
		if ph < 1 || pw < 1 {
			return media.Errorf(media.TooSmall, "image: %d×%d pixels become %d×%d", w, h, pw, ph)
		}
		// Both passes: the picture between them is as wide as the one and as high as the other.
		if err := l.Picture("image: resized", int64(pw), int64(max(h, ph)), 3); err != nil {
			return err
		}
	}
	for _, s := range p.Sizes(w, h) {
		if err := l.Picture("image: prepared", int64(s[1]), int64(s[0]), 12); err != nil {
			return err
		}
	}
	return nil
}

// Normalise turns prepared pictures into numbers, padded on the right and below to one size.
func (p *ImageProcessor) Normalise(pictures []*imagefile.RGB) *Pixels {
	h, w := 0, 0
	for _, q := range pictures {
		h, w = max(h, q.H), max(w, q.W)
	}
	out := &Pixels{Values: tensor.New(len(pictures), 3, h, w), Mask: tensor.New(len(pictures), h, w)}
	for n, q := range pictures {
		values, mask := out.Values.At(n).Data, out.Mask.At(n).Data
		for y := range q.H {
			row := q.Pix[3*q.W*y:]
			for x := range q.W {
				at := y*w + x
				mask[at] = 1
				for ch := range 3 {
					values[ch*h*w+at] = p.normalised[ch][row[3*x+ch]]
				}
			}
		}
	}
	return out
}
