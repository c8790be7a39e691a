package kernel

import (
	"fmt"
	"math"
)

// partValues is the work of one part of an elementwise loop.
const partValues = 1 << 15

type activateTask struct {
	dst, x []float32
	act    Act
}

func (t *activateTask) run(i int) {
	from, to := i*partValues, min(len(t.x), (i+1)*partValues)
	activate(t.dst[from:to], t.x[from:to], t.act)
}

// Activate writes act(x) into dst, which may be x; both have the same length.
func Activate(dst, x []float32, act Act) {
	sameLen("activate", len(dst), len(x))
	if n := (len(x) + partValues - 1) / partValues; n > 1 {
		workers.do(n, &activateTask{dst, x, act})
		return
	}
	activate(dst, x, act)
}

func activate(dst, x []float32, act Act) {
	dst = dst[:len(x)]
	switch act {
	case Identity:
		if len(x) > 0 && &dst[0] != &x[0] {
			copy(dst, x)
		}
	case GELU:
		for i, v := range x {
			dst[i] = float32(0.5 * float64(v) * (1 + math.Erf(float64(v)*math.Sqrt2/2)))
		}
	case GELUTanh:
		for i, v := range x {
			w := float64(v)
			dst[i] = float32(0.5 * w * (1 + math.Tanh(0.7978845608028654*(w+0.044715*w*w*w))))
		}
	case QuickGELU:
		for i, v := range x {
			dst[i] = float32(float64(v) / (1 + math.Exp(-1.702*float64(v))))
		}
	case SiLU:
		for i, v := range x {
			dst[i] = float32(float64(v) / (1 + math.Exp(-float64(v))))
		}
	case ReLU:
		for i, v := range x {
			dst[i] = max(v, 0)
		}
	case ReLUSquared:
		for i, v := range x {
			v = max(v, 0)
			dst[i] = v * v
		}
	case Tanh:
		for i, v := range x {
			dst[i] = float32(math.Tanh(float64(v)))
		}
	default:
		panic("kernel: activate: unknown activation " + act.String())
	}
}

// Add writes a+b into dst, which may be either; all have dst's length.
func Add(dst, a, b []float32) {
	sameLen("add", len(dst), len(a))
	sameLen("add", len(dst), len(b))
	for i := range dst {
		dst[i] = a[i] + b[i]
	}
}

// Mul writes a·b elementwise into dst, which may be either; all have dst's length.
func Mul(dst, a, b []float32) {
	sameLen("mul", len(dst), len(a))
	sameLen("mul", len(dst), len(b))
	for i := range dst {
		dst[i] = a[i] * b[i]
	}
}

// Scale multiplies dst by s in place.
func Scale(dst []float32, s float32) {
	for i := range dst {
		dst[i] *= s
	}
}

// AddRowVector adds v (n) to each of the rows of dst (rows×n, row stride ldd).
func AddRowVector(dst []float32, ldd, rows, n int, v []float32) {
	checkMatrix("add row vector: dst", dst, ldd, rows, n)
	checkMatrix("add row vector: v", v, n, 1, n)
	for r := range rows {
		Add(dst[r*ldd:r*ldd+n], dst[r*ldd:r*ldd+n], v[:n])
	}
}

func sameLen(what string, want, got int) {
	if want != got {
		panic(fmt.Sprintf("kernel: %s: %d values against %d", what, got, want))
	}
}
