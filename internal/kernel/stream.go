package kernel

import "fmt"

// Stream is an attention whose keys and values arrive block by block: the running maxima,
// sums and averages of L queries × Heads. The zero value is ready for Start, and a Stream
// may be started again, keeping its memory. The result has the bits of Attention over all
// keys at once.
type Stream struct {
	// DType BF16, and Int8, multiply in bfloat16, as in AttnArgs; set before Start.
	DType DType

	heads, kvHeads, qk, v, l int

	mem      []float32
	state    []queries
	per      int // query blocks of a state
	groups   int // states a head
	finished bool
	task     streamTask
}

// Start takes l queries: q is l×(heads·qk) with row stride ldq, head h at column h·qk;
// kvHeads 0 means heads. The queries are copied.
func (s *Stream) Start(heads, kvHeads, qk, v, l int, scale float32, q []float32, ldq int) {
	if kvHeads == 0 {
		kvHeads = heads
	}
	if heads%kvHeads != 0 {
		panic(fmt.Sprintf("kernel: stream: %d heads over %d key heads", heads, kvHeads))
	}
	checkMatrix("stream: q", q, ldq, l, heads*qk)
	s.heads, s.kvHeads, s.qk, s.v, s.l, s.finished = heads, kvHeads, qk, v, l, false
	blocks := (l + panel - 1) / panel
	j := attnJob{AttnArgs: AttnArgs{Heads: heads}, blocks: blocks}
	j.groupBlocks(Threads())
	s.per, s.groups = j.per, j.groups
	mem := grow(&s.mem, heads*queryFloats(blocks, qk, v))
	s.state = s.state[:0]
	set, m := current.Load(), getScratch()
	defer putScratch(m)
	for h := range heads {
		for g := range s.groups {
			from := g * s.per * panel
			n := min(l-from, s.per*panel)
			u := newQueries(set, s.DType, mem, n, qk, v)
			u.start(m, q[from*ldq+h*qk:], ldq, scale)
			mem = mem[queryFloats(u.blocks, qk, v):]
			s.state = append(s.state, u)
		}
	}
}

// Add takes n more keys (n×(kvHeads·qk), row stride ldk) and values (n×(kvHeads·v), row
// stride ldv). keyBias is added to their scores, a value a key; nil for none. n must be a
// multiple of KeyTile but in the last call.
func (s *Stream) Add(k []float32, ldk int, v []float32, ldv int, n int, keyBias []float32) {
	if s.finished {
		panic("kernel: stream: keys after a block that is not a multiple of KeyTile")
	}
	checkMatrix("stream: k", k, ldk, n, s.kvHeads*s.qk)
	checkMatrix("stream: v", v, ldv, n, s.kvHeads*s.v)
	if keyBias != nil {
		checkMatrix("stream: key bias", keyBias, n, 1, n)
	}
	s.finished = n%KeyTile != 0
	s.task = streamTask{s: s, k: k, ldk: ldk, v: v, ldv: ldv, n: n, bias: keyBias}
	workers.do(len(s.state), &s.task)
	s.task = streamTask{}
}

// Finish writes the l×(heads·v) result, row stride ldo. A query that saw no key gives zeros.
func (s *Stream) Finish(out []float32, ldo int) {
	checkMatrix("stream: out", out, ldo, s.l, s.heads*s.v)
	for i := range s.state {
		h, g := i/s.groups, i%s.groups
		s.state[i].finish(out[g*s.per*panel*ldo+h*s.v:], ldo)
	}
}

type streamTask struct {
	s    *Stream
	k    []float32
	ldk  int
	v    []float32
	ldv  int
	n    int
	bias []float32
}

func (t *streamTask) run(part int) {
	s := t.s
	kv := part / s.groups / (s.heads / s.kvHeads)
	m := getScratch()
	defer putScratch(m)
	for from := 0; from < t.n; from += KeyTile {
		n := min(KeyTile, t.n-from)
		var b tileBias
		if t.bias != nil {
			b.key1 = t.bias[from : from+n]
		}
		s.state[part].add(m, t.k[from*t.ldk+kv*s.qk:], t.ldk, t.v[from*t.ldv+kv*s.v:], t.ldv, n, b)
	}
}
