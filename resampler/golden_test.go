package resampler_test

import (
	"os"
	"testing"

	"github.com/mmserve/mmserve/internal/golden"
	"github.com/mmserve/mmserve/internal/refcase"
	"github.com/mmserve/mmserve/resampler"
	"github.com/mmserve/mmserve/tensor"
)

func TestReferenceCases(t *testing.T) {
	golden.Each(t, "resampler", func(t *testing.T, c *refcase.Case) {
		if c.FullSize && os.Getenv("MMSERVE_FULLSIZE") == "" {
			t.Skip("set MMSERVE_FULLSIZE=1 to run published sizes")
		}
		var a tensor.Arena
		got := golden.Trace(&a)
		if err := resampler.RunCase(&a, c); err != nil {
			t.Fatal(err)
		}
		golden.Compare(t, c, got)
		if d, tol, err := c.Compare("output", got["output"]); err == nil {
			t.Logf("output differs by %.2g, tolerance %.2g", d, tol)
		}
	})
}
