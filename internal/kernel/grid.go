package kernel

// Grid is attention of N queries over the rows of an H×W grid whose position code is
// separable, x[(h,w)] = [features, code_h(h), code_w(w)], each row normalised by its own
// mean and deviation. With queries folded into the space of x, every score is
//
//	s[n,(h,w)] = (q_n·f + SH[n,h] + SW[n,w] + QMean[n]·mean) · inv
//
// f, mean and inv (1/deviation) being those of row (h,w). SH[n,h] is the inner product of the
// query's part for code_h with code_h(h), and so SW; QMean[n] is minus the sum of the whole
// query, gamma included. What is constant in (h,w) cancels in the softmax and is left out.
//
// The weighted sum of normalised rows needs, with a = softmax(s):
//
//	Out[n,c]   = Σ a·inv·f[c]        N×F
//	OutMean[n] = Σ a·inv·mean        N
//	OutH[n,h]  = Σ_w a·inv           N×H: marginals, to be multiplied with code_h
//	OutW[n,w]  = Σ_h a·inv           N×W
//
// so that Σ a·(x−mean)·inv = [Out, OutH·code_h, OutW·code_w] − OutMean.
//
// The zero value is ready for Start, and a Grid may be started again, keeping its memory. Bits
// depend on the shape and the data alone, never on threads or on how lines are fed.
type Grid struct {
	n, h, w, f int
	next       int // first line not yet added
	mem        []float32
	blocks     []gridBlock
	packed     []float32 // lines being added: tiles [F+1][rows] for scores
	plain      []float32 // the same, [row][F+1], for sums
	task       gridTask
}

// gridBlock is the state of 32 queries. All arrays are [·][32].
type gridBlock struct {
	q      []float32 // F+1: folded queries, last the factor of the mean
	sh, sw []float32 // H, W: position scores
	ml     []float32 // 3: reference (at most gridSlack below the maximum), a tile's sum, sum
	o      []float32 // F+1: sums of features, last of means
	ah, aw []float32 // H, W: marginals
}

// gridSlack is how far the maximum may rise above the reference of the exponentials before
// everything gathered is rescaled: e⁸ costs no precision and rescaling becomes rare.
const gridSlack = 8

// GridArgs is what a Grid starts with.
type GridArgs struct {
	N, H, W, F int
	Q          []float32 // N×F, row stride LDQ: folded queries of the features, scale included
	LDQ        int
	QMean      []float32 // N
	SH, SW     []float32 // N×H and N×W, contiguous
}

// Start copies the queries' tables.
func (g *Grid) Start(a GridArgs) {
	checkMatrix("grid: q", a.Q, a.LDQ, a.N, a.F)
	checkMatrix("grid: q mean", a.QMean, a.N, 1, a.N)
	checkMatrix("grid: sh", a.SH, a.H, a.N, a.H)
	checkMatrix("grid: sw", a.SW, a.W, a.N, a.W)
	g.n, g.h, g.w, g.f, g.next = a.N, a.H, a.W, a.F, 0
	set := current.Load()
	each := panel * (2*(a.F+1) + 2*a.H + 2*a.W + 3)
	blocks := (a.N + panel - 1) / panel
	mem := grow(&g.mem, blocks*each)
	clear(mem)
	take := func(rows int) []float32 {
		s := mem[: rows*panel : rows*panel]
		mem = mem[rows*panel:]
		return s
	}
	g.blocks = g.blocks[:0]
	for b := range blocks {
		u := gridBlock{q: take(a.F + 1), sh: take(a.H), sw: take(a.W), ml: take(3), o: take(a.F + 1), ah: take(a.H), aw: take(a.W)}
		i := b * panel
		n := min(panel, a.N-i)
		if a.F > 0 {
			set.transposed(u.q, panel, a.Q[i*a.LDQ:], a.LDQ, n, a.F)
		}
		copy(u.q[a.F*panel:], a.QMean[i:i+n])
		set.transposed(u.sh, panel, a.SH[i*a.H:], a.H, n, a.H)
		set.transposed(u.sw, panel, a.SW[i*a.W:], a.W, n, a.W)
		for j := range panel {
			u.ml[j] = lowest
		}
		g.blocks = append(g.blocks, u)
	}
}

// Add takes the next lines of the grid, in ascending order: f is (lines·W)×F with row stride
// ldf; mean and inv have a value a row.
func (g *Grid) Add(f []float32, ldf int, mean, inv []float32, lines int) {
	rows := lines * g.w
	checkMatrix("grid: features", f, ldf, rows, g.f)
	checkMatrix("grid: mean", mean, rows, 1, rows)
	checkMatrix("grid: inv", inv, rows, 1, rows)
	if g.next+lines > g.h {
		panic("kernel: grid: more lines than the grid has")
	}
	if rows == 0 {
		return
	}
	g.task = gridTask{g: g, set: current.Load(), f: f, ldf: ldf, mean: mean, inv: inv, lines: lines}
	grow(&g.packed, rows*(g.f+1))
	grow(&g.plain, rows*(g.f+1))
	workers.do(lines, &g.task)
	g.task.multiply = true
	workers.do(len(g.blocks), &g.task)
	g.task = gridTask{}
	g.next += lines
}

// Finish writes the results after the last line: out N×F with row stride ldo, outMean N,
// outH N×H, outW N×W.
func (g *Grid) Finish(out []float32, ldo int, outMean, outH, outW []float32) {
	checkMatrix("grid: out", out, ldo, g.n, g.f)
	checkMatrix("grid: out mean", outMean, g.n, 1, g.n)
	checkMatrix("grid: out h", outH, g.h, g.n, g.h)
	checkMatrix("grid: out w", outW, g.w, g.n, g.w)
	if g.next != g.h {
		panic("kernel: grid: lines are missing")
	}
	set := current.Load()
	for b := range g.blocks {
		u := &g.blocks[b]
		inv := u.ml[2*panel:]
		for i, s := range inv {
			if s != 0 {
				inv[i] = 1 / s
			}
		}
		u.rescale(set, inv)
		i := b * panel
		n := min(panel, g.n-i)
		if g.f > 0 {
			set.transposed(out[i*ldo:], ldo, u.o, panel, g.f, n)
		}
		copy(outMean[i:i+n], u.o[g.f*panel:])
		set.transposed(outH[i*g.h:], g.h, u.ah, panel, g.h, n)
		set.transposed(outW[i*g.w:], g.w, u.aw, panel, g.w, n)
	}
}

// rescale multiplies everything gathered by a value a query.
func (u *gridBlock) rescale(set *set, by []float32) {
	for _, x := range [][]float32{u.o, u.ah, u.aw} {
		for i := 0; i < len(x); i += panel {
			set.mul(&x[i], &x[i], &by[0], panel)
		}
	}
}

// gridTask adds lines: it first packs them, a part a line, then takes them into every block
// of queries, a part a block.
type gridTask struct {
	g         *Grid
	set       *set
	f         []float32
	ldf       int
	mean, inv []float32
	lines     int
	multiply  bool
}

// gridTileArgs is a tile of n keys of one line by 32 queries. The assembly knows the offsets.
type gridTileArgs struct {
	c   *float32 // 0: [n][32] scores, then weights
	sh  *float32 // 8: [32]
	sw  *float32 // 16: [n][32]
	inv *float32 // 24: [n]
	top *float32 // 32: [32] maxima
	ml  *float32 // 40: [2][32] reference, sum
	ah  *float32 // 48: [32]
	aw  *float32 // 56: [n][32]
	n   int      // 64
}

func (t *gridTask) run(part int) {
	if t.multiply {
		s := getScratch()
		for line := range t.lines {
			for from := 0; from < t.g.w; from += KeyTile {
				t.tile(s, &t.g.blocks[part], line, from, min(KeyTile, t.g.w-from))
			}
		}
		putScratch(s)
		return
	}
	t.pack(part)
}

// pack lays out one line's features with the mean as one more channel.
func (t *gridTask) pack(line int) {
	g, d := t.g, t.g.f+1
	at := line * g.w
	for i := range g.w {
		row := g.plain[(at+i)*d : (at+i+1)*d]
		copy(row[:g.f], t.f[(at+i)*t.ldf:])
		row[g.f] = t.mean[at+i]
	}
	for from := 0; from < g.w; from += KeyTile {
		n := min(KeyTile, g.w-from)
		tiles := (n + t.set.mr - 1) / t.set.mr
		for i := range tiles {
			r0, r1 := from+split(n, tiles, i), from+split(n, tiles, i+1)
			t.set.transposed(g.packed[(at+r0)*d:(at+r1)*d], r1-r0, g.plain[(at+r0)*d:], d, r1-r0, d)
		}
	}
}

// tile takes n keys of one line into one block.
func (t *gridTask) tile(s *scratch, u *gridBlock, line, from, n int) {
	g, d := t.g, t.g.f+1
	row, h := line*g.w+from, g.next+line
	c := grow(&s.c, (KeyTile+maxRows)*panel)
	part := c[KeyTile*panel:]
	a := &s.t
	a.bks, a.cols, a.k, a.acc, a.b = panel, panel, d, 0, &u.q[0]
	tiles := (n + t.set.mr - 1) / t.set.mr
	for i := range tiles {
		r0, r1 := split(n, tiles, i), split(n, tiles, i+1)
		a.rows, a.aks = r1-r0, r1-r0
		a.a, a.c = &g.packed[(row+r0)*d], &c[r0*panel]
		t.set.tile(a)
	}
	top := s.bias[:]
	for i := range top {
		top[i] = lowest
	}
	s.g = gridTileArgs{c: &c[0], sh: &u.sh[h*panel], sw: &u.sw[from*panel], inv: &t.inv[row], top: &top[0],
		ml: &u.ml[0], ah: &u.ah[h*panel], aw: &u.aw[from*panel], n: n}
	t.set.gridScores(&s.g)
	u.raise(t.set, top)
	clear(u.ml[panel : 2*panel])
	t.set.gridWeights(&s.g)
	t.set.add(&u.ml[2*panel], &u.ml[2*panel], &u.ml[panel], panel)
	a.k, a.acc, a.b, a.aks, a.c = n, 0, &c[0], d, &part[0]
	for r := 0; r < d; r += t.set.mr {
		a.rows = min(t.set.mr, d-r)
		a.a = &g.plain[row*d+r]
		t.set.tile(a)
		t.set.add(&u.o[r*panel], &u.o[r*panel], &part[0], a.rows*panel)
	}
}

// raise moves the reference where the maximum has left it far below.
func (u *gridBlock) raise(set *set, top []float32) {
	moved := false
	for i, x := range top {
		ref := u.ml[i]
		top[i] = 1
		if x > ref+gridSlack || ref == lowest {
			top[i] = expPortable(ref - x)
			u.ml[i] = x
			moved = true
		}
	}
	if !moved {
		return
	}
	set.mul(&u.ml[2*panel], &u.ml[2*panel], &top[0], panel)
	u.rescale(set, top)
}
