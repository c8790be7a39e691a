package weights

import (
	"github.com/mmserve/mmserve/internal/kernel"
)

// blockValues is how many values are converted at a time on the way into a packed matrix.
const blockValues = 1 << 20

// Linear returns a matrix stored out×in, packed in the scope's arithmetic. Rows go from the
// file to their packed place through one small block: there is no float32 copy. When the
// tensor does not fit, that is noted and a placeholder of one value is returned.
func (s Scope) Linear(name string, out, in int) *kernel.Packed {
	v, ok := s.open(name, []int{out, in})
	if !ok {
		return placeholder()
	}
	defer v.done()
	if p, ok := s.raw16(name, v, out, in); ok {
		return p
	}
	return s.pack(name, v, out, in)
}

// LinearT is Linear for a matrix stored in×out, as GPT-2's Conv1D and CLIP's "proj" are.
func (s Scope) LinearT(name string, out, in int) *kernel.Packed {
	v, ok := s.open(name, []int{in, out})
	if !ok {
		return placeholder()
	}
	defer v.done()
	t := transposed{v: v, in: in, out: out, cols: max(1, min(out, blockValues/max(in, 1)))}
	fine := true
	return kernel.Pack(out, in, s.dtype, func(i int, dst []float32) {
		t.row(i, dst)
		fine = fine && s.finite(name, dst, i, out)
	})
}

// placeholder stands in for a matrix that could not be read; Bind fails before it is used.
func placeholder() *kernel.Packed {
	return kernel.Pack(1, 1, kernel.F32, func(_ int, dst []float32) { dst[0] = 0 })
}

func (s Scope) pack(name string, v values, out, in int) *kernel.Packed {
	r := rows{v: v, width: in, total: out}
	fine := true
	return kernel.Pack(out, in, s.dtype, func(i int, dst []float32) {
		r.row(i, dst)
		fine = fine && s.finite(name, dst, i*in, 1)
	})
}

// raw16 packs halves as they are when the arithmetic keeps them so.
func (s Scope) raw16(name string, v values, out, in int) (*kernel.Packed, bool) {
	exp := uint16(0x7c00)
	switch {
	case v.gen != nil:
		return nil, false
	case s.dtype == kernel.F16W && v.raw.DType == F16:
	case s.dtype == kernel.BF16W && v.raw.DType == BF16:
		exp = 0x7f80
	default:
		return nil, false
	}
	half := halves(v.raw.Data)
	for i, h := range half {
		if h&exp == exp {
			var x [1]float32
			v.raw.Float32s(x[:], i)
			s.finite(name, x[:], i, 1)
			break
		}
	}
	return kernel.PackRaw16(out, in, s.dtype, half), true
}

// rows reads the rows of a matrix in order, a block at a time.
type rows struct {
	v     values
	width int
	total int
	first int // first row of the block
	block []float32
}

// row copies row i to dst.
func (r *rows) row(i int, dst []float32) {
	if r.v.gen == nil {
		r.v.raw.Float32s(dst, i*r.width)
		return
	}
	if n := len(r.block); n == 0 || i < r.first || (i-r.first+1)*r.width > n {
		count := min(max(1, blockValues/max(r.width, 1)), r.total-i)
		if cap(r.block) < count*r.width {
			r.block = make([]float32, count*r.width)
		}
		r.first, r.block = i, r.block[:count*r.width]
		r.v.fill(r.block, i*r.width)
	}
	copy(dst, r.block[(i-r.first)*r.width:])
}

// transposed reads the columns of a matrix in order, a block of columns at a time.
type transposed struct {
	v       values
	in, out int
	cols    int // columns of a block
	first   int
	block   []float32 // in×cols, rows may be shorter at the end
}

// row copies column i to dst.
func (t *transposed) row(i int, dst []float32) {
	if t.block == nil || i < t.first || i >= t.first+t.cols {
		if t.block == nil {
			t.block = make([]float32, t.in*t.cols)
		}
		t.first = i
		n := min(t.cols, t.out-i)
		for k := range t.in {
			t.v.fill(t.block[k*t.cols:k*t.cols+n], k*t.out+i)
		}
	}
	for k := range dst {
		dst[k] = t.block[k*t.cols+i-t.first]
	}
}

// fillParallel is g.Fill with the work split over the kernels' workers. Values depend only on
// their index, so the split does not show.
func fillParallel(g Generator, dst []float32, name string, shape []int, from int) {
	const part = 1 << 15
	n := (len(dst) + part - 1) / part
	kernel.Parallel(n, func(i int) {
		lo, hi := i*part, min((i+1)*part, len(dst))
		g.Fill(dst[lo:hi], name, shape, from+lo)
	})
}
