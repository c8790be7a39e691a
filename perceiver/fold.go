package perceiver

import (
	"context"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/internal/nn"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// foldable reports whether a cross-attention of n queries costs less with its projections folded
// away: one head, and n·2C multiplications a row against (qk+v)·(C+n).
func foldable(p shape, n int) bool {
	return p.heads == 1 && 2*n*p.key <= (p.qk+p.v)*(p.key+n)
}

// foldedCross is a one-head cross-attention whose key projection is folded into the queries and
// whose value projection is applied to the weighted sums. With x̂ a row normalised without scale
// and shift, γ and β those of the LayerNorm:
//
//	score = q·(Wk(γx̂+β) + bk) = (γ∘Wkᵀq)·x̂ + constant of the query (softmax does not see it)
//	Σ a (Wv(γx̂+β) + bv)       = Wv(γ∘Σ a x̂ + β) + bv
type foldedCross struct {
	queries tensor.Tensor // N×C: γ∘Wkᵀq
	norm    nn.LayerNorm
	scale   float32
	dtype   kernel.DType
}

// newFoldedCross folds queries (N×qk) and the key weights (qk×C).
func newFoldedCross(queries, wk tensor.Tensor, norm nn.LayerNorm, scale float32, dt kernel.DType) *foldedCross {
	n, qk, c := queries.Dim(0), queries.Dim(1), wk.Dim(1)
	f := &foldedCross{queries: tensor.New(n, c), norm: norm, scale: scale, dtype: dt}
	kernel.GemmNN(f.queries.Data, c, queries.Data, qk, wk.Data, c, n, c, qk, kernel.Epilogue{})
	for i := range n {
		row := f.queries.Row(i)
		kernel.Mul(row, row, norm.Gamma)
	}
	return f
}

// sums writes γ∘Σ a x̂ + β, the weighted sums of the normalised rows, to dst (N×C).
func (f *foldedCross) sums(ctx context.Context, a *tensor.Arena, dst tensor.Tensor, in Input, opt Options) error {
	if g, ok := asGrid(in); ok {
		return f.gridSums(ctx, a, dst, g, opt)
	}
	n, c := dst.Dim(0), dst.Dim(1)
	s := getStream(f.dtype)
	defer streams.Put(s)
	s.Start(1, 0, c, c, n, f.scale, f.queries.Data, c)
	err := eachBlock(ctx, a, in, opt.block(c), func(rows tensor.Tensor, bias []float32) {
		kernel.LayerNorm(rows.Data, rows.Data, c, c, rows.Dim(0), c, nil, nil, f.norm.Eps)
		s.Add(rows.Data, c, rows.Data, c, rows.Dim(0), bias)
	})
	if err != nil {
		return err
	}
	s.Finish(dst.Data, c)
	f.affine(dst)
	return nil
}

// affine applies the LayerNorm's scale and shift to the sums.
func (f *foldedCross) affine(dst tensor.Tensor) {
	for i := range dst.Dim(0) {
		row := dst.Row(i)
		kernel.Mul(row, row, f.norm.Gamma)
		kernel.Add(row, row, f.norm.Beta)
	}
}

// foldedQuery is the query projection of a one-head decoder, folded into the keys: with k a
// projected key of a latent,
//
//	score = (Wq(γx̂+β) + bq)·k = x̂·(γ∘Wqᵀk) + (Wqβ + bq)·k
type foldedQuery struct {
	w     *kernel.Packed // E outputs × qk inputs: γ∘Wqᵀ
	shift []float32      // Wqβ + bq
}

// newFoldedQuery reads "weight" (qk×E) and "bias" (qk).
func newFoldedQuery(s weights.Scope, norm nn.LayerNorm, p shape) *foldedQuery {
	w, b := s.Tensor("weight", p.qk, p.query), s.Tensor("bias", p.qk)
	f := &foldedQuery{shift: b.Data}
	for k := range p.qk {
		sum := float64(b.Data[k])
		for e, x := range w.Row(k) {
			sum += float64(x) * float64(norm.Beta[e])
		}
		f.shift[k] = float32(sum)
	}
	f.w = kernel.Pack(p.query, p.qk, kernel.F32, func(e int, dst []float32) {
		for k := range dst {
			dst[k] = w.Data[k*p.query+e] * norm.Gamma[e]
		}
	})
	return f
}

// keys writes the folded keys and their biases for projected keys k (B×N×qk).
func (f *foldedQuery) keys(m Memory, k tensor.Tensor, scale float32) {
	rows, qk := k.Rows(), k.Cols()
	kernel.Gemm(m.keys.Data, m.keys.Cols(), k.Data, qk, rows, f.w, kernel.Epilogue{})
	kernel.GemmNT(m.bias.Data, 1, k.Data, qk, f.shift, qk, rows, 1, qk, kernel.Epilogue{Scale: scale})
}
