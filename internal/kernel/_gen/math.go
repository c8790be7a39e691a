package main

import "math"

const (
	ln2Hi = 0.693359375
	ln2Lo = -2.12194440e-4
)

// expCoefs are Cephes' expf: exp(r) = 1 + r + r²·P(r) for |r| ≤ ln2/2.
var expCoefs = []float32{1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1}

// exp writes x = exp(x), using registers p, n and t; x must not exceed 88.3. Below −104
// the result is 0; it may be from −87.4.
func (v *vec) exp(x, p, n, t int) {
	if v.wide {
		v.maxK(x, x, -110) // 2⁻¹⁵⁹ underflows to 0
	} else {
		v.maxK(x, x, -88.1) // ldexp gives 0
	}
	v.mulK(n, x, math.Log2E)
	v.round(n, n)
	v.fmaK(x, n, -ln2Hi)
	v.fmaK(x, n, -ln2Lo)
	v.set(p, expCoefs[0])
	for _, c := range expCoefs[1:] {
		v.horner(p, x, c)
	}
	v.mul(t, x, x)
	v.addK(x, x, 1)
	v.fma(x, p, t)
	v.ldexp(x, n)
}

// rational writes d = x·A(x²)/B(x²), using registers s and q; x is clamped to ±top first and
// is destroyed.
func (v *vec) rational(d, x, s, q int, top float32, a, b []float32) {
	v.maxK(x, x, -top)
	v.minK(x, x, top)
	v.mul(s, x, x)
	v.set(d, a[0])
	for _, c := range a[1:] {
		v.horner(d, s, c)
	}
	v.set(q, b[0])
	for _, c := range b[1:] {
		v.horner(q, s, c)
	}
	v.mul(d, d, x)
	v.div(d, d, q)
}

// erf and tanh by minimax rationals in x² (the coefficients of Eigen's and XLA's float32
// erf and tanh).
var (
	erfA  = []float32{-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05, -7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02}
	erfB  = []float32{-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03, -1.42647390514189e-02}
	tanhA = []float32{-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08, 1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03}
	tanhB = []float32{1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03}
)

// sigmoidTimes writes x = x/(1+exp(−z)), z given in register z.
func (v *vec) sigmoidTimes(x, z, p, n, t int) {
	v.neg(z, z)
	v.minK(z, z, 88)
	v.exp(z, p, n, t)
	v.addK(z, z, 1)
	v.div(x, x, z)
}

// emitMath writes the elementwise functions: dst = f(x) for n values, n a multiple of the
// lanes.
func emitMath(v *vec) {
	unary := func(name, doc string, f func()) {
		v.fn(name, doc, "dst, x *float32, n int", 24)
		v.op("MOVQ dst+0(FP), DI")
		v.op("MOVQ x+8(FP), SI")
		v.op("MOVQ n+16(FP), CX")
		loop, end := v.label("loop"), v.label("end")
		v.op("SUBQ $%d, CX", v.lanes)
		v.op("JLT %s", end)
		v.at(loop)
		v.ld(0, "(SI)")
		f()
		v.st(0, "(DI)")
		v.op("ADDQ $%d, SI", v.bytes())
		v.op("ADDQ $%d, DI", v.bytes())
		v.op("SUBQ $%d, CX", v.lanes)
		v.op("JGE %s", loop)
		v.at(end)
		v.ret()
	}
	unary("exp", "writes exp(x), x ≤ 88.", func() { v.minK(0, 0, 88); v.exp(0, 1, 2, 3) })
	unary("gelu", "writes x/2·(1+erf(x/√2)).", func() {
		v.mulK(1, 0, math.Sqrt2/2)
		v.rational(2, 1, 3, 4, 4, erfA, erfB)
		v.mulK(0, 0, 0.5)
		v.fma(0, 0, 2)
	})
	unary("geluTanh", "writes GELU by its tanh approximation.", func() {
		v.mul(1, 0, 0)
		v.mulK(1, 1, 2*0.7978845608028654*0.044715)
		v.addK(1, 1, 2*0.7978845608028654)
		v.mul(1, 1, 0)
		v.sigmoidTimes(0, 1, 2, 3, 4)
	})
	unary("quickGelu", "writes x·sigmoid(1.702x).", func() {
		v.mulK(1, 0, 1.702)
		v.sigmoidTimes(0, 1, 2, 3, 4)
	})
	unary("silu", "writes x·sigmoid(x).", func() {
		v.mov(1, 0)
		v.sigmoidTimes(0, 1, 2, 3, 4)
	})
	unary("tanh", "writes tanh(x).", func() {
		v.mov(1, 0)
		v.rational(0, 1, 2, 3, 7.90531110763549805, tanhA, tanhB)
	})
	unary("relu", "writes max(x, 0).", func() { v.zero(1); v.max(0, 0, 1) })
	unary("reluSquared", "writes max(x, 0)².", func() { v.zero(1); v.max(0, 0, 1); v.mul(0, 0, 0) })
}
