package perceiver

import (
	"math"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/internal/nn"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// lean is the feed-forward of a decoder whose values are narrower than its queries (v < E): with
// m the averaged values, the layer's result y = Wo m + bo is never made. Centred over its
// channels, y − μ = C m + c0, so
//
//	σ² = |C m + c0|²/E = |R [m; 1]|²/E            RᵀR = [C, c0]ᵀ[C, c0], R triangular
//	h  = act((A m + a0)/σ + W1 β + b1)                   A = W1 γ C, a0 = W1 γ c0
//
// and what is linear in y is linear in m.
type lean struct {
	root nn.Linear // (v+1)×v: R, its last column the bias
	up   nn.Linear // E'×(v+1): [A, a0]; bias W1 β + b1
	e    int
	act  kernel.Act
}

// newLean reads the output, the norm and dense1 of "decoding_cross_attention" again.
func newLean(s weights.Scope, p shape) *lean {
	layer := s.At("decoding_cross_attention")
	out := newAffine(layer.At("attention", "output", "dense"), p.v, p.query)
	up := newAffine(layer.At("mlp", "dense1"), p.query, p.widening*p.query)
	norm := nn.NewLayerNorm(layer.At("layernorm"), p.query, normEps)
	l := &lean{e: p.query, act: p.act}
	centre(out)

	l.root = newRoot(out)
	bias := make([]float32, up.w.Dim(0))
	kernel.GemmNT(bias, 1, up.w.Data, p.query, norm.Beta, p.query, len(bias), 1, p.query, kernel.Epilogue{})
	kernel.Add(bias, bias, up.b)
	for i := range len(bias) {
		row := up.w.Row(i)
		kernel.Mul(row, row, norm.Gamma)
	}
	clear(up.b)
	both := up.after(out)
	l.up = nn.Linear{Bias: bias, W: kernel.Pack(len(bias), p.v+1, kernel.F32, func(i int, dst []float32) {
		copy(dst, both.w.Row(i))
		dst[p.v] = both.b[i]
	})}
	return l
}

// centre takes the mean over the outputs out of a Linear.
func centre(l affine) {
	n, in := l.w.Dim(0), l.w.Dim(1)
	mean := make([]float64, in+1)
	for i := range n {
		for j, x := range l.w.Row(i) {
			mean[j] += float64(x) / float64(n)
		}
		mean[in] += float64(l.b[i]) / float64(n)
	}
	for i := range n {
		row := l.w.Row(i)
		for j := range row {
			row[j] = float32(float64(row[j]) - mean[j])
		}
		l.b[i] = float32(float64(l.b[i]) - mean[in])
	}
}

// newRoot returns R [m; 1] as a Linear of m for [w, b] = l, by Cholesky's method in float64.
func newRoot(l affine) nn.Linear {
	rows, n := l.w.Dim(0), l.w.Dim(1)+1
	cols := make([][]float64, n) // of [w, b]
	for j := range cols {
		cols[j] = make([]float64, rows)
		for i := range rows {
			if j < n-1 {
				cols[j][i] = float64(l.w.Data[i*(n-1)+j])
			} else {
				cols[j][i] = float64(l.b[i])
			}
		}
	}
	r := make([][]float64, n) // the Gram matrix, turned into R row by row
	kernel.Parallel(n, func(i int) {
		r[i] = make([]float64, n)
		for j := i; j < n; j++ {
			sum := 0.0
			for k, x := range cols[i] {
				sum += x * cols[j][k]
			}
			r[i][j] = sum
		}
	})
	cholesky(r)
	root := nn.Linear{Bias: make([]float32, n)}
	root.W = kernel.Pack(n, n-1, kernel.F32, func(i int, dst []float32) {
		for j := range dst {
			dst[j] = float32(r[i][j])
		}
		root.Bias[i] = float32(r[i][n-1])
	})
	return root
}

// cholesky turns the upper triangle of a symmetric matrix, positive up to rounding, into R with
// RᵀR equal to it. Directions that rounding has used up are left out.
func cholesky(r [][]float64) {
	n := len(r)
	least := 0.0
	for i := range r {
		least = max(least, 1e-15*r[i][i])
	}
	for k := range n {
		row := r[k]
		if row[k] <= least {
			clear(row)
			continue
		}
		d := 1 / math.Sqrt(row[k])
		for j := k; j < n; j++ {
			row[j] *= d
		}
		for i := k + 1; i < n; i++ {
			f, to := row[i], r[i]
			for j := i; j < n; j++ {
				to[j] -= f * row[j]
			}
		}
	}
}

// hidden returns act(Dense1(LN(Wo m + bo))) of averaged values m (rows×v) as scratch.
func (l *lean) hidden(a *tensor.Arena, m tensor.Tensor) tensor.Tensor {
	n, v := m.Dim(0), m.Dim(1)
	h := a.New(n, l.up.Out())
	mark := a.Mark()
	defer a.Release(mark)
	t, x := l.root.Forward(a, m), a.New(n, v+1)
	const part = 64
	kernel.Parallel((n+part-1)/part, func(b int) {
		for i := b * part; i < min(n, (b+1)*part); i++ {
			square := 0.0
			for _, y := range t.Row(i) {
				square += float64(y) * float64(y)
			}
			inv := float32(1 / math.Sqrt(square/float64(l.e)+normEps))
			dst := x.Row(i)
			for j, y := range m.Row(i) {
				dst[j] = y * inv
			}
			dst[v] = inv
		}
	})
	l.up.Into(h, x, kernel.Epilogue{Act: l.act})
	return h
}
