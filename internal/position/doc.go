// Package position computes position codes: the numbers that say where a row of a byte array
// (or a row of a query array) lies.
//
// The Fourier code follows the Perceiver IO reference (Hugging Face, PyTorch on CPU) to the
// bit in everything before the sine: positions, frequencies and their products are float32
// and rounded where the reference rounds, because frequencies reach the thousands and one
// unit in the last place of a position moves a feature by up to 4e-3.
//
//	f := position.NewFourier(64, 224, 224)       // 64 bands, maximum resolution 224×224
//	g := position.NewGrid(f, 224, 224)           // rows of a 224×224 grid, row-major
//	g.Fill(dst, g.Channels(), 0, g.Rows())       // 50176×258
//
// A grid code is separable: every channel depends on one axis only. Grid.Axis gives the table
// of one axis (length × AxisChannels), which is all an attention layer needs to keep.
//
// To add a code, implement the methods of Code.
package position

// Code gives the position channels of the rows of an array.
type Code interface {
	// Channels is the number of values of a row.
	Channels() int
	// Fill writes the codes of rows [from,to): row i at dst[(i-from)*ld:][:Channels()].
	// It is safe for concurrent use and gives the same bits for a row whatever the block.
	Fill(dst []float32, ld, from, to int)
}
