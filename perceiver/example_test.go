package perceiver_test

import (
	"context"
	"fmt"

	"github.com/mmserve/mmserve/perceiver"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// A network is built from a config.json and any source of weights; here random ones.
func ExampleLoad() {
	config := []byte(`{
		"architectures": ["PerceiverForImageClassificationFourier"],
		"num_latents": 16, "d_latents": 32, "num_self_attends_per_block": 2,
		"num_cross_attention_heads": 1, "num_labels": 3
	}`)
	net, err := weights.Bind(weights.Random(1), func(s weights.Scope) (perceiver.Network, error) {
		return perceiver.Load(config, s, perceiver.Options{})
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	var a tensor.Arena
	pixels := tensor.New(1, 3, 20, 30) // batch, colours, height, width: any size
	logits, err := net.(*perceiver.ImageClassifier).Forward(context.Background(), &a, perceiver.Planes(pixels), nil)
	fmt.Println(logits.Shape, err)
	// Output: [1 3] <nil>
}

// Rows can come from anywhere: a type that fills blocks is enough.
type ramp struct{ m, c int }

func (r ramp) Dims() (m, c int) { return r.m, r.c }

func (r ramp) Read(dst tensor.Tensor, from, _ int) error {
	for i := range dst.Data {
		dst.Data[i] = float32(from*r.c+i) / float32(r.m*r.c)
	}
	return nil
}

func ExampleModel_Forward() {
	config := []byte(`{"architectures": ["PerceiverModel"], "d_model": 6, "num_latents": 4, "d_latents": 16,
		"num_self_attends_per_block": 1, "num_cross_attention_heads": 1}`)
	net, err := weights.Bind(weights.Random(1), func(s weights.Scope) (perceiver.Network, error) {
		return perceiver.Load(config, s, perceiver.Options{})
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	var a tensor.Arena
	ctx := perceiver.WithProgress(context.Background(), func(stage string, done, total int) {
		if done == total {
			fmt.Println(stage, "done")
		}
	})
	latents, err := net.(*perceiver.Model).Forward(ctx, &a, []perceiver.Rows{ramp{100_000, 6}}, nil)
	fmt.Println(latents.Shape, err)
	// Output:
	// encode done
	// latents done
	// [1 4 16] <nil>
}
