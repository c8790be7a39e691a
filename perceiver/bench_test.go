package perceiver_test

import (
	"testing"

	"github.com/mmserve/mmserve/perceiver"
	"github.com/mmserve/mmserve/tensor"
)

// BenchmarkCross reads the rows of the published Fourier image model (50,176 × 261, 512 latents
// of 1024) with one self-attention layer behind, both ways.
func BenchmarkCross(b *testing.B) {
	config := `{"architectures": ["PerceiverForImageClassificationFourier"], "num_latents": 512, "d_latents": 1024,
		"num_self_attends_per_block": 1, "num_cross_attention_heads": 1}`
	for _, w := range ways {
		b.Run(w.name, func(b *testing.B) {
			net := build(b, config, w.opt).(*perceiver.ImageClassifier)
			in := perceiver.Planes(random(1, 1, 3, 224, 224))
			var a tensor.Arena
			for b.Loop() {
				mark := a.Mark()
				if _, err := net.Encode(b.Context(), &a, in, nil); err != nil {
					b.Fatal(err)
				}
				a.Release(mark)
			}
			b.ReportMetric(50176*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

// BenchmarkTower runs six layers over 512 latents of 1024, one block of the published image
// models.
func BenchmarkTower(b *testing.B) {
	net := build(b, `{"architectures": ["PerceiverModel"], "num_latents": 512, "d_latents": 1024, "d_model": 8,
		"num_self_attends_per_block": 6, "num_cross_attention_heads": 1}`, perceiver.Options{}).(*perceiver.Model)
	rows := perceiver.Matrices(random(1, 1, 64, 8))
	const n, d, layers = 512, 1024, 6
	flops := float64(layers) * (6*2*n*d*d + 2*2*n*n*d)
	var a tensor.Arena
	for b.Loop() {
		mark := a.Mark()
		if _, err := net.Forward(b.Context(), &a, rows, nil); err != nil {
			b.Fatal(err)
		}
		a.Release(mark)
	}
	b.ReportMetric(flops*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
}

// BenchmarkGenerate continues a text by one token after another with a cache.
func BenchmarkGenerate(b *testing.B) {
	net := build(b, `{"architectures": ["PerceiverCausalLanguageModel"], "model_config": {"num_heads": 8, "num_channels": 512,
		"num_self_attention_layers": 8, "max_seq_len": 1024, "max_latents": 256}}`, perceiver.Options{}).(*perceiver.CausalLM)
	prompt := make([]int, 600)
	var a tensor.Arena
	for b.Loop() {
		mark := a.Mark()
		if err := net.Generate(b.Context(), &a, prompt, perceiver.Generation{Latents: 100, Steps: 32}, func(int, []float32) bool { return true }); err != nil {
			b.Fatal(err)
		}
		a.Release(mark)
	}
	b.ReportMetric(32*float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
}
