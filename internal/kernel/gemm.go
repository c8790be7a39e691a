package kernel

import (
	"fmt"
	"sync"
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
	*j = gemmJob{set: current.Load(), dst: dst, ldd: ldd, a: a, lda: lda, m: m, w: w, e: e, packed: j.packed, params: j.params}
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

// gemmJob is one product, divided into row blocks × column groups.
type gemmJob struct {
	set    *set
	dst    []float32
	ldd    int
	a      []float32
	lda, m int
	w      *Packed
	e      Epilogue
	depth  int       // 32-bit groups of a row of a as multiplied
	dot    DType     // BF16 or Int8 when multiplied as such, else F32
	packed []float32 // all of a packed, when small
	params []float32 // Int8: step, then zero point, of each row of a, when packed
	shared bool      // packed is in use
	phase  int       // 0 packs a, 1 multiplies
	blocks int       // row blocks
	groups int       // column groups of a row block
	slices int       // slices of the depth
	far    bool      // w does not stay in the second-level cache
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
	*j = gemmJob{packed: j.packed, params: j.params}
	gemms.mu.Lock()
	gemms.free = append(gemms.free, j)
	gemms.mu.Unlock()
}

const (
	blockRows   = 126     // rows of a block, about; a multiple of the tiles' heights
	blockFloats = 1 << 19 // values of a packed row block, at most, when it has many rows
	chunkFloats = 1 << 17 // values of a packed row block multiplied before the next of its depth
	sharedA     = 1 << 22 // values of a up to which it is packed once, before multiplying
	runPanels   = 8       // panels that a row block's chunk is multiplied with, when it has several
	nearBytes   = 1 << 19 // of w, at most, that stay in the second-level cache
	parts       = 8       // of the work for each thread: enough that the last ones even out
)

// start divides the product and runs its one or two phases.
func (j *gemmJob) start() {
	threads := Threads()
	j.depth, j.dot = j.w.k, F32
	if j.set.dots != nil && (j.w.dt == BF16 || j.w.dt == Int8) {
		j.dot, j.depth = j.w.dt, j.w.groups()
	}
	if float64(j.m)*float64(j.w.n)*float64(j.w.k) < 1<<17 {
		threads = 1
	}
	panels := (j.w.n + panel - 1) / panel
	rows := min(blockRows, max(j.set.mr*2, blockFloats/max(1, j.depth)))
	j.blocks = (j.m + rows - 1) / rows
	j.slices = (j.depth + kBlock - 1) / kBlock
	j.far = j.w.Bytes() > nearBytes
	j.shared = j.m*j.depth <= sharedA && j.blocks < parts*threads
	j.groups = 1
	if j.shared {
		if threads > 1 {
			j.groups = min(panels, (parts*threads+j.blocks-1)/j.blocks)
		}
		for j.blocks*j.groups%threads != 0 && j.groups < panels {
			j.groups++
		}
		j.packed = grow(&j.packed, j.m*j.depth)
		grow(&j.params, 2*j.m)
		j.phase = 0
		j.runAll(threads, j.blocks)
	} else {
		j.blocks = min(j.m, (j.blocks+threads-1)/threads*threads)
	}
	j.phase = 1
	j.runAll(threads, j.blocks*j.groups)
}

func (j *gemmJob) runAll(threads, n int) {
	if threads > 1 && n > 1 {
		workers.do(n, j)
		return
	}
	for i := range n {
		j.run(i)
	}
}

// block returns the rows of block b, which are spread evenly.
func (j *gemmJob) block(b int) (from, to int) {
	return b * j.m / j.blocks, (b + 1) * j.m / j.blocks
}

func (j *gemmJob) run(part int) {
	s := getScratch()
	defer putScratch(s)
	if j.phase == 0 {
		from, to := j.block(part)
		j.pack(s, j.packed[from*j.depth:to*j.depth], j.params[2*from:2*to], from, to)
		return
	}
	b, g := part/j.groups, part%j.groups
	from, to := j.block(b)
	var pa, params []float32
	if j.shared {
		pa, params = j.packed[from*j.depth:to*j.depth], j.params[2*from:2*to]
	} else {
		pa, params = grow(&s.a, (to-from)*j.depth), grow(&s.y, 2*(to-from))
		j.pack(s, pa, params, from, to)
	}
	panels := (j.w.n + panel - 1) / panel
	p0, p1 := split(panels, j.groups, g), split(panels, j.groups, g+1)
	chunk := max(1, chunkFloats/((to-from)*kBlock)) // slices
	if chunk >= j.slices || to-from <= j.set.mr {
		c := grow(&s.c, (to-from)*panel)
		for p := p0; p < p1; p++ {
			j.strip(s, c, pa, b, p, 0, j.slices)
			j.finish(s, c, params, from, to, p)
		}
		return
	}
	for ; p0 < p1; p0 += runPanels {
		n := min(runPanels, p1-p0)
		c := grow(&s.c, n*(to-from)*panel)
		for k := 0; k < j.slices; k += chunk {
			for p := range n {
				j.strip(s, c[p*(to-from)*panel:(p+1)*(to-from)*panel], pa, b, p0+p, k, min(j.slices, k+chunk))
			}
		}
		for p := range n {
			j.finish(s, c[p*(to-from)*panel:], params, from, to, p0+p)
		}
	}
}

// finish stores the strip of panel p.
func (j *gemmJob) finish(s *scratch, c, params []float32, from, to, p int) {
	col := p * panel
	if j.dot == Int8 {
		j.w.dequantise(j.set, c, params, to-from, col)
	}
	j.e.apply(s, j.set, j.dst[from*j.ldd+col:], j.ldd, c, from, to-from, col, min(panel, j.w.n-col))
}

// split cuts rows into tiles of nearly equal height, at most mr: tile i of n begins here.
func split(rows, n, i int) int { return i * rows / n }

// pack writes rows [from, to) of a as tiles [depth][rows of the tile], rounded or quantised
// as the product wants them.
func (j *gemmJob) pack(s *scratch, dst, params []float32, from, to int) {
	rows, d := to-from, j.depth
	n := (rows + j.set.mr - 1) / j.set.mr
	for i := range n {
		r0, r1 := split(rows, n, i), split(rows, n, i+1)
		src, ld := j.a[(from+r0)*j.lda:], j.lda
		if j.dot != F32 {
			src, ld = grow(&s.x, (r1-r0)*d), d
			for r := r0; r < r1; r++ {
				j.convert(s, src[(r-r0)*d:(r-r0+1)*d], params[r:], rows, j.a[(from+r)*j.lda:][:j.w.k])
			}
		}
		j.set.transposed(dst[r0*d:r1*d], r1-r0, src, ld, r1-r0, d)
	}
}

// strip computes block b's rows of panel p into c, of the slices [s0, s1) of the depth: from
// zero, or on from what c holds.
func (j *gemmJob) strip(s *scratch, c, pa []float32, b, p, s0, s1 int) {
	d, col := j.depth, p*panel
	if d == 0 {
		clear(c)
		return
	}
	from, to := j.block(b)
	rows := to - from
	tile := j.set.tile
	switch j.dot {
	case BF16:
		tile = j.set.dots.tileBF16
	case Int8:
		tile = j.set.dots.tileInt8
	}
	n := (rows + j.set.mr - 1) / j.set.mr
	width := panelWidth(j.w.n, col)
	t := &s.t
	t.bks, t.cols, t.ldt = width, width, 4*j.ldd
	slices := j.slices
	direct := (j.w.dt == F16W || j.w.dt == BF16W) && rows <= smallRows && j.set.tileWiden[0] != nil
	if direct {
		tile = j.set.tileWiden[isBF16[j.w.dt]]
	}
	if n == 1 && (direct || j.dot != F32 || j.w.dt == F32) {
		slices, s1 = 1, 1 // nothing to keep for other tiles
	}
	for sl := s0; sl < s1; sl++ {
		k0, k1 := split(d, slices, sl), split(d, slices, sl+1)
		t.k, t.acc = k1-k0, k0
		switch {
		case direct:
			t.b = (*float32)(unsafe.Pointer(&j.w.u16[col*d+k0*width]))
		case j.dot != F32:
			t.b = j.w.raw(col*d + k0*width)
		default:
			t.b = j.w.slice(s, j.set, col, width, k0, t.k)
		}
		for i := range n {
			r0, r1 := split(rows, n, i), split(rows, n, i+1)
			t.rows, t.aks = r1-r0, r1-r0
			t.a, t.c = &pa[r0*d+k0*t.rows], &c[r0*panel]
			t.touch = nil
			if k1 == d {
				t.touch = &j.dst[(from+r0)*j.ldd+col]
			}
			j.fetch(t, b, p, k0, i, n)
			tile(t)
		}
	}
}

// fetch says what tile i of n, of block b and panel p from depth k0 on, fetches on the way: the
// first a share of the rows that the next block will pack, the others one of the slice of w
// that follows.
func (j *gemmJob) fetch(t *tileArgs, b, p, k0, i, n int) {
	t.pre, t.step = nil, 0
	panels := (j.w.n + panel - 1) / panel
	ahead := !j.shared && b+1 < j.blocks
	switch {
	case ahead && i == 0:
		from, to := j.block(b + 1)
		r0, r1 := from+split(to-from, panels, p), from+split(to-from, panels, p+1)
		if size := (r1 - r0) * j.lda; size > 0 {
			t.pre, t.step = &j.a[r0*j.lda+size/j.depth*k0], 4*size/j.depth
		}
	case j.far && (j.dot != F32 || j.w.dt == F32):
		if ahead {
			i, n = i-1, n-1
		}
		at := p*panel*j.depth + t.cols*(k0+t.k)
		if size := min(t.cols*t.k, paddedN(j.w.n)*j.depth-at); size > 0 {
			t.pre, t.step = j.w.raw(at+split(size, n, i)), 4*size/n/t.k
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
