package perceiver_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/mmserve/mmserve/internal/refcase"
	"github.com/mmserve/mmserve/perceiver"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// caseDirs are the reference cases of a group: those of the repository and, when
// MMSERVE_REFERENCE names a folder of groups, those there.
func caseDirs(t *testing.T, group string) []string {
	t.Helper()
	roots := []string{filepath.Join("..", "testdata", "reference")}
	if r := os.Getenv("MMSERVE_REFERENCE"); r != "" {
		roots = append(roots, r)
	}
	var dirs []string
	seen := map[string]bool{}
	for _, root := range roots {
		found, err := filepath.Glob(filepath.Join(root, group, "*", "config.json"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			dir := filepath.Dir(f)
			if name := filepath.Base(dir); !seen[name] {
				seen[name] = true
				dirs = append(dirs, dir)
			}
		}
	}
	if len(dirs) == 0 {
		t.Fatalf("no reference cases in group %s", group)
	}
	return dirs
}

// loadCase loads a case and its network.
func loadCase(t *testing.T, dir string, opt perceiver.Options) (*refcase.Case, perceiver.Network) {
	t.Helper()
	c, err := refcase.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	src, err := c.Source()
	if err != nil {
		t.Fatal(err)
	}
	net, err := weights.Bind(src, func(s weights.Scope) (perceiver.Network, error) {
		return perceiver.Load(c.Config, s, opt)
	})
	if err != nil {
		t.Fatal(err)
	}
	return c, net
}

// caseInput is the inputs of a case as a network takes them.
func caseInput(t *testing.T, c *refcase.Case) perceiver.CaseInput {
	t.Helper()
	in := perceiver.CaseInput{Floats: map[string]tensor.Tensor{}, Ints: map[string]perceiver.Ints{}, Case: c.Meta}
	for _, name := range c.Inputs() {
		raw, _ := c.Input(name)
		if raw.DType.Float() {
			in.Floats[name] = raw.Tensor()
			continue
		}
		values, err := raw.Ints()
		if err != nil {
			t.Fatal(err)
		}
		x := perceiver.Ints{Shape: raw.Shape}
		for _, v := range values {
			x.Data = append(x.Data, int64(v))
		}
		in.Ints[name] = x
	}
	return in
}

// checkCase runs a case and compares every stage as it comes, so the first one that drifts is
// the first one reported.
func checkCase(t *testing.T, dir string, opt perceiver.Options) {
	t.Helper()
	c, net := loadCase(t, dir, opt)
	seen := map[string]bool{}
	worst, worstAt := 0.0, ""
	failed := false
	a := &tensor.Arena{Trace: func(name string, x tensor.Tensor) {
		if c.Shape(name) == nil {
			return
		}
		seen[name] = true
		diff, tol, err := c.Compare(name, x)
		if err != nil && !failed {
			failed = true
			t.Errorf("first stage that drifts: %v", err)
		}
		if tol > 0 && diff/tol > worst {
			worst, worstAt = diff/tol, name
		}
	}}
	if err := net.RunCase(t.Context(), a, caseInput(t, c)); err != nil {
		t.Fatal(err)
	}
	for _, name := range c.Stages() {
		if !seen[name] {
			t.Errorf("stage %s was never emitted", name)
		}
	}
	t.Logf("worst stage %s at %.0f%% of its tolerance", worstAt, 100*worst)
}

var ways = []struct {
	name string
	opt  perceiver.Options
}{{"fast", perceiver.Options{}}, {"plain", perceiver.Options{Plain: true}}}

func TestGolden(t *testing.T) {
	for _, group := range []string{"perceiver", "perceiver-seeded", "perceiver-original", "perceiver-ar"} {
		for _, dir := range caseDirs(t, group) {
			for _, w := range ways {
				t.Run(group+"/"+filepath.Base(dir)+"/"+w.name, func(t *testing.T) { checkCase(t, dir, w.opt) })
			}
		}
	}
}
