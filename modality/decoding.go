package modality

import "time"

// What decoding and preparing a medium takes on one core: pixels to a resized picture, samples to
// resampled features, points to rows. Measured by BenchmarkDecoding on a Zen 4 core; formats lie
// within a factor of two or three of these, which is as near as a queue needs.
const (
	perPixel  = 40 * time.Nanosecond  // PNG 83, JPEG 38, GIF 22
	perSample = 100 * time.Nanosecond // MP3 190, Vorbis 108, FLAC 100
	perPoint  = 60 * time.Nanosecond  // tables as text 114, binary 21
)

// decoding is the time of n things that take each so long.
func decoding(n int64, each time.Duration) time.Duration {
	const most = time.Hour // whatever a header says
	return time.Duration(min(float64(n)*float64(each), float64(most)))
}
