package weights_test

import (
	"fmt"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// A model is a struct and a constructor that says each name and shape once.
func ExampleBind() {
	type layer struct {
		weight *kernel.Packed
		bias   tensor.Tensor
	}
	build := func(s weights.Scope) (layer, error) {
		s = s.At("query")
		return layer{s.Linear("weight", 8, 4), s.Tensor("bias", 8)}, nil
	}
	l, err := weights.Bind(weights.Random(1), build)
	fmt.Println(l.weight.N(), l.weight.K(), l.bias.Shape, err)

	_, err = weights.Bind(weights.Memory{}, build)
	fmt.Println(err)
	// Output:
	// 8 4 [8] <nil>
	// weights: 2 missing:
	// 	missing "query.bias" [8]
	// 	missing "query.weight" [8 4]
}
