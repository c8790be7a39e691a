package vision_test

import (
	"os"
	"testing"

	"github.com/mmserve/mmserve/internal/golden"
	"github.com/mmserve/mmserve/internal/refcase"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/vision"
)

func TestReferenceCases(t *testing.T) {
	golden.Each(t, "vision", func(t *testing.T, c *refcase.Case) {
		if c.FullSize && os.Getenv("MMSERVE_FULLSIZE") == "" {
			t.Skip("set MMSERVE_FULLSIZE=1 to run published sizes")
		}
		var a tensor.Arena
		got := golden.Trace(&a)
		if err := vision.RunCase(&a, c); err != nil {
			t.Fatal(err)
		}
		golden.Compare(t, c, got)
		for _, name := range []string{"last_hidden_state", "tokens", "pooler_output", "image_embeds"} {
			if x, ok := got[name]; ok && c.Shape(name) != nil {
				d, tol, _ := c.Compare(name, x)
				t.Logf("%s differs by %.2g, tolerance %.2g", name, d, tol)
			}
		}
	})
}
