package kernel

import "math"

type normTask struct {
	dst, x        []float32
	ldd, ldx      int
	rows, n, part int
	gamma, beta   []float32
	eps           float32
	kind          int
}

const (
	layerNormKind = iota
	rmsNormKind
	softmaxKind
)

func (t *normTask) run(i int) {
	for r := i * t.part; r < min(t.rows, (i+1)*t.part); r++ {
		dst, x := t.dst[r*t.ldd:r*t.ldd+t.n], t.x[r*t.ldx:r*t.ldx+t.n]
		switch t.kind {
		case layerNormKind:
			layerNormRow(dst, x, t.gamma, t.beta, t.eps)
		case rmsNormKind:
			rmsNormRow(dst, x, t.gamma, t.eps)
		case softmaxKind:
			softmaxRow(dst, x)
		}
	}
}

func (t *normTask) do() {
	if t.rows <= 0 || t.n <= 0 {
		return
	}
	t.part = max(1, partValues/t.n)
	if n := (t.rows + t.part - 1) / t.part; n > 1 {
		workers.do(n, t)
		return
	}
	t.run(0)
}

// LayerNorm writes (x−mean)/sqrt(variance+eps)·gamma+beta of each row into dst: rows×n, row
// strides ldd and ldx; dst may be x. gamma nil means 1, beta nil 0. The variance is the
// mean of squared deviations (not n−1).
func LayerNorm(dst, x []float32, ldd, ldx, rows, n int, gamma, beta []float32, eps float32) {
	checkMatrix("layer norm: dst", dst, ldd, rows, n)
	checkMatrix("layer norm: x", x, ldx, rows, n)
	checkVector("layer norm: gamma", gamma, n)
	checkVector("layer norm: beta", beta, n)
	t := normTask{dst: dst, x: x, ldd: ldd, ldx: ldx, rows: rows, n: n, gamma: gamma, beta: beta, eps: eps, kind: layerNormKind}
	t.do()
}

// RMSNorm writes x/sqrt(mean(x²)+eps)·gamma of each row into dst: rows×n, row strides ldd
// and ldx; dst may be x. gamma nil means 1.
func RMSNorm(dst, x []float32, ldd, ldx, rows, n int, gamma []float32, eps float32) {
	checkMatrix("rms norm: dst", dst, ldd, rows, n)
	checkMatrix("rms norm: x", x, ldx, rows, n)
	checkVector("rms norm: gamma", gamma, n)
	t := normTask{dst: dst, x: x, ldd: ldd, ldx: ldx, rows: rows, n: n, gamma: gamma, eps: eps, kind: rmsNormKind}
	t.do()
}

// Softmax replaces each row of x (rows×n, row stride ld) by its softmax. A row of equal
// values, −MaxFloat32 included, becomes uniform.
func Softmax(x []float32, ld, rows, n int) {
	checkMatrix("softmax", x, ld, rows, n)
	t := normTask{dst: x, x: x, ldd: ld, ldx: ld, rows: rows, n: n, kind: softmaxKind}
	t.do()
}

func checkVector(what string, v []float32, n int) {
	if v != nil {
		checkMatrix(what, v, n, 1, n)
	}
}

func layerNormRow(dst, x, gamma, beta []float32, eps float32) {
	sum := 0.0
	for _, v := range x {
		sum += float64(v)
	}
	mean := sum / float64(len(x))
	sum = 0
	for _, v := range x {
		d := float64(v) - mean
		sum += d * d
	}
	inv := 1 / math.Sqrt(sum/float64(len(x))+float64(eps))
	for i, v := range x {
		y := float32((float64(v) - mean) * inv)
		if gamma != nil {
			y *= gamma[i]
		}
		if beta != nil {
			y += beta[i]
		}
		dst[i] = y
	}
}

func rmsNormRow(dst, x, gamma []float32, eps float32) {
	sum := 0.0
	for _, v := range x {
		sum += float64(v) * float64(v)
	}
	inv := float32(1 / math.Sqrt(sum/float64(len(x))+float64(eps)))
	for i, v := range x {
		y := v * inv
		if gamma != nil {
			y *= gamma[i]
		}
		dst[i] = y
	}
}

func softmaxRow(dst, x []float32) {
	top := lowest
	for _, v := range x {
		top = max(top, v)
	}
	sum := 0.0
	for i, v := range x {
		e := math.Exp(float64(max(v, lowest)) - float64(top))
		sum += e
		dst[i] = float32(e)
	}
	inv := float32(1 / sum)
	for i := range dst {
		dst[i] *= inv
	}
}

// lowest is the finite stand-in for minus infinity that masks use.
const lowest float32 = -math.MaxFloat32
