package imagefile

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"io"

	"github.com/mmserve/mmserve/modality/media"
)

// Config is what a picture's header says.
type Config struct {
	MediaType    string
	Width        int   // upright: after Orientation
	Height       int   // upright
	Orientation  int   // EXIF, 1 to 8; 1 when absent or out of range
	Frames       int   // of an animation, pages of a TIFF; at least 1
	Scans        int   // of a JPEG
	DecodedBytes int64 // held at most while decoding: the decoder's picture and ours
	Notes        []string
}

// Options choose what is read.
type Options struct {
	TIFF     bool // read TIFF; off, it is Unsupported
	AsStored bool // ignore the EXIF orientation
}

// format is one row of the table of formats.
type format struct {
	mediaType string
	name      string // in errors: "image: png"
	magic     func(head []byte) bool
	config    func(s *source) (Config, error)
	decode    func(s *source, c Config) (*image.NRGBA, error)
}

var formats = []format{
	{"image/png", "image: png", prefix("\x89PNG\r\n\x1a\n"), pngConfig, pngDecode},
	{"image/jpeg", "image: jpeg", prefix("\xff\xd8"), jpegConfig, jpegDecode},
	{"image/gif", "image: gif", prefix("GIF8"), gifConfig, gifDecode},
	{"image/webp", "image: webp", func(h []byte) bool { return has(h, 0, "RIFF") && has(h, 8, "WEBP") }, webpConfig, webpDecode},
	{"image/bmp", "image: bmp", prefix("BM"), bmpConfig, bmpDecode},
	{"image/tiff", "image: tiff", func(h []byte) bool { return has(h, 0, "II*\x00") || has(h, 0, "MM\x00*") }, tiffConfig, tiffDecode},
}

func prefix(s string) func([]byte) bool { return func(h []byte) bool { return has(h, 0, s) } }

func has(h []byte, at int, s string) bool { return len(h) >= at+len(s) && string(h[at:at+len(s)]) == s }

// MediaTypes lists the media types that are read, TIFF last.
func MediaTypes() []string {
	var out []string
	for _, f := range formats {
		out = append(out, f.mediaType)
	}
	return out
}

// Sniff returns the media type of the picture that a file beginning with head is, "" for none.
func Sniff(head []byte) string {
	for _, f := range formats {
		if f.magic(head) {
			return f.mediaType
		}
	}
	return ""
}

// source is the encoded picture a format's functions read.
type source struct {
	ctx   context.Context
	at    io.ReaderAt
	size  int64
	whole bool // size is the file's, not only that of a stream's head
	head  []byte
	what  string // the format's name in errors
	l     media.Limits
	o     Options
	// What a config function found that its decode function needs.
	jpeg     jpegHeader
	negative bool // of a TIFF: black and white are exchanged
	webp     webpAnimated
}

func (s *source) errorf(c media.Code, f string, args ...any) error {
	return media.Errorf(c, "%s: %s", s.what, fmt.Sprintf(f, args...))
}

// read returns n bytes at off, fewer only with an error.
func (s *source) read(off int64, n int) ([]byte, error) {
	if off < 0 || off+int64(n) > s.size {
		if !s.whole {
			return nil, s.errorf(media.NotReplayable, "header goes beyond the first %d bytes of a stream", s.size)
		}
		return nil, s.errorf(media.Truncated, "%d bytes at offset %d of %d", n, off, s.size)
	}
	p := make([]byte, n)
	if err := s.ctx.Err(); err != nil {
		return nil, media.Wrap(err, media.Canceled, s.what)
	}
	if _, err := s.at.ReadAt(p, off); err != nil && !errors.Is(err, io.EOF) {
		return nil, media.Wrap(err, media.Unreadable, s.what+": read")
	}
	return p, nil
}

// reader reads the whole picture, stopping with the context.
func (s *source) reader() io.Reader {
	return media.NewReader(s.ctx, io.NewSectionReader(s.at, 0, s.size), s.size)
}

// fault gives a decoder's error a code.
func (s *source) fault(err error) error {
	return media.Wrap(err, media.Malformed, s.what)
}

// plausible refuses a header that promises more than its bytes can hold, and a picture that
// grows beyond reason. raw is what the data must at least decode to and most what one encoded
// byte can decode to in this format; stored is the number of bytes of picture data.
func (s *source) plausible(raw, stored int64, most float64, pixels int64) error {
	if !s.whole {
		return nil
	}
	if float64(raw) > most*float64(stored)+4096 {
		return s.errorf(media.Truncated, "%d bytes of data cannot hold the %d of the picture the header promises", stored, raw)
	}
	const free = 64 << 20
	if decoded := 4 * pixels; decoded > free {
		return media.Check(s.what+": decoded bytes over encoded bytes", s.l.Ratio, float64(decoded)/float64(max(s.size, 1)))
	}
	return nil
}

func newSource(ctx context.Context, h media.Header, o Options) (*source, *format, error) {
	s := &source{ctx: ctx, l: h.Limits.WithDefaults(), o: o, head: h.Head}
	if h.At != nil && h.Size >= 0 {
		s.at, s.size, s.whole = h.At, h.Size, true
	} else {
		s.at, s.size = bytes.NewReader(h.Head), int64(len(h.Head))
		s.whole = len(h.Head) < media.HeadBytes
	}
	if s.size == 0 {
		return nil, nil, media.Errorf(media.Empty, "image: no bytes")
	}
	for i := range formats {
		if f := &formats[i]; f.magic(h.Head) {
			if f.mediaType == "image/tiff" && !o.TIFF {
				return nil, nil, media.Errorf(media.Unsupported, "image: tiff: not enabled")
			}
			s.what = f.name
			// Even a header may have to be looked for through the whole file.
			return s, f, media.Check(f.name+": bytes of a picture", s.l.Decoded, s.size)
		}
	}
	return nil, nil, unknown(h.Head)
}

// unknown names what a file that is no picture of ours may be.
func unknown(head []byte) error {
	for _, k := range []struct {
		at          int
		magic, name string
	}{
		{4, "ftypavif", "AVIF"}, {4, "ftypavis", "AVIF"}, {4, "ftypheic", "HEIC"}, {4, "ftypmif1", "HEIF"},
		{0, "\x00\x00\x01\x00", "ICO"}, {0, "#?RADIANCE", "Radiance HDR"}, {0, "farbfeld", "farbfeld"},
		{0, "\x76\x2f\x31\x01", "OpenEXR"}, {0, "8BPS", "Photoshop"}, {0, "qoif", "QOI"},
		{0, "\xff\x0a", "JPEG XL"}, {0, "\x00\x00\x00\x0cJXL ", "JPEG XL"}, {0, "\x00\x00\x00\x0cjP  ", "JPEG 2000"},
		{0, "II+\x00", "BigTIFF"}, {0, "MM\x00+", "BigTIFF"}, {0, "DDS ", "DirectDraw"}, {0, "<svg", "SVG"},
	} {
		if has(head, k.at, k.magic) {
			return media.Errorf(media.Unsupported, "image: %s is not read here", k.name)
		}
	}
	if len(head) < 12 {
		return media.Errorf(media.Truncated, "image: %d bytes are no picture", len(head))
	}
	return media.Errorf(media.Malformed, "image: no signature of a picture format")
}

// ReadConfig reads a picture's header and checks it against the limits. It reads the structure
// of the file, not its pixels, and allocates little.
func ReadConfig(ctx context.Context, h media.Header, o Options) (Config, error) {
	s, f, err := newSource(ctx, h, o)
	if err != nil {
		return Config{}, err
	}
	return readConfig(s, f)
}

func readConfig(s *source, f *format) (Config, error) {
	c, err := f.config(s)
	if err != nil {
		return c, err
	}
	c.MediaType = f.mediaType
	c.Frames = max(c.Frames, 1)
	if c.Orientation < 1 || c.Orientation > 8 || s.o.AsStored {
		c.Orientation = 1
	}
	if c.Orientation >= 5 {
		c.Width, c.Height = c.Height, c.Width
	}
	if c.Orientation != 1 {
		c.Notes = append(c.Notes, fmt.Sprintf("EXIF orientation %d applied", c.Orientation))
		c.DecodedBytes += 4 * int64(c.Width) * int64(c.Height)
	}
	return c, media.Check(f.name+": decoded bytes", s.l.Decoded, c.DecodedBytes)
}

// stored gives the sizes as they lie in the file, before orientation.
func (c Config) stored() (w, h int) {
	if c.Orientation >= 5 {
		return c.Height, c.Width
	}
	return c.Width, c.Height
}

const noteICC = "ICC profile ignored: colours taken as sRGB"

func be16(p []byte) int { return int(binary.BigEndian.Uint16(p)) }
func be32(p []byte) int { return int(binary.BigEndian.Uint32(p)) }
func le16(p []byte) int { return int(binary.LittleEndian.Uint16(p)) }
func le32(p []byte) int { return int(binary.LittleEndian.Uint32(p)) }
