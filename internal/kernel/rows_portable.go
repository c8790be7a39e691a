package kernel

import (
	"math"
	"unsafe"
)

func sumPortable(out, x *float32, n int) {
	s := 0.0
	for _, v := range unsafe.Slice(x, n) {
		s += float64(v)
	}
	*out = float32(s)
}

func squaresPortable(out, x *float32, n int, mean float32) {
	s := 0.0
	for _, v := range unsafe.Slice(x, n) {
		d := float64(v) - float64(mean)
		s += d * d
	}
	*out = float32(s)
}

func maxPortable(out, x *float32, n int) {
	top := *x
	for _, v := range unsafe.Slice(x, n) {
		top = max(top, v)
	}
	*out = top
}

func expSumPortable(out, x *float32, n int, top float32) {
	s := 0.0
	row := unsafe.Slice(x, n)
	for i, v := range row {
		e := expPortable(max(v, lowest) - top)
		s += float64(e)
		row[i] = e
	}
	*out = float32(s)
}

func affinePortable(dst, x, gamma, beta *float32, n int, mean, inv float32) {
	d, src := unsafe.Slice(dst, n), unsafe.Slice(x, n)
	for i, v := range src {
		d[i] = (v - mean) * inv
	}
	if gamma != nil {
		mulPortable(dst, dst, gamma, n)
	}
	if beta != nil {
		addPortable(dst, dst, beta, n)
	}
}

func addPortable(dst, a, b *float32, n int) {
	x, y, d := unsafe.Slice(a, n), unsafe.Slice(b, n), unsafe.Slice(dst, n)
	for i := range d {
		d[i] = x[i] + y[i]
	}
}

func mulPortable(dst, a, b *float32, n int) {
	x, y, d := unsafe.Slice(a, n), unsafe.Slice(b, n), unsafe.Slice(dst, n)
	for i := range d {
		d[i] = x[i] * y[i]
	}
}

func scalePortable(x *float32, n int, s float32) {
	d := unsafe.Slice(x, n)
	for i := range d {
		d[i] *= s
	}
}

func finishPortable(dst *float32, ldd int, c, bias, res *float32, ldr, rows int, scale float32) {
	out := unsafe.Slice(dst, (rows-1)*ldd+panel)
	src := unsafe.Slice(c, rows*panel)
	b := unsafe.Slice(bias, panel)
	for r := range rows {
		x := src[r*panel : (r+1)*panel]
		y := out[r*ldd : r*ldd+panel]
		if res == nil {
			for i, v := range x {
				y[i] = v*scale + b[i]
			}
			continue
		}
		// res may be dst itself.
		add := unsafe.Slice(res, (rows-1)*ldr+panel)[r*ldr:]
		for i, v := range x {
			y[i] = v*scale + b[i] + add[i]
		}
	}
}

// unaryPortable are the activations through float64.
var unaryPortable = [Tanh + 1]func(dst, x *float32, n int){
	Identity: unary64(func(x float64) float64 { return x }),
	GELU:     unary64(func(x float64) float64 { return 0.5 * x * (1 + math.Erf(x*math.Sqrt2/2)) }),
	GELUTanh: unary64(func(x float64) float64 {
		return 0.5 * x * (1 + math.Tanh(0.7978845608028654*(x+0.044715*x*x*x)))
	}),
	QuickGELU:   unary64(func(x float64) float64 { return x / (1 + math.Exp(-1.702*x)) }),
	ReLU:        unary64(func(x float64) float64 { return max(x, 0) }),
	SiLU:        unary64(func(x float64) float64 { return x / (1 + math.Exp(-x)) }),
	ReLUSquared: unary64(func(x float64) float64 { x = max(x, 0); return x * x }),
	Tanh:        unary64(math.Tanh),
}

func unary64(f func(float64) float64) func(dst, x *float32, n int) {
	return func(dst, x *float32, n int) {
		d := unsafe.Slice(dst, n)
		for i, v := range unsafe.Slice(x, n) {
			d[i] = float32(f(float64(v)))
		}
	}
}
