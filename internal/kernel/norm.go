package kernel

import (
	"math"
	"sync"
)

// lowest is the finite stand-in for minus infinity that masks use.
const lowest float32 = -math.MaxFloat32

// normTask is a norm of many rows.
type normTask struct {
	set         *set
	row         func(t *normTask, s *scratch, dst, x []float32)
	dst, x      []float32
	ldd, ldx    int
	rows, n     int
	part        int // rows of a part
	gamma, beta []float32
	eps         float32
}

var norms = sync.Pool{New: func() any { return new(normTask) }}

func (t *normTask) run(i int) {
	s := getScratch()
	defer putScratch(s)
	for r := i * t.part; r < min(t.rows, (i+1)*t.part); r++ {
		t.row(t, s, t.dst[r*t.ldd:r*t.ldd+t.n], t.x[r*t.ldx:r*t.ldx+t.n])
	}
}

func doNorm(task normTask) {
	if task.rows <= 0 || task.n <= 0 {
		return
	}
	t := norms.Get().(*normTask)
	*t = task
	t.set = current.Load()
	t.part = max(1, partValues/t.n)
	if n := (t.rows + t.part - 1) / t.part; n > 1 {
		workers.do(n, t)
	} else {
		t.run(0)
	}
	*t = normTask{}
	norms.Put(t)
}

// LayerNorm writes (x−mean)/sqrt(variance+eps)·gamma+beta of each row into dst: rows×n, row
// strides ldd and ldx; dst may be x. gamma nil means 1, beta nil 0. The variance is the
// mean of squared deviations (not n−1).
func LayerNorm(dst, x []float32, ldd, ldx, rows, n int, gamma, beta []float32, eps float32) {
	checkMatrix("layer norm: dst", dst, ldd, rows, n)
	checkMatrix("layer norm: x", x, ldx, rows, n)
	checkVector("layer norm: gamma", gamma, n)
	checkVector("layer norm: beta", beta, n)
	doNorm(normTask{dst: dst, x: x, ldd: ldd, ldx: ldx, rows: rows, n: n, gamma: gamma, beta: beta, eps: eps, row: layerNormRow})
}

// RMSNorm writes x/sqrt(mean(x²)+eps)·gamma of each row into dst: rows×n, row strides ldd
// and ldx; dst may be x. gamma nil means 1.
func RMSNorm(dst, x []float32, ldd, ldx, rows, n int, gamma []float32, eps float32) {
	checkMatrix("rms norm: dst", dst, ldd, rows, n)
	checkMatrix("rms norm: x", x, ldx, rows, n)
	checkVector("rms norm: gamma", gamma, n)
	doNorm(normTask{dst: dst, x: x, ldd: ldd, ldx: ldx, rows: rows, n: n, gamma: gamma, eps: eps, row: rmsNormRow})
}

// Softmax replaces each row of x (rows×n, row stride ld) by its softmax. A row of equal
// values, −MaxFloat32 included, becomes uniform.
func Softmax(x []float32, ld, rows, n int) {
	checkMatrix("softmax", x, ld, rows, n)
	doNorm(normTask{dst: x, x: x, ldd: ld, ldx: ld, rows: rows, n: n, row: softmaxRow})
}

func checkVector(what string, v []float32, n int) {
	if v != nil {
		checkMatrix(what, v, n, 1, n)
	}
}

// lanes adds up what a row pass left, in a fixed order.
func (t *normTask) lanes(s *scratch) float64 {
	sum := 0.0
	for _, v := range s.bias[:t.set.lanes] {
		sum += float64(v)
	}
	return sum
}

func layerNormRow(t *normTask, s *scratch, dst, x []float32) {
	n := len(x) / t.set.lanes * t.set.lanes
	sum := 0.0
	if n > 0 {
		t.set.sum(&s.bias[0], &x[0], n)
		sum = t.lanes(s)
	}
	for _, v := range x[n:] {
		sum += float64(v)
	}
	mean := sum / float64(len(x))
	t.normalise(s, dst, x, n, float32(mean))
}

// normalise divides deviations from mean by their root mean square.
func (t *normTask) normalise(s *scratch, dst, x []float32, n int, mean float32) {
	sum := 0.0
	if n > 0 {
		t.set.squares(&s.bias[0], &x[0], n, mean)
		sum = t.lanes(s)
	}
	for _, v := range x[n:] {
		d := v - mean
		sum += float64(d * d)
	}
	inv := float32(1 / math.Sqrt(sum/float64(len(x))+float64(t.eps)))
	var gamma, beta *float32
	if t.gamma != nil {
		gamma = &t.gamma[0]
	}
	if t.beta != nil {
		beta = &t.beta[0]
	}
	if n > 0 {
		t.set.affine(&dst[0], &x[0], gamma, beta, n, mean, inv)
	}
	for i := n; i < len(x); i++ {
		y := (x[i] - mean) * inv
		if t.gamma != nil {
			y *= t.gamma[i]
		}
		if t.beta != nil {
			y += t.beta[i]
		}
		dst[i] = y
	}
}

func rmsNormRow(t *normTask, s *scratch, dst, x []float32) {
	t.normalise(s, dst, x, len(x)/t.set.lanes*t.set.lanes, 0)
}

func softmaxRow(t *normTask, s *scratch, _, x []float32) {
	n := len(x) / t.set.lanes * t.set.lanes
	top := lowest
	if n > 0 {
		t.set.maxLanes(&s.bias[0], &x[0], n)
		for _, v := range s.bias[:t.set.lanes] {
			top = max(top, v)
		}
	}
	for _, v := range x[n:] {
		top = max(top, v)
	}
	sum := 0.0
	if n > 0 {
		t.set.expSum(&s.bias[0], &x[0], n, top)
		sum = t.lanes(s)
	}
	for i := n; i < len(x); i++ {
		x[i] = expPortable(max(x[i], lowest) - top)
		sum += float64(x[i])
	}
	Scale(x, float32(1/sum))
}
