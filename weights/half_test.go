package weights_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/mmserve/mmserve/weights"
)

// Every half, widened and rounded again, is itself.
func TestHalvesThereAndBack(t *testing.T) {
	for i := range 1 << 16 {
		h := uint16(i)
		f := weights.F16ToF32(h)
		if g := weights.F32ToF16(f); g != h && !(f != f && weights.F16ToF32(g) != weights.F16ToF32(g)) {
			t.Fatalf("f16 %#04x → %v → %#04x", h, f, g)
		}
		b := weights.BF16ToF32(h)
		if g := weights.F32ToBF16(b); g != h && b == b {
			t.Fatalf("bf16 %#04x → %v → %#04x", h, b, g)
		}
	}
}

// nearest rounds f to the 16-bit format by looking at the neighbours of a guess.
func nearest(f float32, guess uint16, widen func(uint16) float32) bool {
	d := math.Abs(float64(widen(guess)) - float64(f))
	for _, n := range []uint16{guess - 1, guess + 1} {
		w := float64(widen(n))
		if n>>15 != guess>>15 || math.IsNaN(w) || math.IsInf(w, 0) {
			continue
		}
		e := math.Abs(w - float64(f))
		if e < d || e == d && guess&1 == 1 {
			return false
		}
	}
	return true
}

func TestRoundingIsToNearestEven(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	check := func(f float32) {
		if math.Abs(float64(f)) < 65504 {
			if h := weights.F32ToF16(f); !nearest(f, h, weights.F16ToF32) {
				t.Fatalf("f16(%v) = %v", f, weights.F16ToF32(h))
			}
		}
		if h := weights.F32ToBF16(f); math.Abs(float64(f)) < 3e38 && !nearest(f, h, weights.BF16ToF32) {
			t.Fatalf("bf16(%v) = %v", f, weights.BF16ToF32(h))
		}
	}
	for range 200000 {
		check(float32(r.NormFloat64() * math.Exp(r.NormFloat64()*8)))
		// Ties: a half, and half a step more.
		h := uint16(r.IntN(0x7bff))
		check((weights.F16ToF32(h) + weights.F16ToF32(h+1)) / 2)
		b := uint16(r.IntN(0x7f00))
		check(weights.BF16ToF32(b) + (weights.BF16ToF32(b+1)-weights.BF16ToF32(b))/2)
	}
}

func TestHalfEdges(t *testing.T) {
	inf := float32(math.Inf(1))
	for _, c := range []struct {
		f    float32
		want uint16
	}{
		{65504, 0x7bff}, {65519.996, 0x7bff}, {65520, 0x7c00}, {inf, 0x7c00}, {-inf, 0xfc00},
		{0x1p-24, 1}, {0x1p-25, 0}, {0x1.000002p-25, 1}, {0x1p-14, 0x400}, {float32(math.Copysign(0, -1)), 0x8000},
	} {
		if got := weights.F32ToF16(c.f); got != c.want {
			t.Errorf("f16(%v) = %#04x, want %#04x", c.f, got, c.want)
		}
	}
	if h := weights.F32ToBF16(math.MaxFloat32); h != 0x7f80 {
		t.Errorf("bf16(max) = %#04x", h)
	}
	nan := float32(math.NaN())
	if f := weights.F16ToF32(weights.F32ToF16(nan)); f == f {
		t.Error("f16(NaN) is a number")
	}
	if f := weights.BF16ToF32(weights.F32ToBF16(math.Float32frombits(0x7f800001))); f == f {
		t.Error("bf16(NaN) is a number")
	}
}
