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

// asGrid reports whether an input has the structure, and keeps to it: a mask does not. Of a
// single axis the tables would be as large as the input and save nothing.
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
	if g.grid.Rows() != m || g.content+g.grid.Channels() != c || len(dims) < 2 {
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
	t := g.tables(a, f.queries, f.scale)
	var k kernel.Grid
	k.Start(kernel.GridArgs{
		N: n, H: g.lines, W: g.across, F: g.content, Q: t.content.Data, LDQ: t.content.Cols(),
		QMean: t.mean, SH: t.lines.Data, SW: t.across.Data,
	})
	if err := g.feed(ctx, a, &k, f.norm.Eps, opt); err != nil {
		return err
	}
	out, mean := a.New(n, max(g.content, 1)), a.Floats(n)
	k.Finish(out.Data, out.Cols(), mean, t.lines.Data, t.across.Data) // the tables have had their use
	g.gather(a, dst, out, mean, t.lines, t.across)
	f.affine(dst)
	return nil
}

// gridTables is what folded queries or keys (N×C) have to do with the rows of a grid.
type gridTables struct {
	content tensor.Tensor // N×content: their part for the content
	mean    []float32     // N: minus the sum of all of it
	lines   tensor.Tensor // N×lines: inner products with the codes, all axes but the last added up
	across  tensor.Tensor // N×across
}

// tables returns the tables of q (N×C), everything times scale, as scratch.
func (g gridInput) tables(a *tensor.Arena, q tensor.Tensor, scale float32) gridTables {
	n, dims := q.Dim(0), g.grid.Dims()
	t := gridTables{
		content: a.New(n, max(g.content, 1)), mean: a.Floats(n),
		lines: a.New(n, g.lines), across: a.New(n, g.across),
	}
	for i := range n {
		sum := 0.0
		for _, x := range q.Row(i) {
			sum += float64(x)
		}
		t.mean[i] = float32(-sum * float64(scale))
		for c := range g.content {
			t.content.Row(i)[c] = q.Row(i)[c] * scale
		}
	}
	clear(t.lines.Data)
	for d, size := range dims {
		mark := a.Mark()
		cols := g.axis(d)
		part, s := a.New(n, len(cols)), a.New(n, size)
		for i := range n {
			row := q.Row(i)
			for k, c := range cols {
				part.Row(i)[k] = row[c]
			}
		}
		kernel.GemmNT(s.Data, size, part.Data, len(cols), g.grid.Axis(d), len(cols), n, size, len(cols), kernel.Epilogue{Scale: scale})
		if d == len(dims)-1 {
			copy(t.across.Data, s.Data)
		} else {
			kernel.Parallel(n, func(i int) {
				for l := range g.lines {
					t.lines.Row(i)[l] += s.Row(i)[g.index(l, d)]
				}
			})
		}
		a.Release(mark)
	}
	return t
}

// gridStats is the sum and the sum of squares of the code of each index of each axis, and with
// them the mean and deviation of any row. All is float64.
type gridStats struct {
	gridInput
	sum, square [][]float64 // by axis and index
	eps         float32
}

func (g gridInput) stats(eps float32) gridStats {
	s := gridStats{gridInput: g, eps: eps}
	for d, n := range g.grid.Dims() {
		sum, square := make([]float64, n), make([]float64, n)
		table := g.grid.Axis(d)
		w := len(table) / n
		for i := range n {
			for _, x := range table[i*w : (i+1)*w] {
				sum[i] += float64(x)
				square[i] += float64(x) * float64(x)
			}
		}
		s.sum, s.square = append(s.sum, sum), append(s.square, square)
	}
	return s
}

// measure writes the mean and the inverse deviation of the rows of lines line, line+1, …, whose
// content is x (rows×content).
func (s gridStats) measure(mean, inv []float32, x tensor.Tensor, line, lines int) {
	last := len(s.sum) - 1
	_, c := s.rows.Dims()
	width := float64(c)
	kernel.Parallel(lines, func(l int) {
		var sum, square float64
		for d := range last {
			i := s.index(line+l, d)
			sum, square = sum+s.sum[d][i], square+s.square[d][i]
		}
		for w := range s.across {
			r := l*s.across + w
			t, t2 := sum+s.sum[last][w], square+s.square[last][w]
			for _, v := range x.Data[r*s.content : (r+1)*s.content] {
				t += float64(v)
				t2 += float64(v) * float64(v)
			}
			mu := t / width
			mean[r] = float32(mu)
			inv[r] = float32(1 / math.Sqrt(max(0, t2/width-mu*mu)+float64(s.eps)))
		}
	})
}

// readLines fills x (rows×content) with the content of lines line, line+1, ….
func (g gridInput) readLines(x tensor.Tensor, line, lines int) error {
	from, to := line*g.across, (line+lines)*g.across
	if err := g.rows.ReadContent(x, from, to); err != nil {
		return fmt.Errorf("perceiver: rows %d to %d: %w", from, to, err)
	}
	return nil
}

// feed reads the content, a few lines at a time, and gives it to k.
func (g gridInput) feed(ctx context.Context, a *tensor.Arena, k *kernel.Grid, eps float32, opt Options) error {
	stats := g.stats(eps)
	most := max(1, opt.block(max(g.content, 64))/g.across)
	rows := a.New(most*g.across, g.content)
	mean, inv := a.Floats(most*g.across), a.Floats(most*g.across)
	for line := 0; line < g.lines; line += most {
		lines := min(most, g.lines-line)
		n := lines * g.across
		if err := step(ctx, "encode", line*g.across, g.lines*g.across); err != nil {
			return err
		}
		part := rows.Slice(0, n)
		if err := g.readLines(part, line, lines); err != nil {
			return err
		}
		stats.measure(mean, inv, part, line, lines)
		k.Add(part.Data, g.content, mean[:n], inv[:n], lines)
	}
	return step(ctx, "encode", g.lines*g.across, g.lines*g.across)
}

// gather assembles Σ a x̂ (N×C) from the content's sums, the mean's and the marginals.
func (g gridInput) gather(a *tensor.Arena, dst, out tensor.Tensor, mean []float32, oh, ow tensor.Tensor) {
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
