package modality

import "time"

// What decoding and preparing a medium takes on one core: pixels to a resized picture, samples to
// resampled features, points to rows. BenchmarkDecoding measures them; beside them is the least of
// eight runs on a core of a Zen 4 server. Formats lie within a factor of four, which is as near as
// a queue needs.
const (
	perPixel  = 40 * time.Nanosecond  // PNG 74, JPEG 38, GIF 21
	perSample = 100 * time.Nanosecond // MP3 198, Vorbis 113, FLAC 110
	perPoint  = 60 * time.Nanosecond  // a table of text 114, PLY of floats 17
)

// decoding is the time of n things that take each so long.
func decoding(n int64, each time.Duration) time.Duration {
	const most = time.Hour // whatever a header says
	return time.Duration(min(float64(n)*float64(each), float64(most)))
}
