package flamingo_test

import (
	"testing"

	"github.com/mmserve/mmserve/flamingo"
	"github.com/mmserve/mmserve/internal/golden"
	"github.com/mmserve/mmserve/internal/refcase"
	"github.com/mmserve/mmserve/tensor"
)

func TestGatedBlockCases(t *testing.T) {
	golden.Each(t, "flamingo", func(t *testing.T, c *refcase.Case) {
		var a tensor.Arena
		got := golden.Trace(&a)
		if err := flamingo.RunBlockCase(&a, c); err != nil {
			t.Fatal(err)
		}
		golden.Compare(t, c, got)
	}, "flamingo/gated_xattn_block")
}
