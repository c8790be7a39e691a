package position

import "math"

// Linspace is torch.linspace(start, end, n) in float32 as PyTorch computes it on a CPU with
// AVX2: n values from start to end, one value (start) when n is 1, none when n is 0. It is
// not the textbook formula; see At for the rule.
func Linspace(start, end float32, n int) []float32 {
	out := make([]float32, max(n, 0))
	for i := range out {
		out[i] = LinspaceAt(start, end, n, i)
	}
	return out
}

// LinspaceAt is element i of Linspace(start, end, n), with no table.
//
// With step = fl32((end-start)/(n-1)), the first floor(n/16)*16 elements are computed in groups
// of eight from the group's first index, each with one fused multiply-add for the base; the rest
// one by one. The lower half counts from start and the upper half from end.
func LinspaceAt(start, end float32, n, i int) float32 {
	if n == 1 {
		return start
	}
	step := float32(end-start) / float32(n-1)
	if i < n/16*16 {
		first := i &^ 7
		return linear(start, end, step, n, first) + float32(step*float32(i-first))
	}
	return linear(start, end, step, n, i)
}

func linear(start, end, step float32, n, i int) float32 {
	if i < n/2 {
		return fma32(step, float32(i), start)
	}
	return fma32(-step, float32(n-1-i), end)
}

// fma32 is x*y+z rounded once to float32. The product is exact in float64; the sum is rounded
// to odd there, so that the second rounding cannot see a tie that is not one.
func fma32(x, y, z float32) float32 {
	p, c := float64(x)*float64(y), float64(z)
	s := p + c
	if math.IsInf(s, 0) || math.IsNaN(s) {
		return float32(s)
	}
	b := s - p
	lost := (p - (s - b)) + (c - b)
	if lost != 0 && math.Float64bits(s)&1 == 0 {
		toward := math.Inf(1)
		if lost < 0 {
			toward = math.Inf(-1)
		}
		s = math.Nextafter(s, toward)
	}
	return float32(s)
}

// OutputCoordinate is the coordinate of output index i of dim in the decoder of the multimodal
// Perceiver: -1 + 2*i/dim in float32. It divides by dim and not by dim-1, so the last point is
// not +1: the reference does so.
func OutputCoordinate(i, dim int) float32 {
	return -1 + float32(2*float32(i))/float32(dim)
}
