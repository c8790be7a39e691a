package kernel

import (
	"fmt"
	"math"
	"testing"
)

// Every combination of an epilogue's parts against float64, in place where that is allowed.
func TestEpilogues(t *testing.T) {
	const m, k = 17, 9
	forEachSet(t, func(t *testing.T) {
		for _, n := range []int{5, 16, 32, 48, 70} {
			a, w, bias, res := noise(1, m*k), noise(2, n*k), noise(3, n), noise(4, m*n)
			p := packRows(w, n, k, F32)
			want := product(a, w, m, n, k)
			for bits := range 32 {
				e := Epilogue{}
				ld := n + 3
				dst, check := guardRows(noise(5, m*n), m, n, ld, 1)
				before := append([]float32(nil), dst...)
				if bits&1 != 0 {
					e.Bias = bias
				}
				if bits&2 != 0 {
					e.Act = SiLU
				}
				if bits&4 != 0 {
					e.Scale = 0.5
				}
				if bits&8 != 0 {
					e.Add = true
				}
				if bits&16 != 0 {
					e.Residual, e.LDR = res, n
					if bits&8 == 0 && bits&1 != 0 {
						e.Residual, e.LDR = dst, ld // in place
					}
				}
				name := fmt.Sprintf("n=%d %+v", n, bits)
				Gemm(dst, ld, a, k, m, p, e)
				check(t, name)
				for i := range m {
					for j := range n {
						x := want[i*n+j]
						if e.Scale != 0 {
							x *= float64(e.Scale)
						}
						if e.Bias != nil {
							x += float64(bias[j])
						}
						x = exact[e.Act](x)
						switch {
						case e.Residual != nil && e.LDR == ld:
							x += float64(before[i*ld+j])
						case e.Residual != nil:
							x += float64(res[i*n+j])
						}
						if e.Add {
							x += float64(before[i*ld+j])
						}
						if got := float64(dst[i*ld+j]); math.Abs(got-x) > 1e-5 {
							t.Fatalf("%s [%d,%d]: %g, want %g", name, i, j, got, x)
						}
					}
				}
			}
		}
	})
}

func TestGemmUnpackedOperands(t *testing.T) {
	forEachSet(t, func(t *testing.T) {
		for _, s := range [][3]int{{1, 1, 1}, {5, 33, 17}, {20, 100, 64}} {
			m, n, k := s[0], s[1], s[2]
			a, w := noise(1, m*k), noise(2, n*k)
			want := make([]float32, m*n)
			e := Epilogue{Bias: noise(3, n), Residual: noise(4, m*n), LDR: n}
			Gemm(want, n, a, k, m, packRows(w, n, k, F32), e)
			got := make([]float32, m*n)
			GemmNT(got, n, a, k, w, k, m, n, k, e)
			bitsEqual(t, "NT", got, want)
			b := make([]float32, k*n)
			for j := range n {
				for c := range k {
					b[c*n+j] = w[j*k+c]
				}
			}
			clear(got)
			GemmNN(got, n, a, k, b, n, m, n, k, e)
			bitsEqual(t, "NN", got, want)
		}
	})
}

// Raw 16-bit weights give the bits of the same weights packed from float32.
func TestPackRaw16(t *testing.T) {
	const m, n, k = 6, 37, 51
	a, w := noise(1, m*k), noise(2, n*k)
	forEachSet(t, func(t *testing.T) {
		for _, dt := range []DType{F16W, BF16W, BF16} {
			raw := make([]uint16, len(w))
			for i, x := range w {
				raw[i] = toBF16(x)
				if dt == F16W {
					raw[i] = toF16(x)
				}
			}
			got, want := make([]float32, m*n), make([]float32, m*n)
			Gemm(got, n, a, k, m, PackRaw16(n, k, dt, raw), Epilogue{})
			Gemm(want, n, a, k, m, packRows(w, n, k, dt), Epilogue{})
			bitsEqual(t, dt.String(), got, want)
			if dt == BF16 {
				continue
			}
			wide := make([]float32, len(w)) // bits of the float32 product with the widened weights
			for i, x := range raw {
				wide[i] = fromBF16(x)
				if dt == F16W {
					wide[i] = fromF16(x)
				}
			}
			Gemm(want, n, a, k, m, packRows(wide, n, k, F32), Epilogue{})
			bitsEqual(t, dt.String()+" against f32", got, want)
		}
	})
}

func TestHalfRoundTrips(t *testing.T) {
	for h := range 1 << 16 {
		x := uint16(h)
		if f := fromF16(x); f == f && toF16(f) != x {
			t.Fatalf("f16 %#04x → %g → %#04x", x, f, toF16(f))
		}
		if f := fromBF16(x); f == f && toBF16(f) != x {
			t.Fatalf("bf16 %#04x → %g → %#04x", x, f, toBF16(f))
		}
	}
	for x, want := range map[float32]uint16{65519: 0x7bff, 65520: 0x7c00, 1e-8: 0, 3e-8: 1, 1.00048828125: 0x3c00, 1.0009765625: 0x3c01} {
		if got := toF16(x); got != want {
			t.Errorf("toF16(%g) = %#04x, want %#04x", x, got, want)
		}
	}
}

func TestNames(t *testing.T) {
	for d := F32; d <= BF16W; d++ {
		if got, err := ParseDType(d.String()); err != nil || got != d {
			t.Errorf("ParseDType(%q) = %v, %v", d, got, err)
		}
	}
	if _, err := ParseDType("f64"); err == nil {
		t.Error("ParseDType(f64) gave no error")
	}
	if err := UseSet("sse9"); err == nil {
		t.Error("UseSet(sse9) gave no error")
	}
}
