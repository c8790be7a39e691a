package videofile

import (
	"bytes"
	"context"
	"io"
	"strings"

	"github.com/mmserve/mmserve/modality/imagefile"
	"github.com/mmserve/mmserve/modality/media"
)

// Config is what a video's structure says.
type Config struct {
	MediaType    string
	Width        int     // of the first frame or the canvas, upright; 0 when unknown
	Height       int     // of the first frame or the canvas, upright; 0 when unknown
	Frames       int     // in the file
	Rate         float64 // frames a second; 0 when the file does not say
	Seconds      float64 // length; 0 when the file does not say
	DecodedBytes int64   // held at most while one frame is decoded
	Estimated    bool    // a stream's head only: Frames is unknown
	Audio        string  // name of a sound track among the parts, "" for none
	// Sound looks at the start of the sound track, unpacking it where need be; nil for none.
	Sound func() (media.Header, error)
	Notes []string
}

// Video is an opened video. It is used by one goroutine at a time.
type Video struct {
	Config
	frames source
	audio  *media.Input
	done   []func()
}

// source decodes frame i. Frames asked for in order are cheapest.
type source interface {
	frame(ctx context.Context, i int) (*imagefile.Image, error)
}

// file is an input in the shape that the open functions read.
type file struct {
	ctx       context.Context
	at        io.ReaderAt
	size      int64
	head      []byte
	mediaType string
	limits    media.Limits
}

// MediaTypes lists what is read.
func MediaTypes() []string {
	return []string{"image/gif", "video/x-msvideo", "video/avi", "video/vnd.avi", "application/zip", "multipart/mixed", "multipart/form-data"}
}

// Sniff returns the media type of a video whose file begins with head, "" for none. A zip is
// taken for a video only by its opener.
func Sniff(head []byte) string {
	switch {
	case bytes.HasPrefix(head, []byte("GIF8")):
		return "image/gif"
	case len(head) >= 12 && string(head[:4]) == "RIFF" && string(head[8:12]) == "AVI ":
		return "video/x-msvideo"
	case bytes.HasPrefix(head, []byte("PK\x03\x04")):
		return "application/zip"
	}
	return ""
}

// ReadConfig walks a video's structure. Of a forward-only input only the head is known: the
// format is told and Estimated is set.
func ReadConfig(ctx context.Context, h media.Header) (Config, error) {
	l := h.Limits.WithDefaults()
	if len(h.Parts) > 0 {
		return partsConfig(ctx, h)
	}
	if h.At == nil || h.Size < 0 {
		return headConfig(h)
	}
	v, err := open(&file{ctx: ctx, at: h.At, size: h.Size, head: h.Head, mediaType: h.MediaType, limits: l})
	if err != nil {
		return Config{}, err
	}
	return v.Config, nil
}

// headConfig is all that a stream's head tells.
func headConfig(h media.Header) (Config, error) {
	c := Config{MediaType: Sniff(h.Head), Estimated: true}
	switch {
	case c.MediaType != "":
		return c, nil
	case boundaryOf(h.MediaType, h.Head) != "":
		c.MediaType = "multipart/mixed"
		return c, nil
	}
	return c, unknown(h.Head)
}

// Open opens a video. A forward-only input is kept first (see media.Spool).
func Open(ctx context.Context, in media.Input) (*Video, error) {
	if in.Parts != nil {
		return openParts(ctx, in)
	}
	in, done, err := media.Spool(ctx, in)
	if err != nil {
		return nil, err
	}
	h, err := in.Header()
	if err == nil && h.Size < 0 {
		err = media.Errorf(media.Unsupported, "video: an input of unknown size")
	}
	if err != nil {
		done()
		return nil, err
	}
	v, err := open(&file{ctx: ctx, at: h.At, size: h.Size, head: h.Head, mediaType: h.MediaType, limits: h.Limits.WithDefaults()})
	if err != nil {
		done()
		return nil, err
	}
	v.done = append(v.done, done)
	return v, nil
}

func open(f *file) (v *Video, err error) {
	switch kind := Sniff(f.head); {
	case kind == "image/gif":
		v, err = openGIF(f)
	case kind == "application/zip":
		v, err = openZip(f)
	case kind == "video/x-msvideo":
		v, err = openAVI(f)
	case boundaryOf(f.mediaType, f.head) != "":
		v, err = openMultipart(f)
	default:
		return nil, unknown(f.head)
	}
	if err != nil {
		return nil, media.Wrap(err, media.Malformed, "video")
	}
	if v.Frames == 0 {
		return nil, media.Errorf(media.Empty, "video: no frames")
	}
	if v.audio != nil {
		v.Sound = v.audio.Header
	}
	if v.Rate > 0 && v.Seconds == 0 {
		v.Seconds = float64(v.Frames) / v.Rate
	}
	if err := media.Check("video: seconds", f.limits.Seconds, v.Seconds); err != nil {
		return nil, err
	}
	return v, nil
}

// Frame decodes frame i of Frames.
func (v *Video) Frame(ctx context.Context, i int) (*imagefile.Image, error) {
	return v.frames.frame(ctx, i)
}

// Audio returns the sound track among the parts, nil when there is none.
func (v *Video) Audio() *media.Input { return v.audio }

// Close releases what was kept of a stream.
func (v *Video) Close() error {
	for _, f := range v.done {
		f()
	}
	v.done = nil
	return nil
}

// pictures are frames that are whole encoded pictures: of them, load gives the bytes.
type pictures struct {
	load   func(ctx context.Context, i int) (media.Input, error)
	limits media.Limits
}

func (p *pictures) frame(ctx context.Context, i int) (*imagefile.Image, error) {
	in, err := p.load(ctx, i)
	if err != nil {
		return nil, err
	}
	in.Limits = p.limits
	img, err := imagefile.Decode(ctx, in, imagefile.Options{})
	if err != nil {
		return nil, inFrame(i, err)
	}
	return img, nil
}

// inFrame says which frame an error is about.
func inFrame(i int, err error) error {
	e := media.AsError(media.Wrap(err, media.Malformed, "picture"))
	return &media.Error{Code: e.Code, Detail: "video: frame " + itoa(i) + ": " + e.Detail, Limit: e.Limit, Actual: e.Actual, Err: e.Err}
}

// first fills in the config from the first picture's header.
func (v *Video) first(ctx context.Context, p *pictures) error {
	in, err := p.load(ctx, 0)
	if err != nil {
		return err
	}
	in.Limits = p.limits
	h, err := in.Header()
	if err != nil {
		return inFrame(0, err)
	}
	c, err := imagefile.ReadConfig(ctx, h, imagefile.Options{})
	if err != nil {
		return inFrame(0, err)
	}
	v.Width, v.Height, v.DecodedBytes = c.Width, c.Height, c.DecodedBytes
	v.frames = p
	return nil
}

// containers are signatures of formats that are known by name only.
var containers = []struct {
	at                     int
	magic, name, mediaType string
}{
	{4, "ftypqt", "QuickTime", "video/quicktime"}, {4, "moov", "QuickTime", "video/quicktime"},
	{4, "mdat", "QuickTime", "video/quicktime"}, {4, "wide", "QuickTime", "video/quicktime"},
	{4, "ftypisom", "MP4", "video/mp4"}, {4, "ftypiso", "MP4", "video/mp4"}, {4, "ftypmp4", "MP4", "video/mp4"},
	{4, "ftypavc1", "MP4", "video/mp4"}, {4, "ftypM4V", "MP4", "video/mp4"}, {4, "ftypdash", "MP4", "video/mp4"},
	{4, "ftyp3g", "3GP", "video/3gpp"},
	{0, "\x1a\x45\xdf\xa3", "Matroska/WebM", "video/x-matroska"}, {0, "FLV\x01", "Flash video", "video/x-flv"},
	{0, "\x30\x26\xb2\x75\x8e\x66\xcf\x11", "ASF/WMV", "video/x-ms-asf"},
	{0, "\x00\x00\x01\xba", "MPEG program stream", "video/mpeg"}, {0, "\x00\x00\x01\xb3", "MPEG video", "video/mpeg"},
	{0, "\x47\x40\x00", "MPEG transport stream", "video/mp2t"}, {0, "DKIF", "IVF", "video/x-ivf"},
	{0, "YUV4MPEG2", "YUV4MPEG", "video/x-yuv4mpeg"}, {0, ".RMF", "RealMedia", "application/vnd.rn-realmedia"},
}

// Known returns the media type of a multipart body, or of a container that is known by name
// and refused, and how sure that is: 0 when head begins neither.
func Known(mediaType string, head []byte) (string, float64) {
	if boundaryOf(mediaType, head) != "" {
		return "multipart/mixed", 0.9
	}
	for _, k := range containers {
		if len(head) >= k.at+len(k.magic) && string(head[k.at:k.at+len(k.magic)]) == k.magic {
			return k.mediaType, 0.9
		}
	}
	return "", 0
}

// unknown refuses a file that is no video of ours, by name where it has one.
func unknown(head []byte) error {
	name := "this format"
	for _, k := range containers {
		if len(head) >= k.at+len(k.magic) && string(head[k.at:k.at+len(k.magic)]) == k.magic {
			name = k.name
			break
		}
	}
	return media.Errorf(media.Unsupported, "video: %s is not read here: give its frames as pictures (directory, zip, multipart), or register an adapter for it (modality.Register)", name)
}

// isAudio goes by the extension of a part's name.
func isAudio(name string) bool {
	switch ext(name) {
	case ".wav", ".mp3", ".flac":
		return true
	}
	return false
}

func ext(name string) string {
	at := strings.LastIndexAny(name, "./\\")
	if at < 0 || name[at] != '.' {
		return ""
	}
	return strings.ToLower(name[at:])
}
