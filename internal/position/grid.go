package position

// tableValues bounds the table kept for one axis (16 MiB); a longer axis, such as the samples
// of an hour of sound, is computed when its rows are read.
const tableValues = 4 << 20

// Grid is the Fourier code of every point of a regular grid, its points in row-major order: the
// last axis runs fastest. Coordinates run from -1 to 1 along each axis.
type Grid struct {
	fourier Fourier
	dims    []int
	coords  func(d, i int) float32
	tables  [][]float32 // per axis: dims[d] rows of [position, sines, cosines]; nil when too long
}

// NewGrid returns the code of a grid of dims, one size an axis of f. It panics when the number
// of axes differs.
func NewGrid(f Fourier, dims ...int) *Grid {
	return NewGridAt(f, func(d, i int) float32 { return LinspaceAt(-1, 1, dims[d], i) }, dims...)
}

// NewOutputGrid is a grid with the coordinates of OutputCoordinate, as a decoder asks for them.
func NewOutputGrid(f Fourier, dims ...int) *Grid {
	return NewGridAt(f, func(d, i int) float32 { return OutputCoordinate(i, dims[d]) }, dims...)
}

// NewGridAt is a grid whose coordinate of index i on axis d is coord(d, i).
func NewGridAt(f Fourier, coord func(d, i int) float32, dims ...int) *Grid {
	if len(dims) != f.Axes() {
		panic("position: grid and code differ in axes")
	}
	g := &Grid{fourier: f, dims: append([]int(nil), dims...), coords: coord, tables: make([][]float32, len(dims))}
	for d, n := range dims {
		w := f.AxisChannels(d)
		if n > tableValues/w {
			continue
		}
		t := make([]float32, n*w)
		for i := range n {
			g.compute(t[i*w:(i+1)*w], d, i)
		}
		g.tables[d] = t
	}
	return g
}

func (g *Grid) compute(dst []float32, d, i int) {
	k := len(g.fourier.Bands[d])
	dst[0] = g.coords(d, i)
	g.fourier.waves(dst[1:1+k], dst[1+k:1+2*k], d, dst[0])
}

// Fourier is the code of the grid.
func (g *Grid) Fourier() Fourier { return g.fourier }

// Dims are the sizes of the axes. The caller must not change them.
func (g *Grid) Dims() []int { return g.dims }

// Channels is the width of a row.
func (g *Grid) Channels() int { return g.fourier.Channels() }

// Rows is the number of points.
func (g *Grid) Rows() int {
	n := 1
	for _, d := range g.dims {
		n *= d
	}
	return n
}

// Axis returns the table of axis d, Dims()[d] rows of AxisChannels(d) values (position, sines,
// cosines), or nil when the axis is too long to keep one. The caller must not change it.
func (g *Grid) Axis(d int) []float32 { return g.tables[d] }

// AxisRow writes [position, sines, cosines] of index i of axis d.
func (g *Grid) AxisRow(dst []float32, d, i int) {
	w := g.fourier.AxisChannels(d)
	if t := g.tables[d]; t != nil {
		copy(dst[:w], t[i*w:(i+1)*w])
		return
	}
	g.compute(dst[:w], d, i)
}

// Fill implements Code.
func (g *Grid) Fill(dst []float32, ld, from, to int) {
	stride := g.Rows()
	for d, n := range g.dims {
		if n == 0 {
			return
		}
		stride /= n
		pos, sin, cos := g.fourier.AxisColumns(d)
		k := len(g.fourier.Bands[d])
		w := 1 + 2*k
		scratch := make([]float32, w)
		last, row := -1, []float32(nil)
		for r := from; r < to; r++ {
			if i := r / stride % n; i != last {
				last = i
				if t := g.tables[d]; t != nil {
					row = t[i*w : (i+1)*w]
				} else {
					g.compute(scratch, d, i)
					row = scratch
				}
			}
			out := dst[(r-from)*ld:]
			out[pos] = row[0]
			copy(out[sin:sin+k], row[1:1+k])
			copy(out[cos:cos+k], row[1+k:])
		}
	}
}

// Learned is a trained table of one row a position: Rows × Width values.
type Learned struct {
	Table []float32
	Width int
}

// Channels implements Code.
func (l *Learned) Channels() int { return l.Width }

// Rows is the number of positions of the table.
func (l *Learned) Rows() int { return len(l.Table) / max(l.Width, 1) }

// Fill implements Code. It panics when a row lies beyond the table.
func (l *Learned) Fill(dst []float32, ld, from, to int) {
	for r := from; r < to; r++ {
		copy(dst[(r-from)*ld:][:l.Width], l.Table[r*l.Width:(r+1)*l.Width])
	}
}
