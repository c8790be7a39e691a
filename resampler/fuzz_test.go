package resampler_test

import (
	"testing"

	"github.com/mmserve/mmserve/resampler"
)

// A configuration is refused or sound; it never panics.
func FuzzParseConfig(f *testing.F) {
	for _, c := range configs {
		f.Add([]byte(c))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := resampler.ParseConfig(data); err == nil && c.Width < 1 {
			t.Fatalf("%+v", c)
		}
	})
}
