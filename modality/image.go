package modality

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/mmserve/mmserve/modality/imagefile"
	"github.com/mmserve/mmserve/modality/media"
)

// ImageOptions are the options of the image adapter. The defaults are those of the published
// Fourier image Perceiver: 224×224 pixels of 3 channels and 258 of position.
type ImageOptions struct {
	Preset     string          `json:"preset"`     // one of ImagePresets
	Processor  json.RawMessage `json:"processor"`  // a preprocessor_config.json, in place of a preset
	Patch      int             `json:"patch"`      // side of the square of pixels that makes one row
	Position   string          `json:"position"`   // "fourier" or "none"
	Bands      int             `json:"bands"`      // Fourier bands an axis
	Resolution []float32       `json:"resolution"` // Fourier maximum resolution of height and width; empty: the rows along each axis
	AsStored   bool            `json:"as_stored"`  // ignore the EXIF orientation
	TIFF       bool            `json:"tiff"`       // read TIFF
}

var imageSchema = json.RawMessage(`{
  "type": "object", "additionalProperties": false,
  "properties": {
    "preset": {"enum": ["clip", "idefics", "idefics2", "openclip", "perceiver", "siglip"], "default": "perceiver"},
    "processor": {"type": "object", "description": "the content of a preprocessor_config.json, in place of a preset"},
    "patch": {"type": "integer", "minimum": 1, "maximum": 256, "default": 1, "description": "side of the square of pixels that makes one row, channels in the order y, x, rgb"},
    "position": {"enum": ["fourier", "none"], "default": "fourier"},
    "bands": {"type": "integer", "minimum": 1, "maximum": 1024, "default": 64},
    "resolution": {"type": "array", "items": {"type": "number", "minimum": 2}, "minItems": 2, "maxItems": 2, "description": "maximum resolution of height and width; without it the rows along each axis"},
    "as_stored": {"type": "boolean", "default": false, "description": "ignore the EXIF orientation"},
    "tiff": {"type": "boolean", "default": false, "description": "read TIFF files"}
  }
}`)

// imageAdapter makes rows of pixels, or of patches of them.
type imageAdapter struct {
	o         ImageOptions
	processor *ImageProcessor
	files     imagefile.Options
}

// OpenImage opens the image adapter.
func OpenImage(options json.RawMessage) (Adapter, error) {
	o := ImageOptions{Preset: "perceiver", Patch: 1, Position: "fourier", Bands: 64}
	if err := Options("image", options, &o); err != nil {
		return nil, err
	}
	switch {
	case o.Patch < 1 || o.Patch > 256:
		return nil, BadOption("image", "patch %d: want 1 to 256", o.Patch)
	case o.Position != "fourier" && o.Position != "none":
		return nil, BadOption("image", "position %q: want fourier or none", o.Position)
	case o.Bands < 1 || o.Bands > 1024:
		return nil, BadOption("image", "bands %d: want 1 to 1024", o.Bands)
	case len(o.Resolution) != 0 && len(o.Resolution) != 2:
		return nil, BadOption("image", "resolution of %d values: want 2", len(o.Resolution))
	case slices.ContainsFunc(o.Resolution, func(r float32) bool { return !(r >= 2 && r <= 1e9) }):
		return nil, BadOption("image", "resolution %v: want 2 to 1e9", o.Resolution)
	}
	a := &imageAdapter{o: o, files: imagefile.Options{TIFF: o.TIFF, AsStored: o.AsStored}}
	var err error
	if len(o.Processor) > 0 {
		a.processor, err = ParseImageProcessor(o.Processor)
	} else {
		a.processor, err = ImagePreset(o.Preset)
	}
	if err != nil {
		return nil, err
	}
	a.processor.split = false // an array is one picture; ImageProcessor splits
	return a, nil
}

// Info implements Adapter.
func (a *imageAdapter) Info() Info {
	types := imagefile.MediaTypes()
	info := Info{
		Name: "image", Doc: "pictures: PNG, JPEG, GIF (first frame), WebP, BMP, and TIFF where enabled",
		MediaTypes: append(types, "image/jpg", "image/x-ms-bmp"),
		Extensions: []string{".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff"},
		Magic: []Magic{
			{MediaType: "image/png", Bytes: []byte("\x89PNG\r\n\x1a\n")},
			{MediaType: "image/jpeg", Bytes: []byte("\xff\xd8\xff")},
			{MediaType: "image/gif", Bytes: []byte("GIF8")},
			{MediaType: "image/webp", Bytes: []byte("RIFF????WEBP"), Wild: true},
			{MediaType: "image/bmp", Bytes: []byte("BM????\x00\x00\x00\x00"), Wild: true},
			{MediaType: "image/tiff", Bytes: []byte("II*\x00")},
			{MediaType: "image/tiff", Bytes: []byte("MM\x00*")},
		},
		Options: imageSchema, Content: 3 * a.o.Patch * a.o.Patch, Position: a.o.Position,
	}
	info.Channels = info.Content + a.positions()
	return info
}

func (a *imageAdapter) positions() int {
	if a.o.Position == "none" {
		return 0
	}
	return NewFourier(a.o.Bands, 2, 2).Channels()
}

// cost is the plan of a picture whose header has been read.
func (a *imageAdapter) cost(c imagefile.Config, l Limits) (Cost, error) {
	cost := Cost{Modality: "image", MediaType: c.MediaType, Width: c.Width, Height: c.Height, Frames: c.Frames,
		RowChannels: 3*a.o.Patch*a.o.Patch + a.positions()}
	if err := a.processor.Check(c.Width, c.Height, l); err != nil {
		return cost, err
	}
	size := a.processor.Sizes(c.Width, c.Height)[0]
	rows, cols := size[0]/a.o.Patch, size[1]/a.o.Patch
	if rows == 0 || cols == 0 {
		return cost, media.Errorf(media.TooSmall, "image: %d×%d pixels are less than a patch of %d", size[1], size[0], a.o.Patch)
	}
	cost.Rows = rows * cols
	cost.DecodedBytes = c.DecodedBytes + 3*int64(c.Width)*int64(c.Height) + 3*int64(size[1])*int64(max(size[0], c.Height))
	cost.Decoding = decoding(int64(c.Width)*int64(c.Height), perPixel)
	cost.Notes = append(append(cost.Notes, c.Notes...), a.processor.notes(c.Width, c.Height)...)
	if lostY, lostX := size[0]-rows*a.o.Patch, size[1]-cols*a.o.Patch; lostY+lostX > 0 {
		cost.Notes = append(cost.Notes, fmt.Sprintf("%d rows and %d columns of pixels beyond the last whole patch dropped", lostY, lostX))
	}
	return cost, nil
}

// Plan implements Adapter.
func (a *imageAdapter) Plan(ctx context.Context, h Header) (Cost, error) {
	c, err := imagefile.ReadConfig(ctx, h, a.files)
	if err != nil {
		return Cost{}, err
	}
	return a.cost(c, h.Limits)
}

// Adapt implements Adapter.
func (a *imageAdapter) Adapt(ctx context.Context, in Input) (*Array, error) {
	img, err := a.decode(ctx, in)
	if err != nil {
		return nil, err
	}
	return a.array(ctx, img, in.Limits)
}

func (a *imageAdapter) decode(ctx context.Context, in Input) (*imagefile.Image, error) {
	if in.Parts != nil {
		return nil, media.Errorf(media.Unsupported, "image: an input of %d parts", len(in.Parts))
	}
	in, done, err := media.Spool(ctx, in)
	if err != nil {
		return nil, err
	}
	defer done()
	h, err := in.Header()
	if err != nil {
		return nil, err
	}
	if _, err := a.Plan(ctx, h); err != nil { // what the processor would refuse is not decoded
		return nil, err
	}
	return imagefile.Decode(ctx, in, a.files)
}

// array makes the array of a decoded picture.
func (a *imageAdapter) array(ctx context.Context, img *imagefile.Image, l Limits) (*Array, error) {
	cost, err := a.cost(img.Config, l)
	if err != nil {
		return nil, err
	}
	prepared, err := a.processor.Prepare(ctx, img)
	if err != nil {
		return nil, err
	}
	p := prepared.Pictures[0]
	content := &patches{p: p, side: a.o.Patch, rows: p.H / a.o.Patch, cols: p.W / a.o.Patch, levels: a.processor.Levels()}
	array := &Array{Content: content, Notes: cost.Notes, Cost: cost}
	if a.o.Position == "fourier" {
		r := a.o.Resolution
		if len(r) == 0 {
			r = []float32{float32(content.rows), float32(content.cols)}
		}
		array.Position = NewGrid(NewFourier(a.o.Bands, r...), content.rows, content.cols)
	}
	return array, nil
}

// Describe implements Describer. The facts are of the whole picture, upright, before it is
// prepared for a model.
func (a *imageAdapter) Describe(ctx context.Context, in Input) (Cost, Facts, error) {
	img, err := a.decode(ctx, in)
	if err != nil {
		return Cost{}, Facts{}, err
	}
	cost, err := a.cost(img.Config, in.Limits)
	return cost, Facts{MeanRGB: img.Mean(), QuadrantMeanRGB: img.QuadrantMeans()}, err
}

// patches is content of square patches of a picture's pixels, kept in bytes: channel
// (dy·side+dx)·3+c of row y·cols+x.
type patches struct {
	p          *imagefile.RGB
	side       int
	rows, cols int
	levels     *[3][256]float32
}

// Dims implements Content.
func (c *patches) Dims() (m, n int) { return c.rows * c.cols, 3 * c.side * c.side }

// Read implements Content.
func (c *patches) Read(dst []float32, ld, from, to int) error {
	for r := from; r < to; r++ {
		out := dst[(r-from)*ld:]
		y, x := r/c.cols*c.side, r%c.cols*c.side
		for dy := range c.side {
			line := c.p.Pix[3*((y+dy)*c.p.W+x):][:3*c.side]
			for i := 0; i < len(line); i += 3 {
				out[0] = c.levels[0][line[i]]
				out[1] = c.levels[1][line[i+1]]
				out[2] = c.levels[2][line[i+2]]
				out = out[3:]
			}
		}
	}
	return nil
}
