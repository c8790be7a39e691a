package kernel

import (
	"fmt"
	"sync"
)

// KeyTile is the number of keys that attention takes at a time. The online softmax is
// folded tile by tile, so blocks given to a Stream begin at multiples of it.
const KeyTile = 224

// AttnArgs describes one attention: for each query head h, out_h = softmax(Scale·q_h·k_gᵀ +
// biases)·v_g with g = h/(Heads/KVHeads).
type AttnArgs struct {
	Heads, KVHeads int     // KVHeads 0 means Heads
	QK, V          int     // width of a head's queries and keys, and of its values
	Scale          float32 // multiplies the scores
	L, S           int     // queries, keys

	Q, K, VV      []float32 // L×(Heads·QK), S×(KVHeads·QK), S×(KVHeads·V): head h at column h·QK, h·V
	LDQ, LDK, LDV int       // row strides

	Out []float32 // L×(Heads·V); must not overlap K or VV
	LDO int

	KeyBias       []float32 // added to each key's scores: S values, head h's at h·KeyBiasStride; nil for none
	KeyBiasStride int       // 0: all heads share KeyBias
	Mask          []float32 // L×S, added to the scores of all heads; nil for none
	LDM           int       // row stride of Mask

	// Causal hides key j from query i unless j ≤ i+S−L (queries are the last L positions).
	Causal bool

	// DType BF16, and Int8, round queries, keys, values and attention weights to bfloat16
	// before they are multiplied, where the machine has such products; sums and softmax stay
	// float32. Every other value means F32.
	DType DType
}

// Attention computes a.Out. Nothing of size L×S is held: keys are taken KeyTile at a time
// under an online softmax.
//
// Biases and masks are finite: −MaxFloat32 hides a key, sums of biases are cut off there,
// and a query whose keys are all hidden gets the plain average of the values. Keys hidden by
// Causal count as hidden the same way.
//
// The bits of a query's result depend on its own row, the keys and the values alone.
func Attention(a *AttnArgs) {
	if a.L == 0 || a.Heads == 0 {
		return
	}
	j := getAttn()
	j.AttnArgs = *a
	j.init()
	j.groupBlocks(Threads())
	workers.do(j.Heads*j.groups, j)
	j.release()
}

// attnJob is an attention divided into heads × groups of query blocks.
type attnJob struct {
	AttnArgs
	set    *set
	blocks int // blocks of 32 queries
	per    int // blocks of a group
	groups int // groups a head
}

var attns struct {
	mu   sync.Mutex
	free []*attnJob
}

func getAttn() *attnJob {
	attns.mu.Lock()
	defer attns.mu.Unlock()
	if n := len(attns.free); n > 0 {
		j := attns.free[n-1]
		attns.free = attns.free[:n-1]
		return j
	}
	return new(attnJob)
}

func (j *attnJob) release() {
	*j = attnJob{}
	attns.mu.Lock()
	attns.free = append(attns.free, j)
	attns.mu.Unlock()
}

// init fills defaults and checks shapes.
func (j *attnJob) init() {
	if j.KVHeads == 0 {
		j.KVHeads = j.Heads
	}
	if j.Heads%j.KVHeads != 0 {
		panic(fmt.Sprintf("kernel: attention: %d heads over %d key heads", j.Heads, j.KVHeads))
	}
	checkMatrix("attention: q", j.Q, j.LDQ, j.L, j.Heads*j.QK)
	checkMatrix("attention: k", j.K, j.LDK, j.S, j.KVHeads*j.QK)
	checkMatrix("attention: v", j.VV, j.LDV, j.S, j.KVHeads*j.V)
	checkMatrix("attention: out", j.Out, j.LDO, j.L, j.Heads*j.V)
	if j.KeyBias != nil {
		checkMatrix("attention: key bias", j.KeyBias, j.KeyBiasStride, 1, (j.Heads-1)*j.KeyBiasStride+j.S)
	}
	if j.Mask != nil {
		checkMatrix("attention: mask", j.Mask, j.LDM, j.L, j.S)
	}
	j.set = current.Load()
	j.blocks = (j.L + panel - 1) / panel
}

// groupMax bounds a group's queries and sums to the second-level cache.
const groupMax = 8

// groupBlocks chooses the blocks a part computes together, sharing packed keys.
func (j *attnJob) groupBlocks(threads int) {
	want := 1
	if threads > 1 {
		want = (2*threads + j.Heads - 1) / j.Heads
	}
	j.per = max(1, min(groupMax, (j.blocks+want-1)/want))
	j.groups = (j.blocks + j.per - 1) / j.per
}

// queries is the running state of a group of query blocks of one head.
type queries struct {
	set    *set
	bf16   bool // multiply in bfloat16
	qk, v  int
	depth  int       // 32-bit groups of a query: qk values, or pairs of bfloat16
	n      int       // queries; the last block may be short
	blocks int       // blocks of 32
	q      []float32 // [blocks][depth][32], scaled
	o      []float32 // [blocks][v+1][32]: weighted sums of values, then of weights
	ml     []float32 // [blocks][2][32]: running maximum, sum of the latest tile
}

// queryFloats is the memory of a group's state.
func queryFloats(blocks, qk, v int) int { return blocks * panel * (qk + v + 3) }

func newQueries(set *set, dt DType, mem []float32, n, qk, v int) queries {
	b := (n + panel - 1) / panel
	u := queries{set: set, qk: qk, v: v, depth: qk, n: n, blocks: b}
	if (dt == BF16 || dt == Int8) && set.dots != nil {
		u.bf16, u.depth = true, (qk+1)/2
	}
	nq, no := b*u.depth*panel, b*(v+1)*panel
	u.q, u.o, u.ml = mem[:nq], mem[nq:nq+no], mem[nq+no:nq+no+2*panel*b]
	return u
}

// sums returns the sums of block b: v rows of values, then one of weights.
func (u *queries) sums(b int) []float32 { return u.o[b*(u.v+1)*panel : (b+1)*(u.v+1)*panel] }

// start packs scaled queries (n×qk, row stride ldq) and clears the sums.
func (u *queries) start(s *scratch, q []float32, ldq int, scale float32) {
	clear(u.o)
	for b := range u.blocks {
		ml := u.ml[b*2*panel:]
		for i := range panel {
			ml[i], ml[panel+i] = lowest, 0
		}
		dst := u.q[b*u.depth*panel : (b+1)*u.depth*panel]
		n := min(panel, u.n-b*panel)
		if n < panel {
			clear(dst)
		}
		if len(dst) == 0 {
			continue
		}
		if u.bf16 {
			row, groups := grow(&s.y, u.qk), grow(&s.b, n*u.depth)
			for i := range n {
				copy(row, q[(b*panel+i)*ldq:])
				Scale(row, scale)
				roundRow(s, u.set, groups[i*u.depth:(i+1)*u.depth], row)
			}
			u.set.transposed(dst, panel, groups, u.depth, n, u.depth)
			continue
		}
		u.set.transposed(dst, panel, q[b*panel*ldq:], ldq, n, u.qk)
		u.set.scale(&dst[0], len(dst), scale)
	}
}

// finish writes the averages: n×v, row stride ldo. A query that saw no key gives zeros.
func (u *queries) finish(out []float32, ldo int) {
	for b := range u.blocks {
		o := u.sums(b)
		inv := o[u.v*panel:]
		for i, sum := range inv {
			if sum != 0 {
				inv[i] = 1 / sum
			}
		}
		for r := range u.v {
			u.set.mul(&o[r*panel], &o[r*panel], &inv[0], panel)
		}
		u.set.transposed(out[b*panel*ldo:], ldo, o, panel, u.v, min(panel, u.n-b*panel))
	}
}

func (j *attnJob) run(part int) {
	h, g := part/j.groups, part%j.groups
	kv := h / (j.Heads / j.KVHeads)
	from := g * j.per * panel
	to := min(j.L, from+j.per*panel)
	s := getScratch()
	defer putScratch(s)
	blocks := (to - from + panel - 1) / panel
	u := newQueries(j.set, j.DType, grow(&s.x, queryFloats(blocks, j.QK, j.V)), to-from, j.QK, j.V)
	j.attend(s, &u, h, kv, from, j.Causal)
	if j.Causal && u.hidden() {
		j.attend(s, &u, h, kv, from, false)
	}
	u.finish(j.Out[from*j.LDO+h*j.V:], j.LDO)
}

// attend runs the group over all keys; with skip, tiles that Causal hides from the whole
// group are passed over, which changes nothing for a query that sees any key.
func (j *attnJob) attend(s *scratch, u *queries, h, kv, from int, skip bool) {
	u.start(s, j.Q[from*j.LDQ+h*j.QK:], j.LDQ, j.Scale)
	for t := 0; t < j.S; t += KeyTile {
		if skip && t > from+u.n-1+j.S-j.L {
			break
		}
		n := min(KeyTile, j.S-t)
		b := tileBias{from: from, key: t}
		if j.KeyBias != nil {
			b.key1 = j.KeyBias[h*j.KeyBiasStride+t:][:n]
		}
		if j.Mask != nil {
			b.mask, b.ldm = j.Mask, j.LDM
		}
		if j.Causal {
			b.causal, b.diagonal = true, j.S-j.L
		}
		u.add(s, j.K[t*j.LDK+kv*j.QK:], j.LDK, j.VV[t*j.LDV+kv*j.V:], j.LDV, n, b)
	}
}

// hidden reports whether some query has met no key but hidden ones.
func (u *queries) hidden() bool {
	for i := range u.n {
		if u.ml[i/panel*2*panel+i%panel] == lowest {
			return true
		}
	}
	return false
}

// tileBias is what is added to a tile of scores.
type tileBias struct {
	from, key int       // first query and key of the tile
	key1      []float32 // a value a key; nil for none
	mask      []float32 // queries × keys; nil for none
	ldm       int
	causal    bool
	diagonal  int // query i sees keys ≤ i+diagonal
}

// apply adds to scores c[key][32] of n keys and the queries of block b.
func (t *tileBias) apply(s *scratch, set *set, c []float32, b, n, queries int) {
	if t.key1 != nil {
		set.keyBias(&c[0], &t.key1[0], n)
	}
	if t.mask != nil {
		m := grow(&s.b, n*panel)
		if queries < panel {
			clear(m)
		}
		set.transposed(m, panel, t.mask[(t.from+b*panel)*t.ldm+t.key:], t.ldm, queries, n)
		set.addLowest(&c[0], &m[0], n*panel)
	}
	if t.causal {
		for i := range queries {
			for k := max(0, t.from+b*panel+i+t.diagonal+1-t.key); k < n; k++ {
				c[k*panel+i] = lowest
			}
		}
	}
}

// add takes n ≤ KeyTile more keys and values into the running averages. Scores are computed
// transposed, [key][query], so that they are already packed for the product with the
// values and softmax runs down the columns. A tile's sums are gathered from zero before they
// join the running ones: many small weights next to a large one would be lost otherwise.
func (u *queries) add(s *scratch, k []float32, ldk int, v []float32, ldv, n int, bias tileBias) {
	if u.n <= smallRows && !u.bf16 && u.v%halfPanel == 0 && u.qk > 0 {
		u.addFew(s, k, ldk, v, ldv, n, bias)
		return
	}
	pk := u.packKeys(s, k, ldk, n)
	v, ldv = u.packValues(s, v, ldv, n)
	c := grow(&s.c, (KeyTile+maxRows)*panel)
	for b := range u.blocks {
		queries := min(panel, u.n-b*panel)
		cols := panelWidth(queries, 0)
		u.scores(s, c, pk, b, n, cols)
		bias.apply(s, u.set, c, b, n, queries)
		u.fold(s, c, b, n, cols, v, ldv)
	}
}

// packValues returns n values as fold multiplies them, with their row stride: rounded to pairs,
// or moved where their rows do not fall on the same few sets of the cache.
func (u *queries) packValues(s *scratch, v []float32, ldv, n int) ([]float32, int) {
	const sets = 128 // values; strides that are multiples fall on few sets
	ld := (u.v+31)/32*32 + 16
	switch {
	case u.v == 0:
		return v, ldv
	case u.bf16:
		pairs := grow(&s.y, (n+1)/2*ld)
		u.set.dots.pairRows(&pairs[0], ld, &v[0], ldv, n, u.v)
		return pairs, ld
	case ldv%sets == 0 && u.blocks > 1:
		rows := grow(&s.y, n*ld)
		for i := range n {
			copy(rows[i*ld:i*ld+u.v], v[i*ldv:])
		}
		return rows, ld
	}
	return v, ldv
}

// fold takes the scores c of n keys and block b, and the keys' values, into the sums.
func (u *queries) fold(s *scratch, c []float32, b, n, cols int, v []float32, ldv int) {
	part := c[KeyTile*panel:]
	o, ml := u.sums(b), u.ml[b*2*panel:(b+1)*2*panel]
	clear(ml[panel:])
	u.set.softmaxTile(&c[0], &ml[0], &o[0], n, u.v+1)
	u.set.add(&o[u.v*panel], &o[u.v*panel], &ml[panel], panel)
	t, tile := &s.t, u.set.tile
	*t = tileArgs{k: n, bks: panel, aks: ldv, b: &c[0], c: &part[0], cols: cols}
	if u.bf16 {
		t.k, tile = (n+1)/2, u.set.dots.tileBF16
		p := grow(&s.b, t.k*panel)
		u.set.dots.pairRows(&p[0], panel, &c[0], panel, n, panel)
		t.b = &p[0]
	}
	tiles := (u.v + u.set.mr - 1) / u.set.mr
	for i := range tiles {
		r := split(u.v, tiles, i)
		t.rows = split(u.v, tiles, i+1) - r
		t.a = &v[r]
		tile(t)
		u.set.add(&o[r*panel], &o[r*panel], &part[0], t.rows*panel)
	}
}

// packKeys lays n keys out as tiles [depth][rows].
func (u *queries) packKeys(s *scratch, k []float32, ldk, n int) []float32 {
	d := u.depth
	pk := grow(&s.a, n*d)
	if u.bf16 {
		groups := grow(&s.b, n*d)
		for i := range n {
			roundRow(s, u.set, groups[i*d:(i+1)*d], k[i*ldk:i*ldk+u.qk])
		}
		k, ldk = groups, d
	}
	tiles := (n + u.set.mr - 1) / u.set.mr
	for i := range tiles {
		r0, r1 := split(n, tiles, i), split(n, tiles, i+1)
		u.set.transposed(pk[r0*d:r1*d], r1-r0, k[r0*ldk:], ldk, r1-r0, d)
	}
	return pk
}

// scores writes k·qᵀ of a packed tile of n keys and block b into c.
func (u *queries) scores(s *scratch, c, pk []float32, b, n, cols int) {
	d := u.depth
	if d == 0 {
		clear(c[:n*panel])
		return
	}
	tile := u.set.tile
	if u.bf16 {
		tile = u.set.dots.tileBF16
	}
	t := &s.t
	*t = tileArgs{bks: panel, cols: cols}
	tiles, parts := (n+u.set.mr-1)/u.set.mr, (d+kBlock-1)/kBlock
	for p := range parts {
		k0, k1 := split(d, parts, p), split(d, parts, p+1)
		t.k, t.acc = k1-k0, k0
		t.b = &u.q[(b*d+k0)*panel]
		for i := range tiles {
			r0, r1 := split(n, tiles, i), split(n, tiles, i+1)
			t.rows, t.aks = r1-r0, r1-r0
			t.a = &pk[r0*d+k0*t.rows]
			t.c = &c[r0*panel]
			tile(t)
		}
	}
}
