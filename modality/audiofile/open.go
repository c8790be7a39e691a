package audiofile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/mmserve/mmserve/modality/media"
)

// Info is what the header of a sound file says.
type Info struct {
	MediaType string   // "audio/wav", …
	Codec     string   // "pcm_s16le", "flac", "mp3", …
	Rate      int      // samples a second
	Channels  int      // as stored
	Frames    int64    // samples per channel; -1 when the header does not say
	Exact     bool     // Frames is exact, unless the file lies; false for an estimate
	Notes     []string // what was met on the way: tags, lies, junk
}

// Seconds is the length, -1 when unknown.
func (i Info) Seconds() float64 {
	if i.Frames < 0 || i.Rate <= 0 {
		return -1
	}
	return float64(i.Frames) / float64(i.Rate)
}

func (i *Info) note(format string, args ...any) {
	i.Notes = append(i.Notes, fmt.Sprintf(format, args...))
}

// decoder gives interleaved samples: as many whole frames as fit dst, at least one, or an error;
// io.EOF at the end.
type decoder interface {
	decode(dst []float32) (frames int, err error)
}

// format is a kind of file: how it is recognised and opened.
type format struct {
	name  string
	match func(head []byte) bool
	open  func(s *source, info *Info) (decoder, error)
}

// formats lists what is read, in the order of recognition.
var formats = []format{
	{"wav", isWAV, openWAV},
	{"aiff", isAIFF, openAIFF},
	{"flac", isFLAC, openFLAC},
	{"ogg", isOgg, openOgg},
	{"mp3", isMP3, openMP3},
}

// foreign are recognised but not read.
var foreign = []struct {
	off         int
	magic, what string
}{
	{4, "ftyp", "mp4 or m4a (aac)"}, {0, "MAC ", "monkey's audio"}, {0, "wvpk", "wavpack"},
	{0, ".snd", "au"}, {0, "#!AMR", "amr"}, {0, "caff", "caf"}, {0, "\x1aE\xdf\xa3", "webm or matroska"},
	{0, "ADIF", "aac"}, {0, "FORM", "iff"}, {0, "DSD ", "dsd"}, {0, "TTA1", "tta"}, {0, "\x30\x26\xb2\x75", "wma"},
	{0, "\x89PNG", "png"}, {0, "\xff\xd8\xff", "jpeg"}, {0, "GIF8", "gif"}, {0, "RIFF", "riff"},
}

// Sniff names the format of a file by its first bytes ("wav", "aiff", "flac", "ogg", "mp3"), or
// returns "". MP3 has no magic number: without a tag it is recognised by two agreeing frame
// headers, which need a few kilobytes.
func Sniff(head []byte) string {
	for _, f := range formats {
		if f.match(head) {
			return f.name
		}
	}
	return ""
}

// Reader decodes a sound file forwards, under limits.
type Reader struct {
	Info
	Bad  int64 // samples that were not finite or beyond all measure, and were replaced
	Done int64 // frames read so far

	dec    decoder
	limits media.Limits
	err    error
}

// Open reads the header of a sound file and makes it ready to be decoded. All errors are
// *media.Error: unsupported, malformed, truncated, empty, too_large (Limits.Seconds, Samples,
// Rate, Channels), unreadable, or the end of ctx, which also ends reading.
func Open(ctx context.Context, in media.Input) (*Reader, error) {
	s := newSource(ctx, in)
	s.deep = true
	return open(s, in)
}

func open(s *source, in media.Input) (*Reader, error) {
	r := &Reader{limits: in.Limits.WithDefaults()}
	if err := r.open(s); err != nil {
		return nil, media.Wrap(err, media.Malformed, "audio")
	}
	return r, nil
}

// Probe is what Open would find out, from the header alone; only the length of an MP3 of more than
// 64 MiB without a frame count is an estimate here and exact there. For a forward-only input it
// sees no more than Header.Head.
func Probe(ctx context.Context, h media.Header) (Info, error) {
	in := media.Input{Name: h.Name, At: h.At, Size: h.Size, Limits: h.Limits}
	if h.At == nil {
		in.At, in.Size = bytes.NewReader(h.Head), int64(len(h.Head))
		if len(h.Head) == media.HeadBytes || h.Size > int64(len(h.Head)) {
			in.Size = -1
		}
	}
	r, err := open(newSource(ctx, in), in)
	if err != nil {
		return Info{}, err
	}
	return r.Info, nil
}

func (r *Reader) open(s *source) (err error) {
	defer rescue(&err, "audio")
	head, err := s.peek(4096)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	if len(head) == 0 {
		return media.Errorf(media.Empty, "audio: no bytes")
	}
	r.Frames = -1
	f, err := recognise(head)
	if err != nil {
		return err
	}
	if r.dec, err = f.open(s, &r.Info); err != nil {
		return media.Wrap(err, media.Malformed, "audio: "+f.name)
	}
	return r.check()
}

func recognise(head []byte) (format, error) {
	for _, f := range formats {
		if f.match(head) {
			return f, nil
		}
	}
	for _, f := range foreign {
		if len(head) >= f.off+len(f.magic) && string(head[f.off:f.off+len(f.magic)]) == f.magic {
			return format{}, media.Errorf(media.Unsupported, "audio: %s is not read here", f.what)
		}
	}
	if len(head) < 12 {
		return format{}, media.Errorf(media.Truncated, "audio: %d bytes", len(head))
	}
	return formats[len(formats)-1], nil // mp3 looks for itself whether frames follow junk
}

// check holds the header against the limits.
func (r *Reader) check() error {
	l := r.limits
	switch {
	case r.Rate <= 0:
		return media.Errorf(media.Malformed, "audio: %s: sample rate %d", r.Codec, r.Rate)
	case r.Channels <= 0:
		return media.Errorf(media.Malformed, "audio: %s: %d channels", r.Codec, r.Channels)
	case r.Frames == 0:
		return media.Errorf(media.Empty, "audio: %s: no samples", r.Codec)
	}
	if err := media.Check("audio: sample rate", l.Rate, r.Rate); err != nil {
		return err
	}
	if err := media.Check("audio: channels", l.Channels, r.Channels); err != nil {
		return err
	}
	return r.length(r.Frames)
}

// length holds a number of frames against the limits.
func (r *Reader) length(frames int64) error {
	if sec := float64(frames) / float64(r.Rate); sec > r.limits.Seconds {
		return media.Exceeds("audio: seconds", r.limits.Seconds, sec)
	}
	if frames > r.limits.Samples/int64(r.Channels) {
		return media.Exceeds("audio: samples", float64(r.limits.Samples), float64(frames)*float64(r.Channels))
	}
	return nil
}

// maxSample is the loudest sample kept as it is; formats with integers never pass 1. Beyond it
// (floats of 1e30) sums of squares would leave float32.
const maxSample = 1 << 20

// Read decodes into dst, interleaved, and returns the number of frames: at least one, or an
// error; io.EOF at the end. dst must have room for one frame. Samples are finite: a NaN becomes
// 0 and anything beyond ±2^20 that, and Bad counts them.
func (r *Reader) Read(dst []float32) (frames int, err error) {
	if r.err != nil {
		return 0, r.err
	}
	if len(dst) < r.Channels {
		panic("audiofile: no room for one frame")
	}
	frames, err = r.guarded(dst)
	if err == nil && frames > 0 {
		r.Done += int64(frames)
		err = r.length(r.Done)
	}
	if err != nil {
		frames = 0
		r.err = r.final(err)
		return 0, r.err
	}
	r.clean(dst[:frames*r.Channels])
	return frames, nil
}

// final decides what the error that ended decoding means.
func (r *Reader) final(err error) error {
	if err == io.EOF {
		if r.Done == 0 {
			return media.Errorf(media.Empty, "audio: %s: no samples", r.Codec)
		}
		return io.EOF
	}
	return media.Wrap(err, media.Malformed, "audio: "+r.Codec)
}

func (r *Reader) guarded(dst []float32) (n int, err error) {
	defer rescue(&err, "audio: "+r.Codec)
	return r.dec.decode(dst)
}

// rescue turns a panic of a decoder, ours or another's, into an error.
func rescue(err *error, what string) {
	if p := recover(); p != nil {
		*err = media.Errorf(media.Malformed, "%s: decoder gave up: %v", what, p)
	}
}

func (r *Reader) clean(x []float32) {
	for i, v := range x {
		if v >= -maxSample && v <= maxSample {
			continue
		}
		r.Bad++
		switch {
		case math.IsNaN(float64(v)):
			x[i] = 0
		case v > 0:
			x[i] = maxSample
		default:
			x[i] = -maxSample
		}
	}
}
