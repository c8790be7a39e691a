package kernel

import (
	"math"
	"testing"
)

// TestManySmallWeights: one key takes nearly all of the attention and very many others share
// the rest, each too small to change a running sum near one. Together they count.
func TestManySmallWeights(t *testing.T) {
	const keys, low = 60000, -17.2
	k, v := make([]float32, keys), make([]float32, keys)
	for i := range k {
		k[i], v[i] = low, -1
	}
	k[3], v[3] = 0, 1
	small := (keys - 1) * math.Exp(float64(float32(low)))
	want := (1 - small) / (1 + small)
	forEachSet(t, func(t *testing.T) {
		var s Stream
		s.Start(1, 0, 1, 1, 1, 1, []float32{1}, 1)
		s.Add(k, 1, v, 1, keys, nil)
		var out [1]float32
		s.Finish(out[:], 1)
		if d := math.Abs(float64(out[0]) - want); d > 1e-5 {
			t.Errorf("average %v, want %v", out[0], want)
		}
		g := Grid{}
		one := []float32{1}
		sh, sw, inv, mean := make([]float32, 240), make([]float32, 250), make([]float32, keys), make([]float32, keys)
		for i := range inv {
			inv[i] = 1
		}
		g.Start(GridArgs{N: 1, H: 240, W: 250, F: 1, Q: one, LDQ: 1, QMean: []float32{0}, SH: sh, SW: sw})
		g.Add(k, 1, mean, inv, 240)
		oh, ow := make([]float32, 240), make([]float32, 250)
		g.Finish(out[:], 1, mean[:1], oh, ow)
		if d := math.Abs(float64(out[0]) - small*low/(1+small)); d > 1e-5*17 {
			t.Errorf("grid: average of the feature %v, want %v", out[0], small*low/(1+small))
		}
	})
}
