package nn

import (
	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/weights"
)

// SplitLinear reads one published weight (Σouts×in) and, unless biasName is empty, its bias
// (Σouts) as several layers over consecutive outputs: the queries, keys and values of a
// fused in_proj.
func SplitLinear(s weights.Scope, weightName, biasName string, in int, outs ...int) []Linear {
	total := 0
	for _, o := range outs {
		total += o
	}
	w := s.Tensor(weightName, total, in)
	var bias []float32
	if biasName != "" {
		bias = s.Tensor(biasName, total).Data
	}
	parts, from := make([]Linear, len(outs)), 0
	for p, out := range outs {
		at := from
		parts[p].W = kernel.Pack(out, in, s.ComputeDType(), func(i int, dst []float32) { copy(dst, w.Row(at+i)) })
		if bias != nil {
			parts[p].Bias = bias[from : from+out]
		}
		from += out
	}
	return parts
}
