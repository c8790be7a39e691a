package conditioned_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/internal/golden"
	"github.com/mmserve/mmserve/internal/refcase"
	"github.com/mmserve/mmserve/pipeline/conditioned"
	"github.com/mmserve/mmserve/tensor"
)

func TestReferenceCases(t *testing.T) {
	golden.Each(t, "flamingo", func(t *testing.T, c *refcase.Case) {
		var a tensor.Arena
		got := golden.Trace(&a)
		if err := conditioned.RunCase(t.Context(), &a, c); err != nil {
			t.Fatal(err)
		}
		golden.Compare(t, c, got)
		if x, ok := got["p0.logits"]; ok {
			d, tol, _ := c.Compare("p0.logits", x)
			t.Logf("logits differ by %.2g, tolerance %.2g", d, tol)
		}
	})
}

// A case that lacks its output layer is checked with the one its seed draws, and says so; with
// another seed it is not checked, and that is an error.
func TestLackingOutputLayerIsNamed(t *testing.T) {
	root := os.Getenv("MMSERVE_REFERENCE")
	if root == "" {
		t.Skip("set MMSERVE_REFERENCE: the case is not among those shipped")
	}
	const from, to = `"seed": 1331`, `"seed": 1332`
	src := filepath.Join(root, "flamingo", "openflamingo-llama-default-heads")
	for _, other := range []bool{false, true} {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(src)); err != nil {
			t.Fatal(err)
		}
		if other {
			path := filepath.Join(dir, "case.json")
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(strings.Replace(string(b), from, to, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		c, err := refcase.Load(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		err = conditioned.RunCase(t.Context(), &tensor.Arena{}, c)
		if errors.Is(err, conditioned.ErrOutputLayer) != other || (c.Note == "") != other {
			t.Errorf("another seed %v: %v, note %q", other, err, c.Note)
		}
	}
}
