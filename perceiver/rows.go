package perceiver

import (
	"fmt"

	"github.com/mmserve/mmserve/internal/position"
	"github.com/mmserve/mmserve/tensor"
)

// Rows is a byte array (M×C) that is read in blocks. Read fills dst (to-from × C) with rows
// [from,to). A network that attends once reads strictly forward; one that attends again starts
// over from row 0, and rows that cannot be replayed return an error then.
type Rows interface {
	Dims() (m, c int)
	Read(dst tensor.Tensor, from, to int) error
}

// Separable is Rows whose first columns are content and whose others are the Fourier code of a
// grid. Networks use the structure to do less arithmetic; the numbers mean the same.
type Separable interface {
	Rows
	// Split returns the number of content columns and the grid of the columns after them; a nil
	// grid says that there is no such structure.
	Split() (content int, grid *position.Grid)
	// ReadContent fills dst (to-from × content) with the content columns of rows [from,to).
	ReadContent(dst tensor.Tensor, from, to int) error
}

// Input is one element of a batch: its rows, and for each row whether it is attended to.
type Input struct {
	Rows Rows
	Mask []float32 // a value in [0,1] a row: 1 attends, 0 drops; nil attends to all
}

// check refuses an input that does not have c channels or whose mask does not fit.
func (in Input) check(i, c int) error {
	m, got := in.Rows.Dims()
	if got != c {
		return fmt.Errorf("perceiver: input %d: rows have %d channels, want %d", i, got, c)
	}
	if m < 1 {
		return fmt.Errorf("perceiver: input %d: no rows", i)
	}
	if in.Mask == nil {
		return nil
	}
	if len(in.Mask) != m {
		return fmt.Errorf("perceiver: input %d: mask of %d values for %d rows", i, len(in.Mask), m)
	}
	for j, x := range in.Mask {
		if !(x >= 0 && x <= 1) {
			return fmt.Errorf("perceiver: input %d: mask[%d] = %v, want a value in [0, 1]", i, j, x)
		}
	}
	return nil
}

// Matrix is Rows held in memory: an M×C tensor.
type Matrix tensor.Tensor

// Dims implements Rows.
func (t Matrix) Dims() (int, int) { return t.Shape[0], t.Shape[1] }

// Read implements Rows.
func (t Matrix) Read(dst tensor.Tensor, from, to int) error {
	c := t.Shape[1]
	copy(dst.Data, t.Data[from*c:to*c])
	return nil
}

// Matrices returns the elements of a B×M×C tensor.
func Matrices(t tensor.Tensor) []Rows {
	rows := make([]Rows, t.Dim(0))
	for i := range rows {
		rows[i] = Matrix(t.At(i))
	}
	return rows
}

// Picture is content laid on a grid: Rows holds one row of channels a cell, row-major, H·W rows
// (or T·H·W for a film).
type Picture struct {
	Rows Rows
	Size []int // H, W or T, H, W
}

// check refuses a picture that has not the axes and channels a network wants.
func (p Picture) check(i, axes, channels int) error {
	if len(p.Size) != axes {
		return fmt.Errorf("perceiver: input %d: grid %v, want %d axes", i, p.Size, axes)
	}
	m, c := p.Rows.Dims()
	n := 1
	for _, d := range p.Size {
		if d < 1 || n > maxRows/d {
			return fmt.Errorf("perceiver: input %d: grid %v, want sizes of at least 1 and at most %d cells", i, p.Size, maxRows)
		}
		n *= d
	}
	if m != n || c != channels {
		return fmt.Errorf("perceiver: input %d: %d rows of %d channels for a grid %v, want %d of %d", i, m, c, p.Size, n, channels)
	}
	return nil
}

// maxRows bounds the rows of one grid, so that sizes multiply safely.
const maxRows = 1<<31 - 1

// Planes returns the pictures of a channels-first tensor B×C×H×W; they share its data.
func Planes(t tensor.Tensor) []Picture {
	out := make([]Picture, t.Dim(0))
	for i := range out {
		x := t.At(i)
		out[i] = Picture{Rows: planes{x.Data, x.Dim(0), x.Dim(1) * x.Dim(2)}, Size: []int{x.Dim(1), x.Dim(2)}}
	}
	return out
}

// planes reads c planes of m cells as m rows.
type planes struct {
	data []float32
	c, m int
}

func (p planes) Dims() (int, int) { return p.m, p.c }

func (p planes) Read(dst tensor.Tensor, from, to int) error {
	for ch := range p.c {
		src := p.data[ch*p.m+from : ch*p.m+to]
		for i, x := range src {
			dst.Data[i*p.c+ch] = x
		}
	}
	return nil
}

// gridRows is content with the Fourier code of its cells after it.
type gridRows struct {
	content Rows
	grid    *position.Grid
}

func (g gridRows) Dims() (int, int) {
	m, c := g.content.Dims()
	return m, c + g.grid.Channels()
}

func (g gridRows) Split() (int, *position.Grid) {
	_, c := g.content.Dims()
	return c, g.grid
}

func (g gridRows) ReadContent(dst tensor.Tensor, from, to int) error {
	return g.content.Read(dst, from, to)
}

func (g gridRows) Read(dst tensor.Tensor, from, to int) error {
	_, c := g.content.Dims()
	w := c + g.grid.Channels()
	n := to - from
	// The content goes to the end of dst first and is spread from there, row by row.
	tail := dst.Data[n*(w-c):]
	if err := g.content.Read(tensor.Of(tail, n, c), from, to); err != nil {
		return err
	}
	for i := range n {
		copy(dst.Data[i*w:i*w+c], tail[i*c:(i+1)*c])
	}
	g.grid.Fill(dst.Data[c:], w, from, to)
	return nil
}
