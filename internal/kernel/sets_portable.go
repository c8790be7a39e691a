package kernel

import (
	"runtime"
	"unsafe"
)

var portable = &set{
	name:          "portable",
	ok:            func() bool { return true },
	mr:            8,
	lanes:         1,
	tile:          tilePortable,
	widen:         [2]func(dst *float32, src *uint16, n int){widenPortable(fromF16), widenPortable(fromBF16)},
	transpose:     transposePortable,
	transposeRows: 16,
	softmaxTile:   softmaxTilePortable,
	unary:         unaryPortable,
	sum:           sumPortable,
	maxLanes:      maxPortable,
	squares:       squaresPortable,
	expSum:        expSumPortable,
	affine:        affinePortable,
	add:           addPortable,
	mul:           mulPortable,
	scale:         scalePortable,
	peak:          peakPortable,
	finish:        finishPortable,
	gridScores:    gridScoresPortable,
	gridWeights:   gridWeightsPortable,
	gridBias:      gridBiasPortable,
	keyBias:       keyBiasPortable,
	addLowest:     addLowestPortable,
}

// tilePortable computes 4×4 blocks in registers.
func tilePortable(t *tileArgs) {
	if t.rows == 0 {
		return
	}
	a := unsafe.Slice(t.a, max(0, (t.k-1)*t.aks+t.rows))
	b := unsafe.Slice(t.b, max(0, (t.k-1)*t.bks+t.cols))
	c := unsafe.Slice(t.c, (t.rows-1)*panel+t.cols)
	r := 0
	for ; r+4 <= t.rows; r += 4 {
		for j := 0; j < t.cols; j += 4 {
			block4x4(c[r*panel+j:], a, b, r, j, t)
		}
	}
	for ; r < t.rows; r++ {
		for j := 0; j < t.cols; j += 4 {
			block1x4(c[r*panel+j:], a, b, r, j, t)
		}
	}
}

func block4x4(c, a, b []float32, r, j int, t *tileArgs) {
	var c00, c01, c02, c03, c10, c11, c12, c13, c20, c21, c22, c23, c30, c31, c32, c33 float32
	if t.acc != 0 {
		c00, c01, c02, c03 = c[0], c[1], c[2], c[3]
		c10, c11, c12, c13 = c[panel], c[panel+1], c[panel+2], c[panel+3]
		c20, c21, c22, c23 = c[2*panel], c[2*panel+1], c[2*panel+2], c[2*panel+3]
		c30, c31, c32, c33 = c[3*panel], c[3*panel+1], c[3*panel+2], c[3*panel+3]
	}
	for i := range t.k {
		x := a[i*t.aks+r : i*t.aks+r+4 : i*t.aks+r+4]
		y := b[i*t.bks+j : i*t.bks+j+4 : i*t.bks+j+4]
		a0, a1, a2, a3 := x[0], x[1], x[2], x[3]
		y0 := y[0]
		c00 += a0 * y0
		c10 += a1 * y0
		c20 += a2 * y0
		c30 += a3 * y0
		y1 := y[1]
		c01 += a0 * y1
		c11 += a1 * y1
		c21 += a2 * y1
		c31 += a3 * y1
		y2 := y[2]
		c02 += a0 * y2
		c12 += a1 * y2
		c22 += a2 * y2
		c32 += a3 * y2
		y3 := y[3]
		c03 += a0 * y3
		c13 += a1 * y3
		c23 += a2 * y3
		c33 += a3 * y3
	}
	c[0], c[1], c[2], c[3] = c00, c01, c02, c03
	c[panel], c[panel+1], c[panel+2], c[panel+3] = c10, c11, c12, c13
	c[2*panel], c[2*panel+1], c[2*panel+2], c[2*panel+3] = c20, c21, c22, c23
	c[3*panel], c[3*panel+1], c[3*panel+2], c[3*panel+3] = c30, c31, c32, c33
}

func block1x4(c, a, b []float32, r, j int, t *tileArgs) {
	var c0, c1, c2, c3 float32
	if t.acc != 0 {
		c0, c1, c2, c3 = c[0], c[1], c[2], c[3]
	}
	for i := range t.k {
		y := b[i*t.bks+j : i*t.bks+j+4 : i*t.bks+j+4]
		x := a[i*t.aks+r]
		c0 += x * y[0]
		c1 += x * y[1]
		c2 += x * y[2]
		c3 += x * y[3]
	}
	c[0], c[1], c[2], c[3] = c0, c1, c2, c3
}

func transposePortable(dst *float32, ds int, src *float32, ls, rows, k int) {
	d := unsafe.Slice(dst, (k-1)*ds+rows)
	x := unsafe.Slice(src, (rows-1)*ls+k)
	for r := range rows {
		for c, v := range x[r*ls : r*ls+k] {
			d[c*ds+r] = v
		}
	}
}

func widenPortable(from func(uint16) float32) func(dst *float32, src *uint16, n int) {
	return func(dst *float32, src *uint16, n int) {
		d := unsafe.Slice(dst, n)
		for i, x := range unsafe.Slice(src, n) {
			d[i] = from(x)
		}
	}
}

func peakPortable(n int) {
	var a [12]float32
	x, y := float32(1), float32(0)
	for range n {
		for i := range a {
			a[i] += x * y
		}
	}
	runtime.KeepAlive(&a)
}
