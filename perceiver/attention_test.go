package perceiver_test

import (
	"math"
	"testing"

	"github.com/mmserve/mmserve/perceiver"
	"github.com/mmserve/mmserve/tensor"
)

// TestAttention: maps sum to one, are the same either way, and give nothing to dropped rows.
func TestAttention(t *testing.T) {
	for _, heads := range []string{"1", "4"} {
		config := small("PerceiverModel", `"d_model": 12, "num_cross_attention_heads": `+heads)
		const m = 700
		in := perceiver.Input{Rows: perceiver.Matrices(random(1, 1, m, 12))[0], Mask: halfMask(1, m)}
		picked := []int{3, 19, 3}
		var maps []tensor.Tensor
		for _, w := range ways {
			var a tensor.Arena
			got, err := build(t, config, w.opt).(*perceiver.Model).Encoder.Attention(t.Context(), &a, in, picked)
			if err != nil {
				t.Fatal(err)
			}
			for l := range picked {
				sum := 0.0
				for j, x := range got.Row(l) {
					sum += float64(x)
					if in.Mask[j] == 0 && x != 0 || x < 0 {
						t.Fatalf("latent %d row %d: weight %v under mask %v", l, j, x, in.Mask[j])
					}
				}
				if math.Abs(sum-1) > 1e-5 {
					t.Fatalf("latent %d: weights sum to %v", l, sum)
				}
			}
			sameBits(t, "the same latent twice", got.Row(2), got.Row(0))
			maps = append(maps, got.Clone())
		}
		for i, x := range maps[0].Data {
			if d := math.Abs(float64(x - maps[1].Data[i])); d > 1e-6 {
				t.Fatalf("weight %d: %v fast, %v plain", i, x, maps[1].Data[i])
			}
		}
	}
}
