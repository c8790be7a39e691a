package kernel

import (
	"math"
	"unsafe"
)

// softmaxTilePortable turns n rows of scores c[key][32] into weights exp(score−max) under
// the running maximum and sum ml[2][32], rescaling the v rows of sums o[v][32] gathered under
// an older maximum.
func softmaxTilePortable(cp, mlp, op *float32, n, v int) {
	c, ml, o := unsafe.Slice(cp, n*panel), unsafe.Slice(mlp, 2*panel), unsafe.Slice(op, v*panel)
	top, sum := ml[:panel], ml[panel:]
	var old [panel]float32
	copy(old[:], top)
	for k := range n {
		for i, x := range c[k*panel : (k+1)*panel] {
			if x > top[i] {
				top[i] = x
			}
		}
	}
	changed := false
	for i := range old {
		a := float32(1)
		if old[i] != top[i] {
			a = float32(math.Exp(float64(old[i]) - float64(top[i])))
			changed = true
		}
		old[i] = a
		sum[i] *= a
	}
	if changed {
		for r := range v {
			row := o[r*panel : (r+1)*panel]
			for i := range row {
				row[i] *= old[i]
			}
		}
	}
	for k := range n {
		row := c[k*panel : (k+1)*panel]
		for i, x := range row {
			e := expPortable(x - top[i])
			row[i] = e
			sum[i] += e
		}
	}
}

// expPortable is exp of x ≤ 0 with relative error below 2e-7; below −87 it is 0.
func expPortable(x float32) float32 {
	if !(x > -88) {
		if x != x {
			return x
		}
		return 0
	}
	n := float32(math.Round(float64(x * math.Log2E)))
	r := x - n*0.693359375
	r -= n * -2.12194440e-4
	p := float32(1.9875691500e-4)
	p = p*r + 1.3981999507e-3
	p = p*r + 8.3334519073e-3
	p = p*r + 4.1665795894e-2
	p = p*r + 1.6666665459e-1
	p = p*r + 5.0000001201e-1
	p = p*r*r + r + 1
	return p * math.Float32frombits(uint32(127+int32(n))<<23)
}

func keyBiasPortable(c, bias *float32, n int) {
	x := unsafe.Slice(c, n*panel)
	for k, b := range unsafe.Slice(bias, n) {
		row := x[k*panel : (k+1)*panel]
		for i := range row {
			row[i] = max(row[i]+b, lowest)
		}
	}
}

func addLowestPortable(c, x *float32, n int) {
	d, s := unsafe.Slice(c, n), unsafe.Slice(x, n)
	for i := range d {
		d[i] = max(d[i]+s[i], lowest)
	}
}
