package kernel

import (
	"fmt"
	"math"
	"testing"
)

func TestGridAgainstFloat64(t *testing.T) {
	forEachSet(t, func(t *testing.T) {
		for _, s := range [][4]int{{1, 1, 1, 0}, {5, 3, 4, 1}, {33, 7, 225, 3}, {70, 12, 40, 64}, {32, 3, 500, 15}} {
			n, h, w, f := s[0], s[1], s[2], s[3]
			name := fmt.Sprint(s)
			rows := h * w
			a := GridArgs{N: n, H: h, W: w, F: f, Q: noise(1, n*f), LDQ: f, QMean: noise(2, n), SH: noise(3, n*h), SW: noise(4, n*w)}
			feat, mean, inv := noise(5, rows*(f+1)), noise(6, rows), noise(7, rows)
			for i, x := range inv {
				inv[i] = 0.2 + x*x
			}
			var first []float32
			for _, lines := range []int{h, 1, 2} {
				var g Grid
				g.Start(a)
				for l := 0; l < h; l += lines {
					k := min(lines, h-l)
					g.Add(feat[l*w*(f+1):(l+k)*w*(f+1)], f+1, mean[l*w:(l+k)*w], inv[l*w:(l+k)*w], k)
				}
				out, checkOut := guarded(n*f, 3)
				om, checkM := guarded(n, 5)
				oh, checkH := guarded(n*h, 1)
				ow, checkW := guarded(n*w, 2)
				g.Finish(out, f, om, oh, ow)
				for _, check := range []func(*testing.T, string){checkOut, checkM, checkH, checkW} {
					check(t, name)
				}
				all := append(append(append(append([]float32(nil), out...), om...), oh...), ow...)
				if first == nil {
					first = all
					compareGrid(t, name, a, feat, mean, inv, out, om, oh, ow)
				}
				bitsEqual(t, name, all, first)
			}
		}
	})
}

func compareGrid(t *testing.T, name string, a GridArgs, feat, mean, inv, out, om, oh, ow []float32) {
	rows := a.H * a.W
	p := make([]float64, rows)
	for n := range a.N {
		top, sum := math.Inf(-1), 0.0
		for m := range rows {
			s := float64(a.SH[n*a.H+m/a.W]) + float64(a.SW[n*a.W+m%a.W]) + float64(a.QMean[n])*float64(mean[m])
			for c := range a.F {
				s += float64(a.Q[n*a.F+c]) * float64(feat[m*(a.F+1)+c])
			}
			p[m] = s * float64(inv[m])
			top = max(top, p[m])
		}
		for m := range p {
			p[m] = math.Exp(p[m] - top)
			sum += p[m]
		}
		want := map[string][]float64{"out": make([]float64, a.F), "mean": make([]float64, 1), "h": make([]float64, a.H), "w": make([]float64, a.W)}
		for m := range p {
			x := p[m] / sum * float64(inv[m])
			want["mean"][0] += x * float64(mean[m])
			want["h"][m/a.W] += x
			want["w"][m%a.W] += x
			for c := range a.F {
				want["out"][c] += x * float64(feat[m*(a.F+1)+c])
			}
		}
		got := map[string][]float32{"out": out[n*a.F : (n+1)*a.F], "mean": om[n : n+1], "h": oh[n*a.H : (n+1)*a.H], "w": ow[n*a.W : (n+1)*a.W]}
		for what, x := range got {
			for i := range x {
				if !(math.Abs(float64(x[i])-want[what][i]) <= 2e-4*max(1, math.Abs(want[what][i]))) {
					t.Fatalf("%s: %s of query %d, value %d: %g, want %g", name, what, n, i, x[i], want[what][i])
				}
			}
		}
	}
}

func BenchmarkGrid(b *testing.B) {
	for _, s := range [][4]int{{512, 224, 224, 3}, {2048, 92, 496, 64}} {
		n, h, w, f := s[0], s[1], s[2], s[3]
		a := GridArgs{N: n, H: h, W: w, F: f, Q: noise(1, n*f), LDQ: f, QMean: noise(2, n), SH: noise(3, n*h), SW: noise(4, n*w)}
		feat, mean, inv := noise(5, h*w*f), noise(6, h*w), noise(7, h*w)
		for i := range inv {
			inv[i] = 1
		}
		b.Run(fmt.Sprint(s), func(b *testing.B) {
			eachThreads(b, func(b *testing.B) {
				var g Grid
				rate(b, "score", float64(n)*float64(h*w), func() {
					g.Start(a)
					for l := range h / 4 {
						from := l * 4 * w
						g.Add(feat[from*f:], f, mean[from:], inv[from:], 4)
					}
				})
			})
		})
	}
}
