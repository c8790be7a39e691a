package kernel

import (
	"sync"
	"unsafe"
)

// scratch is the memory one running part needs: packed rows, a strip of results, a widened
// slice of weights. It is taken from a free list and given back, so that the steady state
// allocates nothing.
type scratch struct {
	a    []float32 // packed left operand
	b    []float32 // widened or packed right operand
	c    []float32 // strip of results, rows × 32
	x    []float32 // whatever else a kernel keeps
	y    []float32
	bias [panel]float32
	t    tileArgs
	g    gridTileArgs
	q    gridQueryTile
}

var scratches struct {
	mu   sync.Mutex
	free []*scratch
}

func getScratch() *scratch {
	scratches.mu.Lock()
	defer scratches.mu.Unlock()
	if n := len(scratches.free); n > 0 {
		s := scratches.free[n-1]
		scratches.free = scratches.free[:n-1]
		return s
	}
	return new(scratch)
}

func putScratch(s *scratch) {
	s.t, s.g, s.q = tileArgs{}, gridTileArgs{}, gridQueryTile{}
	scratches.mu.Lock()
	scratches.free = append(scratches.free, s)
	scratches.mu.Unlock()
}

// grow returns s with length n, its contents undefined. The memory is a whole number of
// cache lines and keeps a line of slack.
func grow(s *[]float32, n int) []float32 {
	if cap(*s) < n {
		*s = make([]float32, (n+31)/16*16)
	}
	*s = (*s)[:n]
	return *s
}

// add32 returns the address n values beyond p, within the same array.
func add32(p *float32, n int) *float32 { return (*float32)(unsafe.Add(unsafe.Pointer(p), 4*n)) }
