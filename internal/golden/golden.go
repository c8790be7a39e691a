package golden

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/mmserve/mmserve/internal/refcase"
	"github.com/mmserve/mmserve/tensor"
)

// Variable names the environment variable of a second directory of reference cases.
const Variable = "MMSERVE_REFERENCE"

// Root is the repository's directory, found from the test's own.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			t.Fatal("golden: no go.mod above the test's directory")
		}
		dir = up
	}
}

// Dirs lists the case directories of a group, such as "perceiver": the repository's own,
// then those of the second directory that have other names.
func Dirs(t testing.TB, group string) []string {
	t.Helper()
	roots := []string{filepath.Join(Root(t), "testdata", "reference")}
	if dir := os.Getenv(Variable); dir != "" {
		roots = append(roots, dir)
	}
	var out []string
	seen := map[string]bool{}
	for _, root := range roots {
		entries, err := os.ReadDir(filepath.Join(root, group))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.IsDir() && !seen[e.Name()] {
				seen[e.Name()] = true
				out = append(out, filepath.Join(root, group, e.Name()))
			}
		}
	}
	if len(out) == 0 {
		t.Fatalf("golden: no cases of group %q", group)
	}
	return out
}

// Each runs f as a subtest for every loadable case of a group, of the kinds named if any are. A
// directory without stages (fixtures of another kind) is passed over. That no case is left is
// an error.
func Each(t *testing.T, group string, f func(t *testing.T, c *refcase.Case), kinds ...string) {
	t.Helper()
	ran := 0
	for _, dir := range Dirs(t, group) {
		if !isCase(dir) {
			continue
		}
		c, err := refcase.Load(dir)
		if err != nil {
			t.Errorf("%s: %v", dir, err)
			continue
		}
		if len(kinds) == 0 || slices.Contains(kinds, c.Kind) {
			ran++
			t.Run(filepath.Base(dir), func(t *testing.T) { f(t, c) })
		}
		c.Close()
	}
	if ran == 0 {
		t.Errorf("golden: no cases of group %q and kinds %q", group, kinds)
	}
}

// isCase reports whether a directory has expected stages.
func isCase(dir string) bool {
	for _, name := range []string{"expected.safetensors", "expected.json", "names.json"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return true
		}
	}
	return false
}

// Compare checks every expected stage of c against got, and reports the first that differs
// and how many do. A stage that is not in got is an error, unless skip names it.
func Compare(t testing.TB, c *refcase.Case, got map[string]tensor.Tensor, skip ...string) {
	t.Helper()
	skipped := map[string]bool{}
	for _, s := range skip {
		skipped[s] = true
	}
	wrong := 0
	for _, name := range c.Stages() {
		if skipped[name] {
			continue
		}
		x, ok := got[name]
		if !ok {
			t.Errorf("stage %q was not produced", name)
			continue
		}
		if _, _, err := c.Compare(name, x); err != nil {
			if wrong++; wrong <= 3 {
				t.Error(err)
			}
		}
	}
	if wrong > 3 {
		t.Errorf("%d of %d stages differ", wrong, len(c.Stages()))
	}
}

// Trace sets a's hook so that every named stage is copied into the map it returns. A stage
// reported twice keeps its last value.
func Trace(a *tensor.Arena) map[string]tensor.Tensor {
	got := map[string]tensor.Tensor{}
	a.Trace = func(name string, x tensor.Tensor) { got[name] = x.Clone() }
	return got
}
