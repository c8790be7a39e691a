package kernel

import (
	"fmt"
	"math"
	"testing"
)

func TestNormsAgainstFloat64(t *testing.T) {
	forEachSet(t, func(t *testing.T) {
		for _, n := range []int{1, 2, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 100, 261, 1024, 1280} {
			const rows = 3
			x0 := noise(uint64(n), rows*n)
			for i := range x0 {
				x0[i] = x0[i]*3 + 5
			}
			gamma, beta := noise(1, n), noise(2, n)
			for _, affine := range []int{0, 1, 2} {
				g, b := gamma, beta
				if affine < 2 {
					b = nil
				}
				if affine < 1 {
					g = nil
				}
				name := fmt.Sprintf("n=%d affine=%d", n, affine)
				x, checkX := guardRows(x0, rows, n, n+3, 1)
				dst, check := guardRows(make([]float32, rows*n), rows, n, n+1, 2)
				compare := func(what string, want func(row []float32, i int) float64) {
					t.Helper()
					checkX(t, name)
					check(t, name)
					for r := range rows {
						row := x0[r*n : (r+1)*n]
						for i := range n {
							if got, w := float64(dst[r*(n+1)+i]), want(row, i); !(math.Abs(got-w) <= 4e-6*max(1, math.Abs(w))) {
								t.Fatalf("%s %s [%d,%d]: %g, want %g", what, name, r, i, got, w)
							}
						}
					}
				}
				scale := func(i int) (float64, float64) {
					s, o := 1.0, 0.0
					if g != nil {
						s = float64(g[i])
					}
					if b != nil {
						o = float64(b[i])
					}
					return s, o
				}
				LayerNorm(dst, x, n+1, n+3, rows, n, g, b, 1e-5)
				compare("layer norm", func(row []float32, i int) float64 {
					mean, sq := moments(row)
					s, o := scale(i)
					return (float64(row[i])-mean)/math.Sqrt(sq-mean*mean+1e-5)*s + o
				})
				RMSNorm(dst, x, n+1, n+3, rows, n, g, 1e-5)
				compare("rms norm", func(row []float32, i int) float64 {
					_, sq := moments(row)
					s, _ := scale(i)
					return float64(row[i]) / math.Sqrt(sq+1e-5) * s
				})
			}
			x, check := guardRows(x0, rows, n, n+3, 1)
			Softmax(x, n+3, rows, n)
			check(t, "softmax")
			for r := range rows {
				sum := 0.0
				for _, v := range x0[r*n : (r+1)*n] {
					sum += math.Exp(float64(v))
				}
				for i, v := range x0[r*n : (r+1)*n] {
					if want := math.Exp(float64(v)) / sum; math.Abs(float64(x[r*(n+3)+i])-want) > 5e-7 {
						t.Fatalf("softmax n=%d: %g, want %g", n, x[r*(n+3)+i], want)
					}
				}
			}
		}
	})
}

// moments returns the means of x and x².
func moments(x []float32) (mean, square float64) {
	for _, v := range x {
		mean += float64(v) / float64(len(x))
		square += float64(v) * float64(v) / float64(len(x))
	}
	return mean, square
}

func TestSoftmaxOfHidden(t *testing.T) {
	forEachSet(t, func(t *testing.T) {
		for _, v := range []float32{lowest, float32(math.Inf(-1)), 0, math.MaxFloat32} {
			x := make([]float32, 35)
			for i := range x {
				x[i] = v
			}
			Softmax(x, 35, 1, 35)
			for i := range x {
				if math.Abs(float64(x[i])-1.0/35) > 1e-8 {
					t.Fatalf("softmax of equal %g: %g, want 1/35", v, x[i])
				}
			}
		}
	})
}
