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
	cols int      // 64; 8, 16 or 32

	// What a tile may prefetch, a line a step of k: from pre on in steps of so many bytes, and
	// the tile's rows and columns at touch, of a matrix with row stride ldt in bytes.
	pre   *float32 // 72; nil for none
	step  int      // 80
	touch *float32 // 88; nil for none
	ldt   int      // 96
}

// set is one set of kernels. Lengths n are multiples of lanes unless said otherwise.
type set struct {
	name  string
	ok    func() bool
	mr    int // rows of the largest tile
	lanes int // values that the functions below take at a time
	tile  func(*tileArgs)

	// widen widens n 16-bit weights, n a multiple of 16; tileWiden is tile for up to
	// smallRows rows on such weights. Indexed by whether they are bfloat16.
	widen     [2]func(dst *float32, src *uint16, n int)
	tileWiden [2]func(*tileArgs)

	// transpose writes dst[c·ds+r] = src[r·ls+c] for r < rows ≤ transposeRows and c < k,
	// any k.
	transpose     func(dst *float32, ds int, src *float32, ls, rows, k int)
	transposeRows int

	// softmaxTile: see softmaxTilePortable.
	softmaxTile func(c, ml, o *float32, n, rows int)
	// keyBias and addLowest add to scores, cutting sums off at −MaxFloat32: a value to
	// each of n rows of 32, or n values.
	keyBias   func(c, bias *float32, n int)
	addLowest func(c, x *float32, n int)
	unary     [Tanh + 1]func(dst, x *float32, n int)

	// Row passes: sum, squared deviations, maximum and exp+sum leave lane sums in out.
	sum, maxLanes func(out, x *float32, n int)
	squares       func(out, x *float32, n int, mean float32)
	expSum        func(out, x *float32, n int, top float32)
	affine        func(dst, x, gamma, beta *float32, n int, mean, inv float32)
	add, mul      func(dst, a, b *float32, n int)
	scale         func(x *float32, n int, s float32)

	peak func(n int) // n × 12 multiply-adds of lanes
	dots *dotSet     // bfloat16 and int8 arithmetic; nil when the machine has none

	gridScores, gridWeights func(*gridTileArgs)
	gridBias                func(*gridQueryTile)

	// finish writes c·scale + bias (+ res, unless nil) for rows × 32 columns.
	finish func(dst *float32, ldd int, c, bias, res *float32, ldr, rows int, scale float32)
}

// dotSet is arithmetic on 32-bit groups of two bfloat16 or four bytes. Depths and strides of
// its tiles count groups; transposing groups is transposing float32.
type dotSet struct {
	tileBF16, tileInt8 func(*tileArgs)
	// cvtBF16 rounds n values, a multiple of 32; pairRows pairs rows 2i and 2i+1.
	cvtBF16  func(dst, src *float32, n int)
	pairRows func(dst *float32, ds int, src *float32, ls, rows, cols int)
	// minMax, quantise: n a multiple of 16. dequantise: rows of 32 int32 sums.
	minMax             func(out, x *float32, n int)
	quantise           func(dst, src *float32, n int, inv, zero float32)
	peakBF16, peakInt8 func(n int) // n × 12 products of 16 groups
	dequantise         func(c, step, zero, sums, scale *float32, rows int)
}

// transposed writes dst[c·ds+r] = src[r·ls+c] for r < rows and c < k.
func (s *set) transposed(dst []float32, ds int, src []float32, ls, rows, k int) {
	if rows <= 0 || k <= 0 {
		return
	}
	_, _ = dst[(k-1)*ds+rows-1], src[(rows-1)*ls+k-1]
	for r := 0; r < rows; r += s.transposeRows {
		s.transpose(&dst[r], ds, &src[r*ls], ls, min(s.transposeRows, rows-r), k)
	}
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
