package nn

import (
	"fmt"
	"math"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// Conv2D is a two-dimensional convolution over channels-last pictures: B×H×W×C in,
// B×H'×W'×Out out, zero padding on all sides. A one-dimensional one is a picture of W = 1.
type Conv2D struct {
	linear       Linear // columns ordered (ky, kx, c), to fit the rows gathered from the picture
	In, Out      int
	K            [2]int // kernel height and width
	Stride, Pad  [2]int
	rowsPerBlock int
}

// convBlockValues bounds the gathered rows of one block, in values (1 MiB).
const convBlockValues = 1 << 18

// NewConv2D reads "weight" (out×in×k×k) and, with bias, "bias" (out).
func NewConv2D(s weights.Scope, in, out, k, stride, pad int, bias bool) Conv2D {
	return NewConv(s, in, out, []int{k, k}, []int{stride, stride}, []int{pad, pad}, bias)
}

// NewConv reads "weight" (out×in×kernel axes, one or two) and, with bias, "bias" (out).
func NewConv(s weights.Scope, in, out int, kernelSize, stride, pad []int, bias bool) Conv2D {
	pair := func(v []int, one int) [2]int {
		if len(v) == 1 {
			return [2]int{v[0], one}
		}
		return [2]int{v[0], v[1]}
	}
	conv := Conv2D{In: in, Out: out, K: pair(kernelSize, 1), Stride: pair(stride, 1), Pad: pair(pad, 0)}
	taps := conv.K[0] * conv.K[1]
	w := s.Tensor("weight", append([]int{out, in}, kernelSize...)...)
	conv.linear.W = kernel.Pack(out, in*taps, s.ComputeDType(), func(o int, dst []float32) {
		src := w.Data[o*in*taps:]
		for c := range in {
			for t, x := range src[c*taps : (c+1)*taps] {
				dst[t*in+c] = x
			}
		}
	})
	if bias {
		conv.linear.Bias = s.Tensor("bias", out).Data
	}
	conv.rowsPerBlock = max(64, convBlockValues/(in*taps))
	return conv
}

// Size returns the output height and width for an h×w picture.
func (c Conv2D) Size(h, w int) (int, int) {
	return (h+2*c.Pad[0]-c.K[0])/c.Stride[0] + 1, (w+2*c.Pad[1]-c.K[1])/c.Stride[1] + 1
}

// Forward convolves x (B×H×W×In) and returns B×H'×W'×Out with act applied, as scratch.
// Rows are gathered in blocks: the im2col matrix is never held whole.
func (c Conv2D) Forward(a *tensor.Arena, x tensor.Tensor, act kernel.Act) tensor.Tensor {
	return c.ForwardAdd(a, x, act, tensor.Tensor{})
}

// ForwardAdd is Forward with a residual of the result's shape added after the activation;
// an empty one adds nothing.
func (c Conv2D) ForwardAdd(a *tensor.Arena, x tensor.Tensor, act kernel.Act, residual tensor.Tensor) tensor.Tensor {
	b, h, w := x.Dim(0), x.Dim(1), x.Dim(2)
	if x.Dim(3) != c.In {
		panic(fmt.Sprintf("nn: convolution over %d channels given %v", c.In, x.Shape))
	}
	oh, ow := c.Size(h, w)
	dst := a.New(b, oh, ow, c.Out)
	mark := a.Mark()
	defer a.Release(mark)
	width := c.In * c.K[0] * c.K[1]
	cols := a.New(c.rowsPerBlock, width)
	total := b * oh * ow
	for from := 0; from < total; from += c.rowsPerBlock {
		n := min(c.rowsPerBlock, total-from)
		const rowsPerTask = 16
		kernel.Parallel((n+rowsPerTask-1)/rowsPerTask, func(task int) {
			for i := task * rowsPerTask; i < min(n, (task+1)*rowsPerTask); i++ {
				r := from + i
				c.gather(cols.Row(i), x.Data[r/(oh*ow)*h*w*c.In:], h, w, r/ow%oh, r%ow)
			}
		})
		e := kernel.Epilogue{Act: act, Bias: c.linear.Bias}
		if residual.Data != nil {
			e.Residual, e.LDR = residual.Data[from*c.Out:], c.Out
		}
		kernel.Gemm(dst.Data[from*c.Out:], c.Out, cols.Data, width, n, c.linear.W, e)
	}
	return dst
}

// gather copies the receptive field of output (oy, ox) of an h×w picture into row, zero
// outside the picture.
func (c Conv2D) gather(row, img []float32, h, w, oy, ox int) {
	span := c.K[1] * c.In
	x0 := ox*c.Stride[1] - c.Pad[1]
	lo, hi := min(max(0, -x0), c.K[1]), min(c.K[1], w-x0)
	for ky := range c.K[0] {
		y := oy*c.Stride[0] + ky - c.Pad[0]
		out := row[ky*span : (ky+1)*span]
		if y < 0 || y >= h || lo >= hi {
			clear(out)
			continue
		}
		clear(out[:lo*c.In])
		copy(out[lo*c.In:hi*c.In], img[(y*w+x0+lo)*c.In:(y*w+x0+hi)*c.In])
		clear(out[hi*c.In:])
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
	return MaxPool2D(a, x, [2]int{k, k}, [2]int{stride, stride})
}

// MaxPool2D is MaxPool with a window and a stride of two sides.
func MaxPool2D(a *tensor.Arena, x tensor.Tensor, k, stride [2]int) tensor.Tensor {
	b, h, w, ch := x.Dim(0), x.Dim(1), x.Dim(2), x.Dim(3)
	oh, ow := (h-k[0])/stride[0]+1, (w-k[1])/stride[1]+1
	dst := a.New(b, oh, ow, ch)
	kernel.Parallel(b*oh, func(r int) {
		img, oy := x.At(r/oh), r%oh
		for ox := range ow {
			out := dst.Data[(r*ow+ox)*ch : (r*ow+ox+1)*ch]
			copy(out, img.Data[(oy*stride[0]*w+ox*stride[1])*ch:])
			for ky := range k[0] {
				for kx := range k[1] {
					src := img.Data[((oy*stride[0]+ky)*w+ox*stride[1]+kx)*ch:]
					for c := range out {
						out[c] = max(out[c], src[c])
					}
				}
			}
		}
	})
	return dst
}
