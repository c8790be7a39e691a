package kernel

import (
	"fmt"
	"math"
)

const (
	panel        = 32  // columns of a panel of a packed operand
	halfPanel    = 16  // columns of a last panel that needs no more
	quarterPanel = 8   // the same
	smallRows    = 4   // rows of a product that widens 16-bit weights in the tile itself, at most
	maxRows      = 14  // rows of the largest tile of any set
	kBlock       = 272 // depth of a panel's slice that stays in the first-level cache, at most
)

// Packed is an immutable right operand of Gemm: N outputs by K inputs, in the layout the
// kernels read. It is safe for concurrent use.
type Packed struct {
	n, k  int
	dt    DType
	f32   []float32 // F32: [panels][K][32]
	u16   []uint16  // F16W, BF16W: [panels][K][32]; BF16: [panels][⌈K/2⌉][32][2]
	i8    []int8    // Int8: [panels][⌈K/4⌉][32][4]
	scale []float32 // Int8: step of each output, padded to whole panels
	sums  []int32   // Int8: sum of each output's weights, padded to whole panels
}

// N is the number of outputs.
func (p *Packed) N() int { return p.n }

// K is the number of inputs.
func (p *Packed) K() int { return p.k }

// DType is the element type.
func (p *Packed) DType() DType { return p.dt }

// Bytes is the memory held.
func (p *Packed) Bytes() int {
	return 4*len(p.f32) + 2*len(p.u16) + len(p.i8) + 4*len(p.scale) + 4*len(p.sums)
}

// paddedN is n rounded up to whole panels, the last of which may be a half or a quarter.
func paddedN(n int) int {
	j := n / panel * panel
	if j == n {
		return n
	}
	return j + panelWidth(n, j)
}

// panelWidth is the width of the panel that starts at column j of n.
func panelWidth(n, j int) int {
	switch {
	case n-j <= quarterPanel:
		return quarterPanel
	case n-j <= halfPanel:
		return halfPanel
	}
	return panel
}

// Pack packs the n×k weight whose i-th row (output i) row writes into dst (k values).
// Rows are asked for in ascending order, each once.
func Pack(n, k int, dt DType, row func(i int, dst []float32)) *Packed {
	if n < 0 || k < 0 {
		panic(fmt.Sprintf("kernel: pack: %d×%d weight", n, k))
	}
	p := newPacked(n, k, dt)
	if dt != F32 || k == 0 {
		buf := make([]float32, k)
		for i := range n {
			row(i, buf)
			p.setRow(i, buf)
		}
		return p
	}
	set := current.Load()
	buf := make([]float32, halfPanel*k)
	for i := 0; i < n; i += halfPanel {
		rows := min(halfPanel, n-i)
		for r := range rows {
			row(i+r, buf[r*k:(r+1)*k:(r+1)*k])
		}
		base, w, col := p.place(i, k)
		set.transposed(p.f32[base+col:], w, buf, k, rows, k)
	}
	return p
}

// PackRaw16 packs an n×k weight given as raw float16 (F16W) or bfloat16 (BF16W) words,
// row-major, without going through float32. BF16 takes bfloat16 words too.
func PackRaw16(n, k int, dt DType, rows []uint16) *Packed {
	if len(rows) < n*k {
		panic(fmt.Sprintf("kernel: pack: %d×%d weight in %d words", n, k, len(rows)))
	}
	if dt != F16W && dt != BF16W && dt != BF16 {
		panic("kernel: pack: 16-bit words as " + dt.String())
	}
	p := newPacked(n, k, dt)
	for i := range n {
		p.setRow16(i, rows[i*k:(i+1)*k])
	}
	return p
}

func newPacked(n, k int, dt DType) *Packed {
	p := &Packed{n: n, k: k, dt: dt}
	pn := paddedN(n)
	switch dt {
	case F32:
		p.f32 = make([]float32, pn*k)
	case F16W, BF16W:
		p.u16 = make([]uint16, pn*k+quarterPanel) // widening takes 16 at a time
	case BF16:
		p.u16 = make([]uint16, pn*((k+1)/2*2))
	case Int8:
		p.i8 = make([]int8, pn*((k+3)/4*4))
		p.scale = make([]float32, (pn+panel-1)/panel*panel)
		p.sums = make([]int32, len(p.scale))
	default:
		panic("kernel: pack: unknown element type " + dt.String())
	}
	return p
}

// place returns where output i lies: the index of its panel's first element for a panel
// depth of k elements a column, the panel's width and the column within the panel.
func (p *Packed) place(i, k int) (base, width, col int) {
	j := i / panel * panel
	return j * k, panelWidth(p.n, j), i - j
}

func (p *Packed) setRow(i int, src []float32) {
	switch p.dt {
	case F32:
		base, w, col := p.place(i, p.k)
		dst := p.f32[base+col:]
		for c, x := range src {
			dst[c*w] = x
		}
	case F16W, BF16W:
		conv := toF16
		if p.dt == BF16W {
			conv = toBF16
		}
		base, w, col := p.place(i, p.k)
		dst := p.u16[base+col:]
		for c, x := range src {
			dst[c*w] = conv(x)
		}
	case BF16:
		base, w, col := p.place(i, (p.k+1)/2*2)
		dst := p.u16[base+2*col:]
		for c, x := range src {
			dst[c/2*2*w+c%2] = toBF16(x)
		}
	case Int8:
		p.setRowInt8(i, src)
	}
}

// setRowInt8 quantises symmetrically: step = max|w|/127.
func (p *Packed) setRowInt8(i int, src []float32) {
	top := float32(0)
	for _, x := range src {
		top = max(top, x, -x)
	}
	base, w, col := p.place(i, (p.k+3)/4*4)
	dst := p.i8[base+4*col:]
	if top < 1e-30 { // zeros, as far as a product can tell
		return
	}
	step, inv := top/127, 127/top
	sum := int32(0)
	for c, x := range src {
		q := int32(math.RoundToEven(float64(x * inv)))
		q = max(-127, min(127, q))
		sum += q
		dst[c/4*4*w+c%4] = int8(q)
	}
	p.scale[i], p.sums[i] = step, sum
}

func (p *Packed) setRow16(i int, src []uint16) {
	if p.dt == BF16 {
		base, w, col := p.place(i, (p.k+1)/2*2)
		dst := p.u16[base+2*col:]
		for c, x := range src {
			dst[c/2*2*w+c%2] = x
		}
		return
	}
	base, w, col := p.place(i, p.k)
	dst := p.u16[base+col:]
	for c, x := range src {
		dst[c*w] = x
	}
}
