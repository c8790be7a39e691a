package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

// forEachSet runs f as a subtest under every kernel set of the machine.
func forEachSet(t *testing.T, f func(t *testing.T)) {
	before := Set()
	defer UseSet(before)
	for _, name := range Sets() {
		if err := UseSet(name); err != nil {
			t.Fatal(err)
		}
		t.Run(name, f)
	}
}

// noise returns n normal values.
func noise(seed uint64, n int) []float32 {
	r := rand.New(rand.NewPCG(seed, 1))
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	return x
}

// guard is the value that nothing may read into a result or overwrite.
const guard = float32(1e30)

// guarded returns an array of n values at the given offset within guard values, and a
// check that the guards still stand.
func guarded(n, offset int) (x []float32, check func(t *testing.T, what string)) {
	all := make([]float32, n+offset+40)
	for i := range all {
		all[i] = guard
	}
	x = all[offset : offset+n : offset+n]
	return x, func(t *testing.T, what string) {
		t.Helper()
		for i, v := range all {
			if (i < offset || i >= offset+n) && v != guard {
				t.Fatalf("%s: wrote at %d of [0,%d)", what, i-offset, n)
			}
		}
	}
}

// guardRows puts rows×n values into guarded memory with row stride ld; the gaps are guards.
func guardRows(src []float32, rows, n, ld, offset int) ([]float32, func(t *testing.T, what string)) {
	x, check := guarded((rows-1)*ld+n, offset)
	for i := range x {
		x[i] = guard
	}
	for r := range rows {
		copy(x[r*ld:r*ld+n], src[r*n:(r+1)*n])
	}
	return x, func(t *testing.T, what string) {
		t.Helper()
		check(t, what)
		for r := range rows - 1 {
			for i := r*ld + n; i < (r+1)*ld; i++ {
				if x[i] != guard {
					t.Fatalf("%s: wrote between rows %d and %d", what, r, r+1)
				}
			}
		}
	}
}

// product is the float64 oracle: a (m×k) · wᵀ (n×k).
func product(a, w []float32, m, n, k int) []float64 {
	out := make([]float64, m*n)
	for i := range m {
		for j := range n {
			s := 0.0
			for c := range k {
				s += float64(a[i*k+c]) * float64(w[j*k+c])
			}
			out[i*n+j] = s
		}
	}
	return out
}

func packRows(w []float32, n, k int, dt DType) *Packed {
	return Pack(n, k, dt, func(i int, dst []float32) { copy(dst, w[i*k:(i+1)*k]) })
}

// gemmTolerance is the allowed error over sqrt(k) for normal data.
var gemmTolerance = map[DType]float64{F32: 4e-6, BF16: 2.2e-2, Int8: 8e-2, F16W: 2e-3, BF16W: 1.6e-2}

func TestGemmAgainstFloat64(t *testing.T) {
	shapes := [][3]int{{1, 1, 1}, {1, 33, 7}, {3, 16, 5}, {5, 17, 64}, {13, 31, 191}, {14, 32, 192}, {15, 48, 193}, {29, 65, 261}, {127, 70, 40}, {300, 33, 19}}
	forEachSet(t, func(t *testing.T) {
		for _, dt := range []DType{F32, BF16, Int8, F16W, BF16W} {
			for si, s := range shapes {
				m, n, k := s[0], s[1], s[2]
				name := fmt.Sprintf("%v %d×%d×%d", dt, m, n, k)
				a0, w0 := noise(uint64(si), m*k), noise(uint64(si)+100, n*k)
				want := product(a0, w0, m, n, k)
				a, checkA := guardRows(a0, m, k, k+si%3, si%16)
				dst, checkDst := guardRows(make([]float32, m*n), m, n, n+si%2, si%7)
				Gemm(dst, n+si%2, a, k+si%3, m, packRows(w0, n, k, dt), Epilogue{})
				checkA(t, name)
				checkDst(t, name)
				tol := gemmTolerance[dt] * math.Sqrt(float64(k)+8)
				for i := range m {
					for j := range n {
						got := float64(dst[i*(n+si%2)+j])
						if !(math.Abs(got-want[i*n+j]) <= tol) {
							t.Fatalf("%s [%d,%d]: %g, want %g", name, i, j, got, want[i*n+j])
						}
					}
				}
			}
		}
	})
}

// bitsEqual fails at the first value of got whose bits differ from want's.
func bitsEqual(t *testing.T, what string, got, want []float32) {
	t.Helper()
	for i := range want {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			t.Fatalf("%s: value %d is %g, want the bits of %g", what, i, got[i], want[i])
		}
	}
}

// Bits of a row do not depend on how many rows are multiplied, nor on threads. The second shape
// is deep enough to be multiplied in chunks.
func TestGemmRowsAreIndependent(t *testing.T) {
	forEachSet(t, func(t *testing.T) {
		for _, s := range [][3]int{{261, 100, 333}, {129, 265, 1401}} {
			m, n, k := s[0], s[1], s[2]
			a, w := noise(1, m*k), noise(2, n*k)
			for _, dt := range []DType{F32, BF16, Int8, F16W, BF16W} {
				p := packRows(w, n, k, dt)
				whole := make([]float32, m*n)
				Gemm(whole, n, a, k, m, p, Epilogue{})
				few := []int{1, 2, 3, 4, 5, 7, 13, 14, 16, 30, 100}
				if k > 1000 {
					few = []int{1, 4, 29}
				}
				for _, rows := range few {
					part := make([]float32, rows*n)
					from := 7 * rows % (m - rows)
					SetThreads(1 + rows%3)
					Gemm(part, n, a[from*k:], k, rows, p, Epilogue{})
					SetThreads(0)
					bitsEqual(t, fmt.Sprintf("%v %v, %d rows", dt, s, rows), part, whole[from*n:(from+rows)*n])
				}
			}
		}
	})
}

// Every item of a product is taken once, by its worker or another.
func TestSpanIsTakenOnce(t *testing.T) {
	const n = 10_000
	var s span
	s.set(7, 7+n)
	var taken [7 + n]atomic.Int32
	var done sync.WaitGroup
	for w := range 4 {
		done.Go(func() {
			for i, ok := s.take(w == 0); ok; i, ok = s.take(w == 0) {
				taken[i].Add(1)
			}
		})
	}
	done.Wait()
	for i := range taken {
		if got, want := taken[i].Load(), int32(min(1, i/7)); got != want {
			t.Fatalf("item %d taken %d times", i, got)
		}
	}
}
