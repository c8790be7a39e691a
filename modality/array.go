package modality

import (
	"fmt"
	"io"

	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/tensor"
)

// Content gives the channels of an array's rows that come from the medium itself.
type Content interface {
	// Dims is the number of rows and of content channels.
	Dims() (m, c int)
	// Read writes rows [from,to), row i at dst[(i-from)*ld:][:c]. Reading a row again gives the
	// same bits, whatever the block. It is called from one goroutine at a time.
	Read(dst []float32, ld, from, to int) error
}

// Array is a byte array: M rows of C channels, content first, then positions. Content is kept
// once (or streamed) and positions are known by formula; rows are put together when they are
// read. It satisfies perceiver.Rows. An Array is read by one goroutine at a time.
type Array struct {
	Content  Content
	Position Position // nil: no position channels
	// Forward is set when the rows can be read only once and in order (a stream that is not
	// kept). Reading an earlier row is then a NotReplayable error.
	Forward bool
	Spans   []Span   // the parts of a fused array, in row order; nil for a single medium
	Notes   []string // what was detected, cropped, resampled, dropped: for people
	Cost    Cost     // what was found: the plan's fields, now certain

	next   int
	closed []func() error
}

// Span is the rows [From,To) that one part of a fused array takes.
type Span struct {
	Name string `json:"name"`
	From int    `json:"from"`
	To   int    `json:"to"`
}

// Dims returns M and C.
func (a *Array) Dims() (m, c int) {
	m, c = a.Content.Dims()
	if a.Position != nil {
		c += a.Position.Channels()
	}
	return m, c
}

// Read writes rows [from,to) to dst, a tensor of (to-from)×C values.
func (a *Array) Read(dst tensor.Tensor, from, to int) error {
	m, c := a.Dims()
	if len(dst.Data) != (to-from)*c {
		panic(fmt.Sprintf("modality: read of rows [%d,%d): %d values, want %d", from, to, len(dst.Data), (to-from)*c))
	}
	return a.read(dst.Data, c, m, from, to)
}

// ReadContent is Read without the position channels: dst is (to-from)×(C - positions).
func (a *Array) ReadContent(dst tensor.Tensor, from, to int) error {
	m, c := a.Content.Dims()
	if len(dst.Data) != (to-from)*c {
		panic(fmt.Sprintf("modality: read of content [%d,%d): %d values, want %d", from, to, len(dst.Data), (to-from)*c))
	}
	if err := a.advance(m, from, to); err != nil {
		return err
	}
	return a.Content.Read(dst.Data, c, from, to)
}

func (a *Array) read(dst []float32, ld, m, from, to int) error {
	if err := a.advance(m, from, to); err != nil {
		return err
	}
	if err := a.Content.Read(dst, ld, from, to); err != nil {
		return err
	}
	if a.Position != nil {
		_, content := a.Content.Dims()
		if from < to {
			a.Position.Fill(dst[content:], ld, from, to)
		}
	}
	return nil
}

func (a *Array) advance(m, from, to int) error {
	if from < 0 || to < from || to > m {
		panic(fmt.Sprintf("modality: rows [%d,%d) of %d", from, to, m))
	}
	if a.Forward && from != a.next {
		return media.Errorf(media.NotReplayable, "modality: row %d asked for, the stream stands at row %d", from, a.next)
	}
	a.next = to
	return nil
}

// Grid returns the array's position code when it is a Fourier code over a grid, kept as one
// table an axis, and nil otherwise. An encoder that gets one can use ReadContent and the axis
// tables instead of whole rows.
func (a *Array) Grid() *Grid {
	g, _ := a.Position.(*Grid)
	return g
}

// Split returns the number of content channels, and the grid of the position channels after them
// (see Grid). With ReadContent it satisfies perceiver.Separable.
func (a *Array) Split() (content int, grid *Grid) {
	_, content = a.Content.Dims()
	return content, a.Grid()
}

// OnClose adds something to do when the array is closed.
func (a *Array) OnClose(f func() error) { a.closed = append(a.closed, f) }

// Close releases what the array holds: decoders, temporary files. It does not close the input.
func (a *Array) Close() error {
	var first error
	if c, ok := a.Content.(io.Closer); ok {
		first = c.Close()
	}
	for _, f := range a.closed {
		if err := f(); err != nil && first == nil {
			first = err
		}
	}
	a.closed = nil
	return first
}

// Values is content held in memory: M rows of C values.
type Values struct {
	Data []float32
	C    int
}

// Dims implements Content.
func (v Values) Dims() (m, c int) { return len(v.Data) / max(v.C, 1), v.C }

// Read implements Content.
func (v Values) Read(dst []float32, ld, from, to int) error {
	for r := from; r < to; r++ {
		copy(dst[(r-from)*ld:][:v.C], v.Data[r*v.C:(r+1)*v.C])
	}
	return nil
}
