package modality

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/mmserve/mmserve/modality/imagefile"
	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/modality/videofile"
)

// VideoOptions are the options of the video adapter. The defaults are those of the multimodal
// Perceiver: 16 frames of 224×224 pixels in patches of 4×4, 48 channels and 195 of position.
type VideoOptions struct {
	Frames     int       `json:"frames"`     // frames taken; 0: all
	Sampling   string    `json:"sampling"`   // "first", "uniform" or "rate"
	Rate       float64   `json:"rate"`       // frames a second, for sampling "rate"
	Pad        bool      `json:"pad"`        // repeat the last frame up to Frames
	Size       int       `json:"size"`       // pixels of a side of a frame
	Crop       string    `json:"crop"`       // "center": the middle square; "none": the whole frame, stretched
	Filter     string    `json:"filter"`     // "bilinear" or "bicubic", antialiased as Pillow's
	Patch      []int     `json:"patch"`      // frames, rows and columns of pixels that make one row
	Values     string    `json:"values"`     // "unit": 0..1; "signed": −1..1
	Position   string    `json:"position"`   // "fourier" or "none"
	Bands      int       `json:"bands"`      // Fourier bands an axis
	Resolution []float32 `json:"resolution"` // Fourier maximum resolution of time, height and width; empty: patches an axis
	// Audio holds options of the audio adapter; the rows of the sound track then come first and
	// all rows are padded to the wider of the two. Absent: the sound is not read.
	Audio json.RawMessage `json:"audio"`
}

var videoSchema = json.RawMessage(`{
  "type": "object", "additionalProperties": false,
  "properties": {
    "frames": {"type": "integer", "minimum": 0, "maximum": 20000, "default": 16, "description": "frames taken; 0 for all"},
    "sampling": {"enum": ["first", "uniform", "rate"], "default": "first", "description": "the first frames, frames spread over the whole length, or frames at a rate"},
    "rate": {"type": "number", "exclusiveMinimum": 0, "maximum": 1000, "default": 25, "description": "frames a second, for sampling rate"},
    "pad": {"type": "boolean", "default": false, "description": "a shorter video repeats its last frame"},
    "size": {"type": "integer", "minimum": 1, "maximum": 4096, "default": 224},
    "crop": {"enum": ["center", "none"], "default": "center"},
    "filter": {"enum": ["bilinear", "bicubic"], "default": "bilinear"},
    "patch": {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 64}, "minItems": 3, "maxItems": 3, "default": [1, 4, 4], "description": "frames, rows and columns of pixels in one row, in the channel order time, y, x, rgb"},
    "values": {"enum": ["unit", "signed"], "default": "unit", "description": "0..1 or -1..1"},
    "position": {"enum": ["fourier", "none"], "default": "fourier"},
    "bands": {"type": "integer", "minimum": 1, "maximum": 1024, "default": 32},
    "resolution": {"type": "array", "items": {"type": "number", "minimum": 2}, "minItems": 3, "maxItems": 3, "description": "maximum resolution of time, height and width; without it the patches along each axis"},
    "audio": {"type": "object", "description": "options of the audio adapter: the rows of the sound track are put in front, all padded to the wider; without it the sound is not read"}
  }
}`)

// videoAdapter reads videos of the kinds of package videofile.
type videoAdapter struct {
	o       VideoOptions
	fourier Fourier
	filter  imagefile.Filter
	audio   Adapter      // nil: sound is not read
	levels  [256]float32 // of a byte
}

// OpenVideo opens the video adapter.
func OpenVideo(options json.RawMessage) (Adapter, error) {
	o := VideoOptions{Frames: 16, Sampling: "first", Rate: 25, Size: 224, Crop: "center", Filter: "bilinear",
		Patch: []int{1, 4, 4}, Values: "unit", Position: "fourier", Bands: 32}
	if err := Options("video", options, &o); err != nil {
		return nil, err
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	if len(o.Resolution) == 0 {
		frames := max(o.Frames, 2)
		o.Resolution = []float32{max(float32(frames/o.Patch[0]), 2), max(float32(o.Size/o.Patch[1]), 2), max(float32(o.Size/o.Patch[2]), 2)}
	}
	a := &videoAdapter{o: o, fourier: NewFourier(o.Bands, o.Resolution...), filter: imagefile.Bilinear}
	if o.Filter == "bicubic" {
		a.filter = imagefile.Bicubic
	}
	if o.Audio != nil {
		var err error
		if a.audio, err = OpenAudio(o.Audio); err != nil {
			return nil, err
		}
	}
	for i := range a.levels {
		a.levels[i] = float32(i) / 255
		if o.Values == "signed" {
			a.levels[i] = a.levels[i]*2 - 1
		}
	}
	return a, nil
}

func (o *VideoOptions) check() error {
	oneOf := func(name, v string, of ...string) error {
		if !slices.Contains(of, v) {
			return BadOption("video", "%s %q: want %s", name, v, strings.Join(of, ", "))
		}
		return nil
	}
	for _, err := range []error{
		oneOf("sampling", o.Sampling, "first", "uniform", "rate"),
		oneOf("crop", o.Crop, "center", "none"),
		oneOf("filter", o.Filter, "bilinear", "bicubic"),
		oneOf("values", o.Values, "unit", "signed"),
		oneOf("position", o.Position, "fourier", "none"),
	} {
		if err != nil {
			return err
		}
	}
	switch {
	case o.Frames < 0 || o.Frames > 20000:
		return BadOption("video", "frames %d: want 0 to 20000", o.Frames)
	case !(o.Rate > 0 && o.Rate <= 1000):
		return BadOption("video", "rate %g: want above 0, at most 1000", o.Rate)
	case o.Size < 1 || o.Size > 4096:
		return BadOption("video", "size %d: want 1 to 4096", o.Size)
	case len(o.Patch) != 3 || slices.Min(o.Patch) < 1 || slices.Max(o.Patch) > 64:
		return BadOption("video", "patch %v: want three numbers from 1 to 64", o.Patch)
	case o.Size%o.Patch[1] != 0 || o.Size%o.Patch[2] != 0 || o.Frames%o.Patch[0] != 0:
		return BadOption("video", "patch %v does not divide %d frames of %d×%d", o.Patch, o.Frames, o.Size, o.Size)
	case o.Pad && o.Frames == 0:
		return BadOption("video", "pad needs a number of frames")
	case o.Bands < 1 || o.Bands > 1024:
		return BadOption("video", "bands %d: want 1 to 1024", o.Bands)
	case len(o.Resolution) != 0 && len(o.Resolution) != 3:
		return BadOption("video", "resolution %v: want three numbers", o.Resolution)
	}
	for _, r := range o.Resolution {
		if !(r >= 2 && r <= 1e9) {
			return BadOption("video", "resolution %g: want 2 to 1e9", r)
		}
	}
	return nil
}

// content is the number of channels of a patch.
func (a *videoAdapter) content() int { return 3 * a.o.Patch[0] * a.o.Patch[1] * a.o.Patch[2] }

func (a *videoAdapter) positions() int {
	if a.o.Position == "none" {
		return 0
	}
	return a.fourier.Channels()
}

// Info implements Adapter.
func (a *videoAdapter) Info() Info {
	info := Info{
		Name: "video", Doc: "video without a codec: animated GIF, zip, directory or multipart of pictures, Motion-JPEG AVI",
		MediaTypes: videofile.MediaTypes(), Extensions: []string{".avi", ".zip"},
		Magic: []Magic{
			{MediaType: "image/gif", Bytes: []byte("GIF8")},
			{MediaType: "video/x-msvideo", Bytes: []byte("RIFF????AVI "), Wild: true},
			{MediaType: "application/zip", Bytes: []byte("PK\x03\x04")},
		},
		Options: videoSchema, Channels: a.content() + a.positions(), Content: a.content(),
		Position: a.o.Position, Composite: true,
	}
	if a.audio != nil {
		info.Channels = max(info.Channels, a.audio.Info().Channels)
	}
	return info
}

// Sniff implements Sniffer for multipart bodies, and for containers that are known by name only,
// so that they are refused as videos rather than as unknown.
// Of a composite it is sure when all parts are pictures, one sound track apart.
func (a *videoAdapter) Sniff(h Header) (string, float64) {
	if h.Parts == nil {
		return videofile.Known(h.MediaType, h.Head)
	}
	if c, err := videofile.ReadConfig(context.Background(), h); err == nil && c.Frames > 1 {
		return c.MediaType, 0.9
	}
	return "", 0
}

// chosen lists the frames of a video that are taken, in order.
func (a *videoAdapter) chosen(c videofile.Config) (frames []int, notes []string) {
	n := a.o.Frames
	sampling := a.o.Sampling
	if sampling == "rate" && c.Rate == 0 {
		sampling, notes = "first", append(notes, "frame rate unknown: frames taken one by one")
	}
	switch sampling {
	case "uniform":
		take := c.Frames
		if n > 0 {
			take = min(n, take)
		}
		for i := range take {
			frames = append(frames, int((2*int64(i)+1)*int64(c.Frames)/(2*int64(take))))
		}
	case "rate":
		for i := 0; n == 0 || i < n; i++ {
			at := float64(i) / a.o.Rate * c.Rate
			if at >= float64(c.Frames)-1e-6 || len(frames) >= 20000 {
				break
			}
			frames = append(frames, int(at+1e-6))
		}
	default:
		for i := 0; i < c.Frames && (n == 0 || i < n); i++ {
			frames = append(frames, i)
		}
	}
	if len(frames) < c.Frames {
		notes = append(notes, fmt.Sprintf("%d of %d frames taken (%s)", len(frames), c.Frames, sampling))
	}
	if a.o.Pad && len(frames) < n && len(frames) > 0 {
		notes = append(notes, fmt.Sprintf("last frame repeated %d times", n-len(frames)))
		for len(frames) < n {
			frames = append(frames, frames[len(frames)-1])
		}
	}
	if cut := len(frames) % a.o.Patch[0]; cut > 0 {
		notes = append(notes, fmt.Sprintf("last %d frames left out: patches span %d", cut, a.o.Patch[0]))
		frames = frames[:len(frames)-cut]
	}
	return frames, notes
}

// dims is the grid of n frames in patches.
func (a *videoAdapter) dims(n int) [3]int {
	return [3]int{n / a.o.Patch[0], a.o.Size / a.o.Patch[1], a.o.Size / a.o.Patch[2]}
}

// cost fills in what a config leads to.
func (a *videoAdapter) cost(c videofile.Config, l Limits) (Cost, []int, error) {
	out := Cost{Modality: "video", MediaType: c.MediaType, Width: c.Width, Height: c.Height, Frames: c.Frames, Seconds: c.Seconds,
		RowChannels: a.content() + a.positions(), Notes: slices.Clone(c.Notes), Estimated: c.Estimated}
	if c.Estimated {
		c.Frames = min(l.Frames, 20000)
	}
	frames, notes := a.chosen(c)
	if !c.Estimated {
		out.Notes = append(out.Notes, notes...)
	}
	if len(frames) == 0 {
		return out, nil, media.Errorf(media.TooSmall, "video: %d frames, patches span %d", c.Frames, a.o.Patch[0])
	}
	if side := min(c.Width, c.Height); side > 0 && a.o.Crop == "center" && c.Width != c.Height {
		out.Notes = append(out.Notes, fmt.Sprintf("middle %d×%d of %d×%d pixels taken", side, side, c.Width, c.Height))
	}
	if c.Width > 0 && (c.Width != a.o.Size || c.Height != a.o.Size) {
		out.Notes = append(out.Notes, fmt.Sprintf("resized to %d×%d (%s)", a.o.Size, a.o.Size, a.o.Filter))
	}
	if c.Audio != "" && a.audio == nil {
		out.Notes = append(out.Notes, "sound track "+c.Audio+" not read: option audio asks for it")
	}
	d := a.dims(len(frames))
	rows := int64(d[0]) * int64(d[1]) * int64(d[2])
	out.Rows = int(min(rows, l.Rows))
	decoded := len(frames)
	if c.MediaType == "image/gif" { // a frame is a change of the one before
		decoded = frames[len(frames)-1] + 1
	}
	out.Decoding = decoding(int64(decoded)*int64(c.Width)*int64(c.Height), perPixel)
	out.DecodedBytes = c.DecodedBytes + 3*int64(c.Width)*int64(c.Height) + min(a.frameBytes()*int64(len(frames)), max(heldVideo, a.frameBytes()*int64(a.o.Patch[0])))
	if err := media.Check("video: decoded bytes", l.Decoded, out.DecodedBytes); err != nil {
		return out, nil, err
	}
	return out, frames, media.Check("video: rows", l.Rows, rows)
}

// frameBytes is a prepared frame.
func (a *videoAdapter) frameBytes() int64 { return 3 * int64(a.o.Size) * int64(a.o.Size) }

// Plan implements Adapter.
func (a *videoAdapter) Plan(ctx context.Context, h Header) (Cost, error) {
	c, err := videofile.ReadConfig(ctx, h)
	if err != nil {
		return Cost{}, err
	}
	cost, _, err := a.cost(c, h.Limits.WithDefaults())
	if err != nil || a.audio == nil {
		return cost, err
	}
	return a.withSound(ctx, cost, c, h.Limits.WithDefaults())
}

// Adapt implements Adapter.
func (a *videoAdapter) Adapt(ctx context.Context, in Input) (*Array, error) {
	v, err := videofile.Open(ctx, in)
	if err != nil {
		return nil, err
	}
	cost, frames, err := a.cost(v.Config, in.Limits.WithDefaults())
	if err != nil {
		v.Close()
		return nil, err
	}
	content := &videoContent{a: a, ctx: ctx, video: v, frames: frames, dims: a.dims(len(frames)), group: -1}
	if a.frameBytes()*int64(len(frames)) <= heldVideo {
		if err := content.hold(); err != nil {
			v.Close()
			return nil, err
		}
	}
	array := &Array{Content: content, Notes: cost.Notes, Cost: cost}
	array.OnClose(v.Close)
	if a.o.Position == "fourier" {
		d := content.dims
		array.Position = NewGrid(a.fourier, d[0], d[1], d[2])
	}
	if a.audio == nil {
		return array, nil
	}
	if array, err = a.fuse(ctx, array, v, in.Limits); err != nil {
		v.Close()
	}
	return array, err
}

// Describe implements Describer: every frame is decoded, and the first one measured.
func (a *videoAdapter) Describe(ctx context.Context, in Input) (Cost, Facts, error) {
	ctx, cancel := in.Limits.Context(ctx)
	defer cancel()
	v, err := videofile.Open(ctx, in)
	if err != nil {
		return Cost{}, Facts{}, err
	}
	defer v.Close()
	cost, _, err := a.cost(v.Config, in.Limits.WithDefaults())
	if err == nil && a.audio != nil {
		cost, err = a.withSound(ctx, cost, v.Config, in.Limits.WithDefaults())
	}
	if err != nil {
		return cost, Facts{}, err
	}
	var facts Facts
	for i := range v.Frames {
		img, err := v.Frame(ctx, i)
		if err != nil {
			return cost, Facts{}, err
		}
		if i == 0 {
			cost.Width, cost.Height = img.Width, img.Height
			facts = Facts{MeanRGB: img.Mean(), QuadrantMeanRGB: img.QuadrantMeans()}
		}
	}
	return cost, facts, nil
}
