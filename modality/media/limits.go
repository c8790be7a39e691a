package media

import (
	"context"
	"time"
)

// Limits bounds what one input may cost. A zero field means the default named beside it, a
// negative one no limit. Every limit is checked against the header before decoding and against
// what is found while decoding.
type Limits struct {
	Bytes    int64         `json:"bytes,omitempty"`     // encoded bytes of one input; 0: 8 GiB (media are streamed)
	Decoded  int64         `json:"decoded,omitempty"`   // bytes a decoder may hold at once; 0: 512 MiB
	Pixels   int64         `json:"pixels,omitempty"`    // width × height of one picture or frame; 0: 64 Mi
	Side     int           `json:"side,omitempty"`      // longer side in pixels; 0: 32768
	Aspect   float64       `json:"aspect,omitempty"`    // longer side over shorter; 0: 10000
	Ratio    float64       `json:"ratio,omitempty"`     // decoded bytes over encoded bytes of a picture above 64 MiB decoded; 0: 250
	Frames   int           `json:"frames,omitempty"`    // frames of a video or animation; 0: 20000
	Scans    int           `json:"scans,omitempty"`     // scans of a JPEG; 0: 64
	Seconds  float64       `json:"seconds,omitempty"`   // length of sound or video; 0: 10800 (three hours)
	Samples  int64         `json:"samples,omitempty"`   // samples × channels of sound, after resampling too; 0: 2^31
	Rate     int           `json:"rate,omitempty"`      // samples a second; 0: 768000
	Channels int           `json:"channels,omitempty"`  // of sound; 0: 64
	Points   int64         `json:"points,omitempty"`    // of a cloud; 0: 100 million
	Columns  int           `json:"columns,omitempty"`   // properties of a point, columns of a table; 0: 256
	Text     int64         `json:"text,omitempty"`      // bytes of text; 0: 64 MiB
	Parts    int           `json:"parts,omitempty"`     // parts of a composite input, entries of an archive; 0: 20000
	Rows     int64         `json:"rows,omitempty"`      // rows of the resulting array; 0: 2^31
	Time     time.Duration `json:"time_ns,omitempty"`   // wall clock of one decode that cannot be streamed; 0: 20 s
	Memory   int64         `json:"in_memory,omitempty"` // bytes of a forward-only input kept in memory before spooling to a file; 0: 16 MiB
}

// WithDefaults returns the limits with zero fields filled and negative ones set as high as they go.
func (l Limits) WithDefaults() Limits {
	fill(&l.Bytes, 8<<30)
	fill(&l.Decoded, 512<<20)
	fill(&l.Pixels, 64<<20)
	fill(&l.Side, 32768)
	fill(&l.Aspect, 10000)
	fill(&l.Ratio, 250)
	fill(&l.Frames, 20000)
	fill(&l.Scans, 64)
	fill(&l.Seconds, 3*3600)
	fill(&l.Samples, 1<<31)
	fill(&l.Rate, 768000)
	fill(&l.Channels, 64)
	fill(&l.Points, 100_000_000)
	fill(&l.Columns, 256)
	fill(&l.Text, 64<<20)
	fill(&l.Parts, 20000)
	fill(&l.Rows, 1<<31)
	fill(&l.Time, 20*time.Second)
	fill(&l.Memory, 16<<20)
	return l
}

// noLimit is what a negative limit becomes: above anything real, and still safe to multiply by two.
const noLimit = 1 << 62

func fill[T int | int64 | float64 | time.Duration](v *T, standard T) {
	switch {
	case *v == 0:
		*v = standard
	case *v < 0:
		*v = T(min(noLimit, int64(^uint(0)>>2)))
	}
}

// Context bounds a decode that holds its whole result by the Time limit.
func (l Limits) Context(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, l.WithDefaults().Time)
}

// Picture checks a picture's size as its header gives it, before anything is allocated for it.
// bytesPerPixel is what the decoder will hold; what names the format, as "image: png".
func (l Limits) Picture(what string, width, height int64, bytesPerPixel int64) error {
	l = l.WithDefaults()
	if width <= 0 || height <= 0 {
		return Errorf(Empty, "%s: %d×%d pixels", what, width, height)
	}
	long, short := max(width, height), min(width, height)
	switch {
	case long > int64(l.Side):
		return Exceeds(what+": side in pixels", float64(l.Side), float64(long))
	case float64(long)/float64(short) > l.Aspect:
		return Exceeds(what+": aspect", l.Aspect, float64(long)/float64(short))
	case width > l.Pixels/height:
		return Exceeds(what+": pixels", float64(l.Pixels), float64(width)*float64(height))
	case width*height > l.Decoded/max(bytesPerPixel, 1):
		return Exceeds(what+": decoded bytes", float64(l.Decoded), float64(width)*float64(height)*float64(bytesPerPixel))
	}
	return nil
}

// Check returns a TooLarge error when actual is above limit; what names it, as "audio: seconds".
func Check[T int | int64 | float64](what string, limit, actual T) error {
	if actual > limit {
		return Exceeds(what, float64(limit), float64(actual))
	}
	return nil
}
