package kernel

import (
	"fmt"
	"strings"
	"sync/atomic"
)

// tileArgs is one tile product: c[r·32+j] = (acc ? c[r·32+j] : 0) + Σ_k a[k·aks+r]·b[k·bks+j]
// for r < rows and j < cols, k ascending. Strides count elements of the operand's own type.
// The assembly knows the offsets of the fields.
type tileArgs struct {
	c    *float32 // offset 0
	a    *float32 // 8
	b    *float32 // 16
	k    int      // 24
	aks  int      // 32
	bks  int      // 40
	acc  int      // 48; 0 starts from zero
	rows int      // 56
	cols int      // 64; 16 or 32
}

// set is one set of kernels.
type set struct {
	name string
	mr   int // rows of the largest tile
	ok   func() bool
	tile func(*tileArgs)
	// packA writes rows×k values of a as [k][rows] (element stride k first).
	packA func(dst, a []float32, lda, rows, k int)
}

// sets are the kernel sets of this build, the best first.
var sets = append(nativeSets(), portable)

var current atomic.Pointer[set]

func init() {
	for _, s := range sets {
		if s.ok() {
			current.Store(s)
			return
		}
	}
}

// Sets returns the names of the kernel sets this machine can run, the best first.
func Sets() []string {
	var names []string
	for _, s := range sets {
		if s.ok() {
			names = append(names, s.name)
		}
	}
	return names
}

// Set returns the name of the kernel set in use: avx512, avx2, neon or portable.
func Set() string { return current.Load().name }

// UseSet chooses the kernel set by name. It is meant for the start of a program and for
// tests; calls already running keep their set.
func UseSet(name string) error {
	for _, s := range sets {
		if s.name == name && s.ok() {
			current.Store(s)
			return nil
		}
	}
	return fmt.Errorf("kernel: no kernel set %q on this machine (known here: %s)", name, strings.Join(Sets(), ", "))
}
