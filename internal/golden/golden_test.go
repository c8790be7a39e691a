package golden_test

import (
	"slices"
	"testing"

	"github.com/mmserve/mmserve/internal/golden"
	"github.com/mmserve/mmserve/internal/refcase"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// failures counts what a comparison reports.
type failures struct {
	testing.TB
	n int
}

func (f *failures) Helper()               {}
func (f *failures) Error(...any)          { f.n++ }
func (f *failures) Errorf(string, ...any) { f.n++ }

func TestEachAndCompare(t *testing.T) {
	cases := 0
	golden.Each(t, "perceiver-original", func(t *testing.T, c *refcase.Case) {
		cases++
		src, err := weights.Open(c.Path("expected.safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		var a tensor.Arena
		got := golden.Trace(&a)
		for name := range src.Names() {
			raw, err := src.Load(name)
			if err != nil {
				t.Fatal(err)
			}
			a.Emit(name, raw.Tensor())
		}
		golden.Compare(t, c, got)

		last := c.Stages()[len(c.Stages())-1]
		f := &failures{TB: t}
		got[last].Data[0]++
		delete(got, c.Stages()[0])
		golden.Compare(f, c, got)
		if f.n != 2 {
			t.Errorf("%d reports of one missing and one wrong stage", f.n)
		}
		f.n = 0
		golden.Compare(f, c, got, c.Stages()[0], last)
		if f.n != 0 {
			t.Errorf("%d reports of skipped stages", f.n)
		}
	})
	if cases == 0 {
		t.Error("no cases")
	}
}

func TestDirsHaveNoRepeats(t *testing.T) {
	dirs := golden.Dirs(t, "perceiver")
	if slices.Sort(dirs); len(slices.Compact(slices.Clone(dirs))) != len(dirs) {
		t.Errorf("%v", dirs)
	}
}
