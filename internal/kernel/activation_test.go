package kernel

import (
	"fmt"
	"math"
	"testing"
)

// sweep returns values that cover the range of an activation, finely near zero.
func sweep() []float32 {
	var x []float32
	for v := -100.0; v <= 100; v += 0.0173 {
		x = append(x, float32(v))
	}
	for v := -6.0; v <= 6; v += 0.00037 {
		x = append(x, float32(v))
	}
	for v := 1e-30; v < 1; v *= 1.7 {
		x = append(x, float32(v), float32(-v))
	}
	return append(x, 0, float32(math.Copysign(0, -1)), 1e30, -1e30, math.MaxFloat32, -math.MaxFloat32)
}

var exact = map[Act]func(x float64) float64{
	Identity:    func(x float64) float64 { return x },
	GELU:        func(x float64) float64 { return 0.5 * x * math.Erfc(-x/math.Sqrt2) },
	GELUTanh:    func(x float64) float64 { return x / (1 + math.Exp(-2*0.7978845608028654*(x+0.044715*x*x*x))) },
	QuickGELU:   func(x float64) float64 { return x / (1 + math.Exp(-1.702*x)) },
	ReLU:        func(x float64) float64 { return max(x, 0) },
	SiLU:        func(x float64) float64 { return x / (1 + math.Exp(-x)) },
	ReLUSquared: func(x float64) float64 { return max(x, 0) * max(x, 0) },
	Tanh:        math.Tanh,
}

// The largest errors that Activate states.
func TestActivateErrors(t *testing.T) {
	x := sweep()
	y := make([]float32, len(x))
	forEachSet(t, func(t *testing.T) {
		for act := Identity; act <= Tanh; act++ {
			Activate(y, x, act)
			worst, where := 0.0, 0
			for i := range x {
				want := exact[act](float64(x[i]))
				if math.Abs(want) > math.MaxFloat32 {
					want = math.Inf(1)
				}
				if math.IsInf(want, 1) && math.IsInf(float64(y[i]), 1) {
					continue
				}
				err := math.Abs(float64(y[i])-want) / max(1, math.Abs(float64(x[i])))
				if act == ReLUSquared && want > 1 {
					err = math.Abs(float64(y[i])-want) / want
				}
				if !(err <= worst) {
					worst, where = err, i
				}
			}
			t.Logf("%-12v %.2g at %g", act, worst, x[where])
			if !(worst <= 4e-7) {
				t.Errorf("%v(%g) = %g, want %g: error %.3g of max(1,|x|)", act, x[where], y[where], exact[act](float64(x[where])), worst)
			}
		}
	})
}

// The same value gives the same bits wherever it stands, and nothing else is written.
func TestActivatePlacesAlike(t *testing.T) {
	x := noise(1, 70)
	forEachSet(t, func(t *testing.T) {
		for act := Identity; act <= Tanh; act++ {
			want := make([]float32, len(x))
			Activate(want, x, act)
			for n := range 40 {
				for _, offset := range []int{0, 1, 5, 13} {
					in, checkIn := guarded(n, offset)
					copy(in, x[offset:])
					dst, check := guarded(n, 3)
					Activate(dst, in, act)
					name := fmt.Sprintf("%v of %d values", act, n)
					checkIn(t, name)
					check(t, name)
					bitsEqual(t, name, dst, want[offset:offset+n])
				}
			}
		}
	})
}

func TestElementwise(t *testing.T) {
	forEachSet(t, func(t *testing.T) {
		for n := range 70 {
			a, checkA := guarded(n, 1)
			b, checkB := guarded(n, 2)
			dst, check := guarded(n, 3)
			copy(a, noise(1, n))
			copy(b, noise(2, n))
			name := fmt.Sprint(n, " values")
			want := make([]float32, n)
			do := func(f func(), w func(i int) float32) {
				t.Helper()
				f()
				for i := range want {
					want[i] = w(i)
				}
				bitsEqual(t, name, dst, want)
			}
			do(func() { Add(dst, a, b) }, func(i int) float32 { return a[i] + b[i] })
			do(func() { Mul(dst, a, b) }, func(i int) float32 { return a[i] * b[i] })
			do(func() { copy(dst, a); Scale(dst, 3) }, func(i int) float32 { return a[i] * 3 })
			do(func() { copy(dst, a); AddRowVector(dst, n, 1, n, b) }, func(i int) float32 { return a[i] + b[i] })
			checkA(t, name)
			checkB(t, name)
			check(t, name)
		}
	})
}
