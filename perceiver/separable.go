package perceiver

import (
	"context"
	"fmt"
	"math"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/internal/position"
	"github.com/mmserve/mmserve/tensor"
)

// A row of a grid is [f, p_1(i_1), …, p_D(i_D)]: content and one code an axis. Of a folded
// query q (see foldedCross) and the row's mean μ and deviation σ, the score is
//
//	(q_f·f + Σ_d q_d·p_d(i_d) − μ·Σq) / σ
//
// whose position terms are small tables N×n_d, and the weighted sum of normalised rows needs,
// besides the sums of f and μ over σ, only the marginals of a/σ over each axis, to be multiplied
// with that axis's codes. The code's channels leave the inner loop.

// gridInput is an input seen as lines of a grid: all axes but the last counted together.
type gridInput struct {
	rows    Separable
	content int
	grid    *position.Grid
	lines   int // product of all axes but the last
	across  int // the last axis
}

// asGrid reports whether an input has the structure, and keeps to it: a mask does not.
func asGrid(in Input) (gridInput, bool) {
	rows, ok := in.Rows.(Separable)
	if !ok || in.Mask != nil {
		return gridInput{}, false
	}
	g := gridInput{rows: rows}
	g.content, g.grid = rows.Split()
	if g.grid == nil {
		return gridInput{}, false
	}
	m, c := rows.Dims()
	dims := g.grid.Dims()
	if g.grid.Rows() != m || g.content+g.grid.Channels() != c || len(dims) == 0 {
		return gridInput{}, false
	}
	for d := range dims {
		if g.grid.Axis(d) == nil {
			return gridInput{}, false
		}
	}
	g.across = dims[len(dims)-1]
	g.lines = m / g.across
	return g, true
}

// axis returns the columns of axis d within the position channels, in the order of its table.
func (g gridInput) axis(d int) []int {
	f := g.grid.Fourier()
	pos, sin, cos := f.AxisColumns(d)
	cols := []int{g.content + pos}
	for k := range f.Bands[d] {
		cols = append(cols, g.content+sin+k)
	}
	for k := range f.Bands[d] {
		cols = append(cols, g.content+cos+k)
	}
	return cols
}

// index of line l on axis d, which is not the last.
func (g gridInput) index(l, d int) int {
	dims := g.grid.Dims()
	for a := len(dims) - 2; a > d; a-- {
		l /= dims[a]
	}
	return l % dims[d]
}

// gridSums writes γ∘Σ a x̂ + β to dst (N×C), as sums does, for an input on a grid.
func (f *foldedCross) gridSums(ctx context.Context, a *tensor.Arena, dst tensor.Tensor, g gridInput, opt Options) error {
	mark := a.Mark()
	defer a.Release(mark)
	n := dst.Dim(0)
	sh, sw := f.scoreTables(a, g)
	q, qmean := a.New(n, max(g.content, 1)), a.Floats(n)
	for i := range n {
		row, sum := f.queries.Row(i), 0.0
		for _, x := range row {
			sum += float64(x)
		}
		qmean[i] = float32(-sum * float64(f.scale))
		for c := range g.content {
			q.Row(i)[c] = row[c] * f.scale
		}
	}
	var k kernel.Grid
	k.Start(kernel.GridArgs{N: n, H: g.lines, W: g.across, F: g.content, Q: q.Data, LDQ: q.Cols(), QMean: qmean, SH: sh.Data, SW: sw.Data})
	if err := g.feed(ctx, a, &k, f.norm.Eps, opt); err != nil {
		return err
	}
	out, mean := a.New(n, max(g.content, 1)), a.Floats(n)
	oh, ow := sh, sw // the tables are not needed any more
	k.Finish(out.Data, out.Cols(), mean, oh.Data, ow.Data)
	f.gather(a, dst, g, out, mean, oh, ow)
	f.affine(dst)
	return nil
}

// scoreTables returns the position scores: N×lines, all axes but the last summed, and N×across.
func (f *foldedCross) scoreTables(a *tensor.Arena, g gridInput) (sh, sw tensor.Tensor) {
	n, dims := f.queries.Dim(0), g.grid.Dims()
	last := len(dims) - 1
	sh, sw = a.New(n, g.lines), a.New(n, g.across)
	clear(sh.Data)
	for d, size := range dims {
		mark := a.Mark()
		cols := g.axis(d)
		q, s := a.New(n, len(cols)), a.New(n, size)
		for i := range n {
			row := f.queries.Row(i)
			for k, c := range cols {
				q.Row(i)[k] = row[c]
			}
		}
		kernel.GemmNT(s.Data, size, q.Data, len(cols), g.grid.Axis(d), len(cols), n, size, len(cols), kernel.Epilogue{Scale: f.scale})
		if d == last {
			copy(sw.Data, s.Data)
		} else {
			kernel.Parallel(n, func(i int) {
				for l := range g.lines {
					sh.Row(i)[l] += s.Row(i)[g.index(l, d)]
				}
			})
		}
		a.Release(mark)
	}
	return sh, sw
}

// moments is the sum and the sum of squares of the channels of each index of an axis.
type moments struct{ sum, square []float64 }

func (g gridInput) moments(d int) moments {
	n := g.grid.Dims()[d]
	m := moments{make([]float64, n), make([]float64, n)}
	table := g.grid.Axis(d)
	w := len(table) / n
	for i := range n {
		for _, x := range table[i*w : (i+1)*w] {
			m.sum[i] += float64(x)
			m.square[i] += float64(x) * float64(x)
		}
	}
	return m
}

// feed reads the content, a few lines at a time, and gives it to k with the mean and the inverse
// deviation of every row. Those come from the axes' own sums and the content's, in float64.
func (g gridInput) feed(ctx context.Context, a *tensor.Arena, k *kernel.Grid, eps float32, opt Options) error {
	dims := g.grid.Dims()
	axes := make([]moments, len(dims))
	for d := range dims {
		axes[d] = g.moments(d)
	}
	_, width := g.rows.Dims()
	step1 := max(1, opt.block(max(g.content, 64))/g.across)
	rows := a.New(step1*g.across, g.content)
	mean, inv := a.Floats(step1*g.across), a.Floats(step1*g.across)
	m := g.lines * g.across
	for line := 0; line < g.lines; line += step1 {
		lines := min(step1, g.lines-line)
		from, n := line*g.across, lines*g.across
		if err := step(ctx, "encode", from, m); err != nil {
			return err
		}
		part := rows.Slice(0, n)
		if err := g.rows.ReadContent(part, from, from+n); err != nil {
			return fmt.Errorf("perceiver: rows %d to %d: %w", from, from+n, err)
		}
		kernel.Parallel(lines, func(l int) {
			var sum, square float64
			for d := range len(dims) - 1 {
				i := g.index(line+l, d)
				sum, square = sum+axes[d].sum[i], square+axes[d].square[i]
			}
			last := axes[len(dims)-1]
			for w := range g.across {
				r := l*g.across + w
				s, s2 := sum+last.sum[w], square+last.square[w]
				for _, x := range part.Data[r*g.content : (r+1)*g.content] {
					s += float64(x)
					s2 += float64(x) * float64(x)
				}
				mu := s / float64(width)
				mean[r] = float32(mu)
				inv[r] = float32(1 / math.Sqrt(max(0, s2/float64(width)-mu*mu)+float64(eps)))
			}
		})
		k.Add(part.Data, g.content, mean[:n], inv[:n], lines)
	}
	return nil
}

// gather assembles Σ a x̂ (N×C) from the content's sums, the mean's and the marginals.
func (f *foldedCross) gather(a *tensor.Arena, dst tensor.Tensor, g gridInput, out tensor.Tensor, mean []float32, oh, ow tensor.Tensor) {
	n, dims := dst.Dim(0), g.grid.Dims()
	last := len(dims) - 1
	for i := range n {
		copy(dst.Row(i)[:g.content], out.Row(i))
	}
	for d, size := range dims {
		mark := a.Mark()
		marginal := ow
		if d != last {
			marginal = a.New(n, size)
			clear(marginal.Data)
			kernel.Parallel(n, func(i int) {
				for l := range g.lines {
					marginal.Row(i)[g.index(l, d)] += oh.Row(i)[l]
				}
			})
		}
		cols := g.axis(d)
		part := a.New(n, len(cols))
		kernel.GemmNN(part.Data, len(cols), marginal.Data, size, g.grid.Axis(d), len(cols), n, len(cols), size, kernel.Epilogue{})
		for i := range n {
			row := dst.Row(i)
			for k, c := range cols {
				row[c] = part.Row(i)[k]
			}
		}
		a.Release(mark)
	}
	for i := range n {
		row := dst.Row(i)
		for c := range row {
			row[c] -= mean[i]
		}
	}
}
