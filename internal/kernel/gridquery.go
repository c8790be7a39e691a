package kernel

import "sync"

// GridQuery is attention whose queries are the rows of an H×W grid with a separable position
// code, x[(h,w)] = [features, code_h(h), code_w(w)], each normalised by its own mean and
// deviation; keys and values are given, one head. With keys folded into the space of x, the
// score of row (h,w) for key n is
//
//	s = (f·K_n + SH[n,h] + SW[n,w] + KMean[n]·mean)·inv + Bias[n]
//
// f, mean and inv (1/deviation) being those of the row. After Start a GridQuery does not
// change and Attend may be called from many goroutines. Bits depend on the row, the tables
// and the values alone.
type GridQuery struct {
	a       GridQueryArgs
	set     *set
	packed  []float32 // [key tiles][tiles][F+1][rows]
	sh      []float32 // [H][S]
	sw      []float32 // [⌈W/32⌉][S][32]
	bias    []float32 // S
	wBlocks int
}

// GridQueryArgs is what a GridQuery starts with.
type GridQueryArgs struct {
	S, H, W, F, V int
	K             []float32 // S×F, row stride LDK: folded keys of the features, scale included
	LDK           int
	KMean         []float32 // S: minus the sum of the whole folded key
	SH, SW        []float32 // S×H and S×W, contiguous: inner products with the position codes
	Bias          []float32 // S: what does not depend on the row; nil for none
	Values        []float32 // S×V, row stride LDV; kept, not copied
	LDV           int
}

// gridQueryTile is a tile of n keys by 32 queries of one line. The assembly knows the offsets.
type gridQueryTile struct {
	c    *float32 // 0: [n][32]
	sh   *float32 // 8: [n]
	sw   *float32 // 16: [n][32]
	bias *float32 // 24: [n]
	inv  *float32 // 32: [32]
	n    int      // 40
}

// Start lays the tables out. A GridQuery may be started again, keeping its memory.
func (g *GridQuery) Start(a GridQueryArgs) {
	checkMatrix("grid query: k", a.K, a.LDK, a.S, a.F)
	checkMatrix("grid query: k mean", a.KMean, a.S, 1, a.S)
	checkMatrix("grid query: sh", a.SH, a.H, a.S, a.H)
	checkMatrix("grid query: sw", a.SW, a.W, a.S, a.W)
	checkMatrix("grid query: values", a.Values, a.LDV, a.S, a.V)
	checkVector("grid query: bias", a.Bias, a.S)
	g.a, g.set, g.wBlocks = a, current.Load(), (a.W+panel-1)/panel
	clear(grow(&g.bias, a.S)[copy(g.bias, a.Bias):])
	g.set.transposed(grow(&g.sh, a.H*a.S), a.S, a.SH, a.H, a.S, a.H)
	clear(grow(&g.sw, g.wBlocks*a.S*panel))
	for b := range g.wBlocks {
		for n := range a.S {
			copy(g.sw[(b*a.S+n)*panel:][:panel], a.SW[n*a.W+b*panel:(n+1)*a.W])
		}
	}
	s := getScratch()
	defer putScratch(s)
	d := a.F + 1
	grow(&g.packed, a.S*d)
	plain := grow(&s.x, KeyTile*d)
	for from := 0; from < a.S; from += KeyTile {
		n := min(KeyTile, a.S-from)
		for i := range n {
			copy(plain[i*d:i*d+a.F], a.K[(from+i)*a.LDK:])
			plain[i*d+a.F] = a.KMean[from+i]
		}
		u := queries{set: g.set, qk: d, depth: d}
		copy(g.packed[from*d:], u.packKeys(s, plain, d, n))
	}
}

// Attend writes softmax(s)·Values of the grid's lines [line, line+lines): out is
// (lines·W)×V with row stride ldo, f (lines·W)×F with row stride ldf, mean and inv a value a
// row.
func (g *GridQuery) Attend(out []float32, ldo int, f []float32, ldf int, mean, inv []float32, line, lines int) {
	rows := lines * g.a.W
	checkMatrix("grid query: out", out, ldo, rows, g.a.V)
	checkMatrix("grid query: features", f, ldf, rows, g.a.F)
	checkMatrix("grid query: mean", mean, rows, 1, rows)
	checkMatrix("grid query: inv", inv, rows, 1, rows)
	if line < 0 || line+lines > g.a.H {
		panic("kernel: grid query: lines outside the grid")
	}
	t := gridQueries.Get().(*gridQueryTask)
	*t = gridQueryTask{g: g, out: out, ldo: ldo, f: f, ldf: ldf, mean: mean, inv: inv, line: line}
	t.groups = (g.wBlocks + groupMax - 1) / groupMax
	workers.do(lines*t.groups, t)
	*t = gridQueryTask{}
	gridQueries.Put(t)
}

// gridQueryTask is an Attend divided into lines × groups of blocks of 32 rows.
type gridQueryTask struct {
	g         *GridQuery
	out, f    []float32
	ldo, ldf  int
	mean, inv []float32
	line      int // first line
	groups    int // groups a line
}

var gridQueries = sync.Pool{New: func() any { return new(gridQueryTask) }}

func (t *gridQueryTask) run(part int) {
	g := t.g
	line, group := part/t.groups, part%t.groups
	b0, b1 := split(g.wBlocks, t.groups, group), split(g.wBlocks, t.groups, group+1)
	from, to := b0*panel, min(g.a.W, b1*panel)
	s := getScratch()
	defer putScratch(s)
	d := g.a.F + 1
	u := newQueries(g.set, F32, grow(&s.x, queryFloats(b1-b0, d, g.a.V)), to-from, d, g.a.V)
	t.pack(s, &u, line*g.a.W+from)
	c := grow(&s.c, (KeyTile+maxRows)*panel)
	for k := 0; k < g.a.S; k += KeyTile {
		n := min(KeyTile, g.a.S-k)
		for b := range u.blocks {
			cols := panelWidth(min(panel, u.n-b*panel), 0)
			u.scores(s, c, g.packed[k*d:], b, n, cols)
			s.q = gridQueryTile{c: &c[0], sh: &g.sh[(t.line+line)*g.a.S+k], sw: &g.sw[((b0+b)*g.a.S+k)*panel],
				bias: &g.bias[k], inv: &s.y[b*panel], n: n}
			g.set.gridBias(&s.q)
			u.fold(s, c, b, n, cols, g.a.Values[k*g.a.LDV:], g.a.LDV)
		}
	}
	u.finish(t.out[(line*g.a.W+from)*t.ldo:], t.ldo)
}

// pack lays out the group's rows, the mean as one more channel, and leaves inv in s.y.
func (t *gridQueryTask) pack(s *scratch, u *queries, row int) {
	clear(u.q)
	clear(u.o)
	inv := grow(&s.y, u.blocks*panel)
	clear(inv[copy(inv, t.inv[row:row+u.n]):])
	f := u.qk - 1
	for b := range u.blocks {
		for i := range panel {
			u.ml[b*2*panel+i] = lowest
		}
		n := min(panel, u.n-b*panel)
		at := row + b*panel
		q := u.q[b*u.qk*panel:]
		if f > 0 {
			t.g.set.transposed(q, panel, t.f[at*t.ldf:], t.ldf, n, f)
		}
		copy(q[f*panel:], t.mean[at:at+n])
	}
}
