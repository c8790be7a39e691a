package position

import "math"

// Order is the layout of the channels of a Fourier code.
type Order uint8

const (
	// SinesThenCosines is the layout of Perceiver IO: the raw positions of all axes, all sines of
	// axis 1, of axis 2, …, then all cosines of axis 1, of axis 2, …
	SinesThenCosines Order = iota
	// AxisByAxis is the layout of the original Perceiver: for each axis its sines, its cosines
	// and its raw position.
	AxisByAxis
)

// Fourier is a Fourier position code of D axes and K bands an axis: D + 2·D·K channels. Bands[d]
// holds the K frequencies of axis d. A Fourier is never changed once made.
type Fourier struct {
	Bands [][]float32
	Order Order
}

// NewFourier returns a code of Perceiver IO's layout with linearly spaced frequencies from 1 to
// resolution/2, one resolution for each axis.
func NewFourier(bands int, resolution ...float32) Fourier {
	f := Fourier{Bands: make([][]float32, len(resolution))}
	for d, r := range resolution {
		f.Bands[d] = Linspace(1, r/2, bands)
	}
	return f
}

// Axes is D, the number of axes.
func (f Fourier) Axes() int { return len(f.Bands) }

// Channels is the width of the code.
func (f Fourier) Channels() int {
	n := 0
	for d := range f.Bands {
		n += f.AxisChannels(d)
	}
	return n
}

// AxisChannels is the number of channels that depend on axis d: its position, sines and cosines.
func (f Fourier) AxisChannels(d int) int { return 1 + 2*len(f.Bands[d]) }

// AxisColumns returns where in a row the channels of axis d lie: the column of its position,
// the first of its sines and the first of its cosines.
func (f Fourier) AxisColumns(d int) (pos, sin, cos int) {
	if f.Order == AxisByAxis {
		at := 0
		for i := range d {
			at += f.AxisChannels(i)
		}
		k := len(f.Bands[d])
		return at + 2*k, at, at + k
	}
	before, all := 0, 0
	for i, b := range f.Bands {
		if i < d {
			before += len(b)
		}
		all += len(b)
	}
	return d, f.Axes() + before, f.Axes() + all + before
}

// Row writes the code of one point to dst[:Channels()]. coords holds one coordinate an axis,
// usually in [-1,1].
func (f Fourier) Row(dst, coords []float32) {
	for d, x := range coords[:f.Axes()] {
		pos, sin, cos := f.AxisColumns(d)
		k := len(f.Bands[d])
		dst[pos] = x
		f.waves(dst[sin:sin+k], dst[cos:cos+k], d, x)
	}
}

// waves writes the sines and cosines of coordinate x on axis d.
func (f Fourier) waves(sin, cos []float32, d int, x float32) {
	for i, b := range f.Bands[d] {
		t := float32(x * b)
		s, c := math.Sincos(float64(float32(math.Pi) * t))
		sin[i], cos[i] = float32(s), float32(c)
	}
}
