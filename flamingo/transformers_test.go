package flamingo_test

import (
	"encoding/json"
	"math"
	"os"
	"slices"
	"testing"

	"github.com/mmserve/mmserve/flamingo"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// Decoders give what transformers gives for the same weights, which follow from their names
// (tools/reference/lm.py).
func TestAgainstTransformers(t *testing.T) {
	text, err := os.ReadFile("testdata/transformers.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Name        string
		Config      json.RawMessage
		IDs, Greedy []int
		First, Last []float32
		Names       part // where stated, the only ones there are
	}
	if err := json.Unmarshal(text, &cases); err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			cfg, err := flamingo.ParseConfig(c.Config)
			if err != nil {
				t.Fatal(err)
			}
			m, err := weights.Bind(c.Names.source(), func(s weights.Scope) (*flamingo.Model, error) { return flamingo.New(s, cfg) })
			if err != nil {
				t.Fatal(err)
			}
			var a tensor.Arena
			logits, err := m.Forward(&a, []flamingo.Part{{Seq: m.NewSequence(), Tokens: c.IDs}}, true)
			if err != nil {
				t.Fatal(err)
			}
			near(t, "first token", logits.Row(0), c.First)
			near(t, "last token", logits.Row(len(c.IDs)-1), c.Last)
			greedy, err := m.Generate(t.Context(), []flamingo.Prompt{{Tokens: c.IDs}}, flamingo.Options{MaxTokens: len(c.Greedy)})
			if err != nil || !slices.Equal(greedy[0], c.Greedy) {
				t.Errorf("%v, %v, want %v", greedy, err, c.Greedy)
			}
		})
	}
}

func near(t *testing.T, what string, got, want []float32) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d logits, want %d", what, len(got), len(want))
	}
	worst := 0.0
	for i, w := range want {
		worst = max(worst, math.Abs(float64(got[i]-w)))
	}
	if !(worst <= 3e-5) {
		t.Errorf("%s: logits differ by %g", what, worst)
	}
}
