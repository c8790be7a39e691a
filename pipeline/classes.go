package pipeline

import (
	"cmp"
	"math"
	"slices"
	"strconv"

	"github.com/mmserve/mmserve/tensor"
)

// topClasses returns the k best of a row of logits, best first; equal logits keep the order
// of their indexes. label names class i; nil names it by its number.
func topClasses(logits []float32, k int, label func(i int) string) []Class {
	best := slices.Max(logits)
	sum := 0.0
	order := make([]int, len(logits))
	for i, x := range logits {
		order[i] = i
		sum += math.Exp(float64(x - best))
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(logits[b], logits[a]) })
	out := make([]Class, 0, min(k, len(order)))
	for _, i := range order[:min(k, len(order))] {
		out = append(out, Class{
			Index: i, Label: label(i), Logit: logits[i],
			Score: float32(math.Exp(float64(logits[i]-best)) / sum),
		})
	}
	return out
}

// labeler names classes by a list; indexes beyond it, and a nil list, by number.
func labeler(labels []string) func(int) string {
	return func(i int) string {
		if i < len(labels) {
			return labels[i]
		}
		return "LABEL_" + strconv.Itoa(i)
	}
}

// finite reports whether no value of t is NaN or infinite.
func finite(t tensor.Tensor) bool {
	for _, x := range t.Data {
		if x-x != 0 {
			return false
		}
	}
	return true
}

// pooled is the mean over the rows of latents (N×D), in float64.
func pooled(latents tensor.Tensor) tensor.Tensor {
	n, d := latents.Dim(0), latents.Dim(1)
	sum := make([]float64, d)
	for i := range n {
		for j, x := range latents.Row(i) {
			sum[j] += float64(x)
		}
	}
	out := tensor.New(d)
	for j := range sum {
		out.Data[j] = float32(sum[j] / float64(n))
	}
	return out
}
