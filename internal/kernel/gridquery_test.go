package kernel

import (
	"fmt"
	"math"
	"testing"
)

func TestGridQueryAgainstFloat64(t *testing.T) {
	forEachSet(t, func(t *testing.T) {
		for _, s := range [][5]int{{1, 1, 1, 0, 1}, {5, 3, 4, 1, 2}, {230, 7, 70, 3, 20}, {300, 2, 300, 16, 33}} {
			keys, h, w, f, v := s[0], s[1], s[2], s[3], s[4]
			name := fmt.Sprint(s)
			rows := h * w
			a := GridQueryArgs{S: keys, H: h, W: w, F: f, V: v, K: noise(1, keys*f), LDK: f, KMean: noise(2, keys), SH: noise(3, keys*h),
				SW: noise(4, keys*w), Bias: noise(8, keys), Values: noise(9, keys*v), LDV: v}
			feat, mean, inv := noise(5, rows*f), noise(6, rows), noise(7, rows)
			for i, x := range inv {
				inv[i] = 0.2 + x*x/4
			}
			var g GridQuery
			g.Start(a)
			out, check := guardRows(make([]float32, rows*v), rows, v, v+1, 3)
			g.Attend(out, v+1, feat, f, mean, inv, 0, h)
			check(t, name)
			compareGridQuery(t, name, a, feat, mean, inv, out)
			for line := range h {
				part := make([]float32, w*v)
				g.Attend(part, v, feat[line*w*f:], f, mean[line*w:], inv[line*w:], line, 1)
				for i := range w {
					bitsEqual(t, name, part[i*v:(i+1)*v], out[(line*w+i)*(v+1):][:v])
				}
			}
		}
	})
}

func compareGridQuery(t *testing.T, name string, a GridQueryArgs, feat, mean, inv, out []float32) {
	t.Helper()
	p := make([]float64, a.S)
	for m := range a.H * a.W {
		top, sum := math.Inf(-1), 0.0
		for n := range p {
			s := float64(a.SH[n*a.H+m/a.W]) + float64(a.SW[n*a.W+m%a.W]) + float64(a.KMean[n])*float64(mean[m])
			for c := range a.F {
				s += float64(a.K[n*a.F+c]) * float64(feat[m*a.F+c])
			}
			p[n] = s*float64(inv[m]) + float64(a.Bias[n])
			top = max(top, p[n])
		}
		for n := range p {
			p[n] = math.Exp(p[n] - top)
			sum += p[n]
		}
		for c := range a.V {
			want := 0.0
			for n := range p {
				want += p[n] / sum * float64(a.Values[n*a.V+c])
			}
			if got := float64(out[m*(a.V+1)+c]); !(math.Abs(got-want) <= 2e-5) {
				t.Fatalf("%s: row %d, value %d: %g, want %g", name, m, c, got, want)
			}
		}
	}
}
