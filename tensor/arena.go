package tensor

// Arena hands out the scratch tensors of one pass. The zero value is ready. It is not safe
// for concurrent use: one goroutine drives a pass, and kernels below it split the work.
//
// Memory is kept in slabs that are reused after Release, so a repeated pass of the same
// shapes allocates nothing.
type Arena struct {
	// Trace, when set, is called by models with the value of each named stage. The tensor is
	// scratch: a callee that keeps it must Clone it.
	Trace func(name string, t Tensor)

	slabs  []slab
	cur    int   // slab in use
	shapes []int // backing for the shapes handed out
}

type slab struct {
	data []float32
	used int
}

// slabValues is the least size of a slab, in values (1 MiB).
const slabValues = 1 << 18

// align keeps every tensor on a 64-byte boundary relative to its slab, in values.
const align = 16

// Mark is a point in an Arena's life to release back to.
type Mark struct{ cur, used, shapes int }

// New returns a scratch tensor with undefined contents.
func (a *Arena) New(shape ...int) Tensor {
	at := len(a.shapes)
	a.shapes = append(a.shapes, shape...)
	return Tensor{Data: a.Floats(Size(shape)), Shape: a.shapes[at:len(a.shapes):len(a.shapes)]}
}

// Floats returns a scratch slice of n values with undefined contents.
func (a *Arena) Floats(n int) []float32 {
	need := (n + align - 1) / align * align
	for ; a.cur < len(a.slabs); a.cur++ {
		s := &a.slabs[a.cur]
		if s.used+need <= len(s.data) {
			out := s.data[s.used : s.used+n : s.used+n]
			s.used += need
			return out
		}
		// A wholly free slab that is too small is replaced rather than skipped, so slabs do
		// not pile up as shapes grow.
		if s.used == 0 {
			s.data = nil
			s.data = make([]float32, need)
			s.used = need
			return s.data[:n:n]
		}
	}
	a.slabs = append(a.slabs, slab{data: make([]float32, max(need, slabValues)), used: need})
	a.cur = len(a.slabs) - 1
	return a.slabs[a.cur].data[:n:n]
}

// Mark notes the present state.
func (a *Arena) Mark() Mark {
	m := Mark{cur: a.cur, shapes: len(a.shapes)}
	if a.cur < len(a.slabs) {
		m.used = a.slabs[a.cur].used
	}
	return m
}

// Release gives back everything handed out since m. Those tensors must no longer be used.
func (a *Arena) Release(m Mark) {
	for i := m.cur + 1; i < len(a.slabs) && i <= a.cur; i++ {
		a.slabs[i].used = 0
	}
	a.cur = m.cur
	if a.cur < len(a.slabs) {
		a.slabs[a.cur].used = m.used
	}
	a.shapes = a.shapes[:m.shapes]
}

// Emit reports a stage to Trace, if anyone listens.
func (a *Arena) Emit(name string, t Tensor) {
	if a.Trace != nil {
		a.Trace(name, t)
	}
}

// Bytes is the memory the arena holds, used or not.
func (a *Arena) Bytes() int {
	n := 0
	for _, s := range a.slabs {
		n += 4 * len(s.data)
	}
	return n
}
