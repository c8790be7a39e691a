package perceiver_test

import (
	"fmt"
	"testing"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/perceiver"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// BenchmarkSharedPass is what an item costs one thread when so many share a forward pass: the
// question of whether a server should gather waiting requests. The encoder is the default
// model's, 16 latents of 256 and 3 layers; the items are short texts, 40 rows of 192.
func BenchmarkSharedPass(b *testing.B) {
	config, err := perceiver.ParseConfig([]byte(`{"num_latents":16,"d_latents":256,"d_model":192,"num_blocks":1,
		"num_self_attends_per_block":3,"num_self_attention_heads":8,"num_cross_attention_heads":4,
		"cross_attention_shape_for_attention":"kv","self_attention_widening_factor":2,
		"cross_attention_widening_factor":2,"hidden_act":"gelu","use_query_residual":true}`))
	if err != nil {
		b.Fatal(err)
	}
	encoder, err := weights.Bind(weights.Random(1), func(s weights.Scope) (*perceiver.Encoder, error) {
		return perceiver.NewEncoder(s, config, 192, perceiver.Options{})
	})
	if err != nil {
		b.Fatal(err)
	}
	rows := tensor.New(40, 192)
	for i := range rows.Data {
		rows.Data[i] = float32(i%7) - 3
	}
	kernel.SetThreads(1)
	defer kernel.SetThreads(0)
	for _, n := range []int{1, 2, 4, 8, 16, 32} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			batch := make([]perceiver.Input, n)
			for i := range batch {
				batch[i] = perceiver.Input{Rows: perceiver.Matrix(rows)}
			}
			var a tensor.Arena
			for b.Loop() {
				mark := a.Mark()
				if _, err := encoder.Encode(b.Context(), &a, batch); err != nil {
					b.Fatal(err)
				}
				a.Release(mark)
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*n), "µs/item")
		})
	}
}
