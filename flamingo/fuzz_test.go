package flamingo_test

import (
	"testing"

	"github.com/mmserve/mmserve/flamingo"
)

// A configuration is refused or sound; it never panics.
func FuzzParseConfig(f *testing.F) {
	for _, c := range langs {
		f.Add([]byte(c))
		f.Add([]byte(inFlamingo(c, "")))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := flamingo.ParseConfig(data); err == nil && (c.Width < 1 || c.Heads%c.KVHeads != 0) {
			t.Fatalf("%+v", c)
		}
	})
}
