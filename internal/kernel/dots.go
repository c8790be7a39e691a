package kernel

import (
	"math"
	"unsafe"
)

// groups is the depth of the operand in 32-bit groups: pairs of bfloat16, fours of bytes.
func (p *Packed) groups() int {
	switch p.dt {
	case BF16:
		return (p.k + 1) / 2
	case Int8:
		return (p.k + 3) / 4
	}
	return p.k
}

// raw returns the address of 32-bit group i of a F32, BF16 or Int8 operand.
func (p *Packed) raw(i int) *float32 {
	switch p.dt {
	case BF16:
		return (*float32)(unsafe.Pointer(&p.u16[2*i]))
	case Int8:
		return (*float32)(unsafe.Pointer(&p.i8[4*i]))
	}
	return &p.f32[i]
}

// dequantise turns a strip of int32 sums at column col into floats; params are the rows'
// steps, then their zero points.
func (p *Packed) dequantise(set *set, c, params []float32, rows, col int) {
	set.dots.dequantise(&c[0], &params[0], &params[rows], (*float32)(unsafe.Pointer(&p.sums[col])), &p.scale[col], rows)
}

// convert rounds or quantises one row of a into 32-bit groups. For Int8 params[0] becomes the
// row's step and params[rows] its zero point, an int32.
func (j *gemmJob) convert(s *scratch, dst, params []float32, rows int, row []float32) {
	if j.dot == BF16 {
		roundRow(s, j.set, dst, row)
		return
	}
	d := j.set.dots
	lo, hi := float32(0), float32(0)
	n := len(row) / 16 * 16
	if n > 0 {
		d.minMax(&s.bias[0], &row[0], n)
		for i := range 16 {
			lo, hi = min(lo, s.bias[i]), max(hi, s.bias[16+i])
		}
	}
	for _, v := range row[n:] {
		lo, hi = min(lo, v), max(hi, v)
	}
	// A row that is not finite keeps a finite scale here and shows in its own results.
	step := (hi - lo) / 255
	inv := float32(0)
	if step > 0 {
		inv = 1 / step
	}
	if inv > math.MaxFloat32 {
		step, inv = 0, 0
	}
	zero := float32(math.RoundToEven(float64(-lo * inv)))
	params[0], params[rows] = step, math.Float32frombits(uint32(int32(zero)))
	if n > 0 {
		d.quantise(&dst[0], &row[0], n, inv, zero)
	}
	if n < len(row) {
		x := s.bias[:16]
		clear(x[copy(x, row[n:]):])
		d.quantise(&x[0], &x[0], 16, inv, zero)
		copy(dst[n/4:], x[:4])
	}
}

// roundRow rounds a row to bfloat16 pairs, an odd last value being paired with zero.
func roundRow(s *scratch, set *set, dst, row []float32) {
	n := len(row) / panel * panel
	if n > 0 {
		set.dots.cvtBF16(&dst[0], &row[0], n)
	}
	if n < len(row) {
		x := s.bias[:]
		clear(x[copy(x, row[n:]):])
		set.dots.cvtBF16(&x[0], &x[0], panel)
		copy(dst[n/2:], x[:halfPanel])
	}
}
