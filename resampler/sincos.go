package resampler

import (
	"math"

	"github.com/mmserve/mmserve/tensor"
)

// axisTable holds the sin-cos code of the indices 0, 1, … of one axis: row i is
// [sin(i·ω)…, cos(i·ω)…] with ω_j = 10000^(−j/(width/2)). The code of a patch is that of its
// column, then that of its row. Computed in float32 as the reference (numpy) does.
type axisTable struct {
	width  int // values of a row, half the model's width
	values []float32
}

func newAxisTable(n, width int) axisTable {
	t := axisTable{width: width, values: make([]float32, n*width)}
	half := width / 2
	for j := range half {
		exponent := float32(j) / float32(half)
		omega := 1 / float32(math.Pow(10000, float64(exponent)))
		for i := range n {
			angle := float64(float32(i) * omega)
			t.values[i*width+j] = float32(math.Sin(angle))
			t.values[i*width+half+j] = float32(math.Cos(angle))
		}
	}
	return t
}

// upTo returns a table of at least n rows: t itself, or a longer one made for the call.
func (t axisTable) upTo(n int) axisTable {
	if n*t.width <= len(t.values) {
		return t
	}
	return newAxisTable(n, t.width)
}

func (t axisTable) row(i int) []float32 { return t.values[i*t.width : (i+1)*t.width] }

// grid is the whole table of an h×w grid, h×w×2·width.
func (t axisTable) grid(h, w int) tensor.Tensor {
	out := tensor.New(h, w, 2*t.width)
	for r := range h {
		for c := range w {
			row := out.Row(r*w + c)
			copy(row, t.row(c))
			copy(row[t.width:], t.row(r))
		}
	}
	return out
}

// resizeBicubic resizes a table over a from×from grid (rows in raster order) to to×to, as
// torch's interpolate does with mode bicubic, align_corners False: a = −0.75, edges repeated,
// no antialiasing.
func resizeBicubic(table tensor.Tensor, from, to int) tensor.Tensor {
	index, weight := cubicTaps(from, to)
	width := table.Cols()
	across := make([]float32, from*to*width) // from rows, to columns
	for r := range from {
		for c := range to {
			dst := across[(r*to+c)*width : (r*to+c+1)*width]
			for k := range 4 {
				axpy(dst, weight[c][k], table.Row(r*from+index[c][k]))
			}
		}
	}
	out := tensor.New(to*to, width)
	for r := range to {
		for c := range to {
			for k := range 4 {
				at := index[r][k]*to + c
				axpy(out.Row(r*to+c), weight[r][k], across[at*width:(at+1)*width])
			}
		}
	}
	return out
}

func axpy(dst []float32, w float32, x []float32) {
	for j, v := range x {
		dst[j] += w * v
	}
}

// cubicTaps gives the four source indices and weights of each output index along an axis.
func cubicTaps(from, to int) (index [][4]int, weight [][4]float32) {
	index, weight = make([][4]int, to), make([][4]float32, to)
	scale := float32(from) / float32(to)
	for i := range to {
		src := scale*(float32(i)+0.5) - 0.5
		base := float32(math.Floor(float64(src)))
		t := src - base
		weight[i] = cubicWeights(t)
		for k := range 4 {
			index[i][k] = min(max(int(base)-1+k, 0), from-1)
		}
	}
	return index, weight
}

// cubicWeights are the convolution coefficients at the fraction t with a = −0.75.
func cubicWeights(t float32) [4]float32 {
	const a = -0.75
	near := func(x float32) float32 { return ((a+2)*x-(a+3))*x*x + 1 }
	far := func(x float32) float32 { return ((a*x-5*a)*x+8*a)*x - 4*a }
	return [4]float32{far(t + 1), near(t), near(1 - t), far(2 - t)}
}
