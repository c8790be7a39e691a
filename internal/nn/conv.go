package nn

import (
	"fmt"
	"math"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// Conv2D is a two-dimensional convolution over channels-last pictures: B×H×W×C in,
// B×H'×W'×Out out, zero padding Pad on all four sides. Weights are published as
// out×in×K×K ("weight") with an optional "bias" (out).
type Conv2D struct {
	linear       Linear // columns ordered (ky, kx, c), to fit the rows gathered from the picture
	In, Out      int
	K, Stride    int
	Pad          int
	rowsPerBlock int
}

// convBlockValues bounds the gathered rows of one block, in values (1 MiB).
const convBlockValues = 1 << 18

// NewConv2D reads "weight" (out×in×k×k) and, with bias, "bias" (out).
func NewConv2D(s weights.Scope, in, out, k, stride, pad int, bias bool) Conv2D {
	w := s.Tensor("weight", out, in, k, k)
	packed := kernel.Pack(out, in*k*k, s.ComputeDType(), func(o int, dst []float32) {
		src := w.At(o)
		for c := range in {
			plane := src.At(c).Data
			for t, x := range plane {
				dst[t*in+c] = x
			}
		}
	})
	conv := Conv2D{linear: Linear{W: packed}, In: in, Out: out, K: k, Stride: stride, Pad: pad}
	if bias {
		conv.linear.Bias = s.Tensor("bias", out).Data
	}
	conv.rowsPerBlock = max(64, convBlockValues/(in*k*k))
	return conv
}

// Size returns the output height and width for an h×w picture.
func (c Conv2D) Size(h, w int) (int, int) {
	return (h+2*c.Pad-c.K)/c.Stride + 1, (w+2*c.Pad-c.K)/c.Stride + 1
}

// Forward convolves x (B×H×W×In) and returns B×H'×W'×Out with act applied, as scratch.
// Rows are gathered in blocks: the im2col matrix is never held whole.
func (c Conv2D) Forward(a *tensor.Arena, x tensor.Tensor, act kernel.Act) tensor.Tensor {
	b, h, w := x.Dim(0), x.Dim(1), x.Dim(2)
	if x.Dim(3) != c.In {
		panic(fmt.Sprintf("nn: convolution over %d channels given %v", c.In, x.Shape))
	}
	oh, ow := c.Size(h, w)
	dst := a.New(b, oh, ow, c.Out)
	mark := a.Mark()
	defer a.Release(mark)
	width := c.In * c.K * c.K
	cols := a.New(c.rowsPerBlock, width)
	total := b * oh * ow
	for from := 0; from < total; from += c.rowsPerBlock {
		n := min(c.rowsPerBlock, total-from)
		kernel.Parallel(n, func(i int) {
			r := from + i
			img := x.At(r / (oh * ow))
			c.gather(cols.Row(i), img, r/ow%oh, r%ow)
		})
		c.linear.Into(tensor.Of(dst.Data[from*c.Out:(from+n)*c.Out], n, c.Out), cols.Slice(0, n), kernel.Epilogue{Act: act})
	}
	return dst
}

// gather copies the receptive field of output (oy, ox) into row, zero outside the picture.
func (c Conv2D) gather(row []float32, img tensor.Tensor, oy, ox int) {
	h, w := img.Dim(0), img.Dim(1)
	span := c.K * c.In
	for ky := range c.K {
		y := oy*c.Stride + ky - c.Pad
		out := row[ky*span : (ky+1)*span]
		if y < 0 || y >= h {
			clear(out)
			continue
		}
		x0 := ox*c.Stride - c.Pad
		lo, hi := max(0, -x0), min(c.K, w-x0)
		clear(out[:min(lo, c.K)*c.In])
		if lo < hi {
			copy(out[lo*c.In:hi*c.In], img.Data[(y*w+x0+lo)*c.In:(y*w+x0+hi)*c.In])
		}
		clear(out[max(hi, 0)*c.In:])
	}
}

// BatchNorm2D is inference-time batch normalisation: x·Scale + Shift per channel, folded
// from the running statistics.
type BatchNorm2D struct{ Scale, Shift []float32 }

// NewBatchNorm2D reads "weight", "bias", "running_mean" and "running_var", all (n), and
// ignores the counter "num_batches_tracked".
func NewBatchNorm2D(s weights.Scope, n int, eps float32) BatchNorm2D {
	g, b := s.Tensor("weight", n).Data, s.Tensor("bias", n).Data
	mean, v := s.Tensor("running_mean", n).Data, s.Tensor("running_var", n).Data
	s.Ignore("num_batches_tracked")
	bn := BatchNorm2D{Scale: make([]float32, n), Shift: make([]float32, n)}
	for i := range n {
		k := float64(g[i]) / math.Sqrt(float64(v[i])+float64(eps))
		bn.Scale[i] = float32(k)
		bn.Shift[i] = float32(float64(b[i]) - float64(mean[i])*k)
	}
	return bn
}

// Apply normalises x (…×n) in place.
func (bn BatchNorm2D) Apply(x tensor.Tensor) {
	kernel.Parallel(x.Rows(), func(i int) {
		row := x.Row(i)
		for j := range row {
			row[j] = row[j]*bn.Scale[j] + bn.Shift[j]
		}
	})
}

// MaxPool returns the k×k maximum at the stride, without padding (partial windows are
// dropped): x B×H×W×C → B×H'×W'×C.
func MaxPool(a *tensor.Arena, x tensor.Tensor, k, stride int) tensor.Tensor {
	b, h, w, ch := x.Dim(0), x.Dim(1), x.Dim(2), x.Dim(3)
	oh, ow := (h-k)/stride+1, (w-k)/stride+1
	dst := a.New(b, oh, ow, ch)
	kernel.Parallel(b*oh, func(r int) {
		img, oy := x.At(r/oh), r%oh
		for ox := range ow {
			out := dst.Data[(r*ow+ox)*ch : (r*ow+ox+1)*ch]
			copy(out, img.Data[(oy*stride*w+ox*stride)*ch:])
			for ky := range k {
				for kx := range k {
					src := img.Data[((oy*stride+ky)*w+ox*stride+kx)*ch:]
					for c := range out {
						out[c] = max(out[c], src[c])
					}
				}
			}
		}
	})
	return dst
}
