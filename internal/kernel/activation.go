package kernel

import (
	"fmt"
	"sync"
)

// partValues is the work of one part of an elementwise loop.
const partValues = 1 << 15

// flatTask is an elementwise loop over contiguous values.
type flatTask struct {
	set       *set
	dst, a, b []float32 // b nil for a function of one value
	one       func(dst, x *float32, n int)
	two       func(dst, a, b *float32, n int)
}

var flats = sync.Pool{New: func() any { return new(flatTask) }}

func (t *flatTask) run(part int) {
	from, to := part*partValues, min(len(t.dst), (part+1)*partValues)
	dst, a := t.dst[from:to], t.a[from:to]
	n := len(dst) / t.set.lanes * t.set.lanes
	if t.one != nil {
		if n > 0 {
			t.one(&dst[0], &a[0], n)
		}
	} else if n > 0 {
		t.two(&dst[0], &a[0], &t.b[from], n)
	}
	if n == len(dst) {
		return
	}
	// The last values go through the same loop by way of scratch, for the same bits.
	s := getScratch()
	defer putScratch(s)
	x := s.bias[:halfPanel]
	clear(x[copy(x, a[n:]):])
	if t.one != nil {
		t.one(&x[0], &x[0], t.set.lanes)
	} else {
		y := s.bias[halfPanel:]
		clear(y[copy(y, t.b[from+n:to]):])
		t.two(&x[0], &x[0], &y[0], t.set.lanes)
	}
	copy(dst[n:], x)
}

func (t *flatTask) do() {
	if n := (len(t.dst) + partValues - 1) / partValues; n > 1 {
		workers.do(n, t)
	} else if n == 1 {
		t.run(0)
	}
	*t = flatTask{}
	flats.Put(t)
}

// Activate writes act(x) into dst, which may be x; both have the same length.
//
// Largest errors: GELU 5e-7 absolute up to |x| = 4 and 1.5e-7 relative beyond; GELUTanh,
// QuickGELU and SiLU 4e-7 of max(|x|, 1); Tanh 4e-7 absolute; the rest exact or correctly
// rounded.
func Activate(dst, x []float32, act Act) {
	sameLen("activate", len(dst), len(x))
	if act > Tanh {
		panic("kernel: activate: unknown activation " + act.String())
	}
	if act == Identity {
		copy(dst, x)
		return
	}
	t := flats.Get().(*flatTask)
	set := current.Load()
	*t = flatTask{set: set, dst: dst, a: x, one: set.unary[act]}
	t.do()
}

// Add writes a+b into dst, which may be either; all have dst's length.
func Add(dst, a, b []float32) {
	sameLen("add", len(dst), len(a))
	sameLen("add", len(dst), len(b))
	t := flats.Get().(*flatTask)
	set := current.Load()
	*t = flatTask{set: set, dst: dst, a: a, b: b, two: set.add}
	t.do()
}

// Mul writes a·b elementwise into dst, which may be either; all have dst's length.
func Mul(dst, a, b []float32) {
	sameLen("mul", len(dst), len(a))
	sameLen("mul", len(dst), len(b))
	t := flats.Get().(*flatTask)
	set := current.Load()
	*t = flatTask{set: set, dst: dst, a: a, b: b, two: set.mul}
	t.do()
}

// Scale multiplies dst by s in place.
func Scale(dst []float32, s float32) {
	set := current.Load()
	n := len(dst) / set.lanes * set.lanes
	if n > 0 {
		set.scale(&dst[0], n, s)
	}
	for i := n; i < len(dst); i++ {
		dst[i] *= s
	}
}

// AddRowVector adds v (n) to each of the rows of dst (rows×n, row stride ldd).
func AddRowVector(dst []float32, ldd, rows, n int, v []float32) {
	checkMatrix("add row vector: dst", dst, ldd, rows, n)
	checkMatrix("add row vector: v", v, n, 1, n)
	for r := range rows {
		Add(dst[r*ldd:r*ldd+n], dst[r*ldd:r*ldd+n], v[:n])
	}
}

func sameLen(what string, want, got int) {
	if want != got {
		panic(fmt.Sprintf("kernel: %s: %d values against %d", what, got, want))
	}
}
