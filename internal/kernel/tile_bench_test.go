package kernel

import "testing"

// BenchmarkTile is the inner loop alone, on operands in the first-level cache.
func BenchmarkTile(b *testing.B) {
	set := current.Load()
	a, w, c := noise(1, set.mr*kBlock), noise(2, panel*kBlock), make([]float32, set.mr*panel)
	t := tileArgs{a: &a[0], b: &w[0], c: &c[0], k: kBlock, aks: set.mr, bks: panel, rows: set.mr, cols: panel}
	rate(b, "FLOP", 2*float64(len(c))*kBlock*100, func() {
		for range 100 {
			set.tile(&t)
		}
	})
}
