package kernel

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"unsafe"
)

// Gemm computes dst[i,j] = act(scale·Σ_k a[i,k]·w[j,k] + bias[j]) + residual[i,j] for the
// m rows of a (m×K, row stride lda) and all N outputs of w; dst is m×N with row stride ldd.
// Residual may be dst itself; a must not overlap dst. See Epilogue for what follows the
// product. The result's bits do not depend on m or on threads.
//
// Errors, against exact arithmetic: F32, F16W and BF16W round once a step of the k-long
// chain; BF16 rounds each a to 8 bits first (relative 2⁻⁹ an element); Int8 quantises each
// row of a to 8 bits between its minimum and maximum.
func Gemm(dst []float32, ldd int, a []float32, lda, m int, w *Packed, e Epilogue) {
	if m <= 0 || w.n == 0 {
		return
	}
	checkMatrix("gemm: a", a, lda, m, w.k)
	checkMatrix("gemm: dst", dst, ldd, m, w.n)
	e.check(m, w.n)
	j := getGemm()
	*j = gemmJob{set: current.Load(), dst: dst, ldd: ldd, a: a, lda: lda, m: m, w: w, e: e, spans: j.spans}
	j.start()
	j.release()
}

// GemmNT is Gemm with a right operand that is used once: b is n×k, row stride ldb.
func GemmNT(dst []float32, ldd int, a []float32, lda int, b []float32, ldb, m, n, k int, e Epilogue) {
	if m <= 0 || n <= 0 {
		return
	}
	checkMatrix("gemm: b", b, ldb, n, k)
	gemmUnpacked(dst, ldd, a, lda, m, n, k, e, func(p *Packed, from, i int) { p.setRow(i, b[(from+i)*ldb:(from+i)*ldb+k]) })
}

// GemmNN is Gemm with a right operand that is used once: b is k×n, row stride ldb.
func GemmNN(dst []float32, ldd int, a []float32, lda int, b []float32, ldb, m, n, k int, e Epilogue) {
	if m <= 0 || n <= 0 {
		return
	}
	checkMatrix("gemm: b", b, ldb, k, n)
	gemmUnpacked(dst, ldd, a, lda, m, n, k, e, func(p *Packed, from, i int) {
		base, w, col := p.place(i, k)
		for c := range k {
			p.f32[base+c*w+col] = b[c*ldb+from+i]
		}
	})
}

// unpackedBytes bounds the memory for the packed part of an operand used once.
const unpackedBytes = 8 << 20

// gemmUnpacked packs columns in groups and multiplies by each.
func gemmUnpacked(dst []float32, ldd int, a []float32, lda, m, n, k int, e Epilogue, setCol func(p *Packed, from, i int)) {
	step := max(panel, unpackedBytes/4/max(1, k)/panel*panel)
	s := getScratch()
	defer putScratch(s)
	for from := 0; from < n; from += step {
		cols := min(step, n-from)
		p := &Packed{n: cols, k: k, dt: F32, f32: grow(&s.y, paddedN(cols)*k)}
		clear(p.f32)
		for i := range cols {
			setCol(p, from, i)
		}
		part := e
		if e.Bias != nil {
			part.Bias = e.Bias[from:]
		}
		if e.Residual != nil {
			part.Residual = e.Residual[from:]
		}
		Gemm(dst[from:], ldd, a, lda, m, p, part)
	}
}

// gemmJob is one product, divided into row blocks × column groups: items, which workers take
// block by block, so that each packs rows of a for itself and finds them in its own cache.
type gemmJob struct {
	set    *set
	dst    []float32
	ldd    int
	a      []float32
	lda, m int
	w      *Packed
	e      Epilogue
	depth  int    // 32-bit groups of a row of a as multiplied
	dot    DType  // BF16 or Int8 when multiplied as such, else F32
	panels int    // of w
	blocks int    // row blocks
	groups int    // column groups of a row block
	slices int    // slices of the depth
	far    bool   // w does not stay in the second-level cache
	spans  []span // the items of each worker
}

var gemms struct {
	mu   sync.Mutex
	free []*gemmJob
}

func getGemm() *gemmJob {
	gemms.mu.Lock()
	defer gemms.mu.Unlock()
	if n := len(gemms.free); n > 0 {
		j := gemms.free[n-1]
		gemms.free = gemms.free[:n-1]
		return j
	}
	return new(gemmJob)
}

func (j *gemmJob) release() {
	*j = gemmJob{spans: j.spans}
	gemms.mu.Lock()
	gemms.free = append(gemms.free, j)
	gemms.mu.Unlock()
}

const (
	blockRows   = 128     // rows of a block, at most
	blockTiles  = 4       // tiles of a block, at least, where rows are divided for the workers' sake
	blockFloats = 1 << 19 // values of a packed row block, at most, when it has many rows
	chunkFloats = 180_000 // values of a packed row block multiplied before the next of its depth
	runPanels   = 8       // panels that a row block's chunk is multiplied with, when it has several
	nearBytes   = 1 << 19 // of w, at most, that stay in the second-level cache
	items       = 8       // for each worker: enough that the last ones even out
)

// start divides the product and runs it.
func (j *gemmJob) start() {
	threads := Threads()
	j.depth, j.dot = j.w.k, F32
	if j.set.dots != nil && (j.w.dt == BF16 || j.w.dt == Int8) {
		j.dot, j.depth = j.w.dt, j.w.groups()
	}
	if float64(j.m)*float64(j.w.n)*float64(j.w.k) < 1<<17 {
		threads = 1
	}
	j.panels = (j.w.n + panel - 1) / panel
	j.slices = (j.depth + kBlock - 1) / kBlock
	j.far = j.w.Bytes() > nearBytes
	rows := min(blockRows, max(j.set.mr*2, blockFloats/max(1, j.depth)))
	j.blocks = (j.m + rows - 1) / rows
	if b := (j.blocks + threads - 1) / threads * threads; b*blockTiles*j.set.mr <= j.m {
		j.blocks = b // as many for every worker
	}
	j.groups = 1
	if threads > 1 {
		j.groups = min(j.panels, (items*threads+j.blocks-1)/j.blocks)
		threads = min(threads, j.blocks*j.groups)
	}
	if cap(j.spans) < threads {
		j.spans = make([]span, threads)
	}
	j.spans = j.spans[:threads]
	for i := range j.spans {
		j.spans[i].set(split(j.blocks*j.groups, threads, i), split(j.blocks*j.groups, threads, i+1))
	}
	if threads == 1 {
		j.run(0)
		return
	}
	workers.do(threads, j)
}

// span is a range of items, taken one by one: by its worker from the front, by others, when
// they have nothing left, from the back.
type span struct{ ends atomic.Uint64 }

func (s *span) set(from, to int) { s.ends.Store(uint64(from)<<32 | uint64(to)) }

func (s *span) take(front bool) (item int, ok bool) {
	for {
		ends := s.ends.Load()
		from, to := ends>>32, ends&math.MaxUint32
		if from >= to {
			return 0, false
		}
		item, next := from, ends+1<<32
		if !front {
			item, next = to-1, ends-1
		}
		if s.ends.CompareAndSwap(ends, next) {
			return int(item), true
		}
	}
}

// block returns the rows of block b, which are spread evenly.
func (j *gemmJob) block(b int) (from, to int) {
	return split(j.m, j.blocks, b), split(j.m, j.blocks, b+1)
}

// run is one worker: its own items, then what others have left.
func (j *gemmJob) run(worker int) {
	s := getScratch()
	defer putScratch(s)
	x := gemmBlock{gemmJob: j, s: s, b: -1}
	for v := range j.spans {
		own := (worker + v) % len(j.spans)
		for {
			item, ok := j.spans[own].take(v == 0)
			if !ok {
				break
			}
			if b := item / j.groups; b != x.b {
				x.pack(b)
			}
			x.next = v == 0 && x.b+1 < j.blocks && (x.b+1)*j.groups < split(j.blocks*j.groups, len(j.spans), own+1)
			x.multiply(item % j.groups)
		}
	}
}

// gemmBlock is a block of rows that a worker has packed.
type gemmBlock struct {
	*gemmJob
	s        *scratch
	b        int  // the block; −1 for none
	from, to int  // its rows
	next     bool // the worker goes on with the next block
	packed   []float32
	params   []float32 // Int8: step, then zero point, of each row
}

// pack writes rows of a as tiles [depth][rows of the tile], rounded or quantised as the
// product wants them.
func (x *gemmBlock) pack(b int) {
	x.b = b
	x.from, x.to = x.block(b)
	rows, d := x.to-x.from, x.depth
	x.packed, x.params = grow(&x.s.a, rows*d), grow(&x.s.y, 2*rows)
	n := (rows + x.set.mr - 1) / x.set.mr
	for i := range n {
		r0, r1 := split(rows, n, i), split(rows, n, i+1)
		src, ld := x.a[(x.from+r0)*x.lda:], x.lda
		if x.dot != F32 {
			src, ld = grow(&x.s.x, (r1-r0)*d), d
			for r := r0; r < r1; r++ {
				x.convert(x.s, src[(r-r0)*d:(r-r0+1)*d], x.params[r:], rows, x.a[(x.from+r)*x.lda:][:x.w.k])
			}
		}
		x.set.transposed(x.packed[r0*d:r1*d], r1-r0, src, ld, r1-r0, d)
	}
}

// multiply computes the panels of group g.
func (x *gemmBlock) multiply(g int) {
	rows := x.to - x.from
	p0, p1 := split(x.panels, x.groups, g), split(x.panels, x.groups, g+1)
	chunk := max(1, chunkFloats/(rows*kBlock)) // slices
	if chunk >= x.slices || rows <= x.set.mr {
		c := grow(&x.s.c, rows*panel)
		for p := p0; p < p1; p++ {
			x.strip(c, p, 0, x.slices)
			x.finish(c, p)
		}
		return
	}
	for ; p0 < p1; p0 += runPanels {
		n := min(runPanels, p1-p0)
		c := grow(&x.s.c, n*rows*panel)
		for k := 0; k < x.slices; k += chunk {
			for p := range n {
				x.strip(c[p*rows*panel:(p+1)*rows*panel], p0+p, k, min(x.slices, k+chunk))
			}
		}
		for p := range n {
			x.finish(c[p*rows*panel:], p0+p)
		}
	}
}

// finish stores the strip of panel p.
func (x *gemmBlock) finish(c []float32, p int) {
	col, rows := p*panel, x.to-x.from
	if x.dot == Int8 {
		x.w.dequantise(x.set, c, x.params, rows, col)
	}
	x.e.apply(x.s, x.set, x.dst[x.from*x.ldd+col:], x.ldd, c, x.from, rows, col, min(panel, x.w.n-col))
}

// split divides n things into parts of nearly equal size: part i begins here.
func split(n, parts, i int) int { return i * n / parts }

// strip computes the rows of panel p into c, of the slices [s0, s1) of the depth: from zero, or
// on from what c holds.
func (x *gemmBlock) strip(c []float32, p, s0, s1 int) {
	d, col, rows := x.depth, p*panel, x.to-x.from
	if d == 0 {
		clear(c)
		return
	}
	tile := x.set.tile
	switch x.dot {
	case BF16:
		tile = x.set.dots.tileBF16
	case Int8:
		tile = x.set.dots.tileInt8
	}
	n := (rows + x.set.mr - 1) / x.set.mr
	width := panelWidth(x.w.n, col)
	slices := x.slices
	direct := (x.w.dt == F16W || x.w.dt == BF16W) && rows <= smallRows && x.set.tileWiden[0] != nil
	if direct {
		tile = x.set.tileWiden[isBF16[x.w.dt]]
	}
	if n == 1 && (direct || x.dot != F32 || x.w.dt == F32) {
		slices, s1 = 1, 1 // nothing to keep for other tiles
	}
	t := &x.s.t
	t.bks, t.cols, t.ldt = width, width, 4*x.ldd
	for sl := s0; sl < s1; sl++ {
		k0, k1 := split(d, slices, sl), split(d, slices, sl+1)
		t.k, t.acc = k1-k0, k0
		switch {
		case direct:
			t.b = (*float32)(unsafe.Pointer(&x.w.u16[col*d+k0*width]))
		case x.dot != F32:
			t.b = x.w.raw(col*d + k0*width)
		default:
			t.b = x.w.slice(x.s, x.set, col, width, k0, t.k)
		}
		for i := range n {
			r0, r1 := split(rows, n, i), split(rows, n, i+1)
			t.rows, t.aks = r1-r0, r1-r0
			t.a, t.c = &x.packed[r0*d+k0*t.rows], &c[r0*panel]
			t.touch = nil
			if k1 == d {
				t.touch = &x.dst[(x.from+r0)*x.ldd+col]
			}
			x.fetch(t, p, k0, i, n)
			tile(t)
		}
	}
}

// fetch says what tile i of n, of panel p from depth k0 on, fetches on the way: the first a
// share of the rows that will be packed next, the others one of the slice of w that follows.
func (x *gemmBlock) fetch(t *tileArgs, p, k0, i, n int) {
	t.pre, t.step = nil, 0
	switch {
	case x.next && i == 0:
		from, to := x.block(x.b + 1)
		r0, r1 := from+split(to-from, x.panels, p), from+split(to-from, x.panels, p+1)
		if size := (r1 - r0) * x.lda; size > 0 {
			t.pre, t.step = &x.a[r0*x.lda+size/x.depth*k0], 4*size/x.depth
		}
	case x.far && (x.dot != F32 || x.w.dt == F32):
		if x.next {
			i, n = i-1, n-1
		}
		at := p*panel*x.depth + t.cols*(k0+t.k)
		if size := min(t.cols*t.k, paddedN(x.w.n)*x.depth-at); size > 0 {
			t.pre, t.step = x.w.raw(at+split(size, n, i)), 4*size/n/t.k
		}
	}
}

// checkMatrix panics when rows×cols with row stride ld does not fit in x.
func checkMatrix(what string, x []float32, ld, rows, cols int) {
	if rows == 0 || cols == 0 {
		return
	}
	if ld < cols && rows > 1 || len(x) < (rows-1)*ld+cols {
		panic(fmt.Sprintf("kernel: %s: %d×%d with row stride %d in %d values", what, rows, cols, ld, len(x)))
	}
}
