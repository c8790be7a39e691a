package modality

import "github.com/mmserve/mmserve/internal/position"

// Position gives the position channels of the rows of an array. It is a value of its own: any
// adapter, built in or not, can use the ones here or its own.
type Position = position.Code

// Fourier is a Fourier code of points with D coordinates; Grid is that code over a regular
// grid, kept as one table an axis; Learned is a trained table.
type (
	Fourier = position.Fourier
	Grid    = position.Grid
	Learned = position.Learned
	// Order is the layout of a Fourier code's channels.
	Order = position.Order
)

// The layouts of a Fourier code.
const (
	SinesThenCosines = position.SinesThenCosines // Perceiver IO
	AxisByAxis       = position.AxisByAxis       // the original Perceiver
)

// NewFourier returns Perceiver IO's Fourier code: bands frequencies from 1 to resolution/2 on
// each axis, 1+2·bands channels an axis.
func NewFourier(bands int, resolution ...float32) Fourier {
	return position.NewFourier(bands, resolution...)
}

// NewGrid returns the code of a row-major grid, coordinates from -1 to 1 along each axis.
func NewGrid(f Fourier, dims ...int) *Grid { return position.NewGrid(f, dims...) }

// NewGridAt is NewGrid with coordinates of the caller's: coord(d, i) is that of index i on axis d.
func NewGridAt(f Fourier, coord func(d, i int) float32, dims ...int) *Grid {
	return position.NewGridAt(f, coord, dims...)
}
