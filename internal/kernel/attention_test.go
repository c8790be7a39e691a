package kernel

import (
	"fmt"
	"math"
	"testing"
)

// attend64 is the float64 oracle of one AttnArgs.
func attend64(a *AttnArgs) []float64 {
	kvHeads := a.KVHeads
	if kvHeads == 0 {
		kvHeads = a.Heads
	}
	out := make([]float64, a.L*a.Heads*a.V)
	p := make([]float64, a.S)
	for h := range a.Heads {
		kv := h / (a.Heads / kvHeads)
		for i := range a.L {
			top := math.Inf(-1)
			for j := range a.S {
				s := 0.0
				for c := range a.QK {
					s += float64(a.Q[i*a.LDQ+h*a.QK+c]) * float64(a.K[j*a.LDK+kv*a.QK+c])
				}
				s *= float64(a.Scale)
				if a.KeyBias != nil {
					s = max(float64(float32(s)+a.KeyBias[h*a.KeyBiasStride+j]), -math.MaxFloat32)
				}
				if a.Mask != nil {
					s = max(float64(float32(s)+a.Mask[i*a.LDM+j]), -math.MaxFloat32)
				}
				if a.Causal && j > i+a.S-a.L {
					s = -math.MaxFloat32
				}
				p[j] = s
				top = max(top, s)
			}
			sum := 0.0
			for j := range p {
				p[j] = math.Exp(p[j] - top)
				sum += p[j]
			}
			for c := range a.V {
				s := 0.0
				for j := range p {
					s += p[j] * float64(a.VV[j*a.LDV+kv*a.V+c])
				}
				out[i*a.Heads*a.V+h*a.V+c] = s / sum
			}
		}
	}
	return out
}

type attnCase struct {
	heads, kv, qk, v, l, s   int
	bias, perHead, mask, low bool
	causal                   bool
}

var attnCases = []attnCase{
	{heads: 1, qk: 1, v: 1, l: 1, s: 1},
	{heads: 2, qk: 3, v: 5, l: 7, s: 9},
	{heads: 3, qk: 16, v: 33, l: 17, s: 225, bias: true},
	{heads: 4, kv: 2, qk: 20, v: 14, l: 33, s: 230, bias: true, perHead: true},
	{heads: 1, qk: 261, v: 261, l: 40, s: 500},
	{heads: 2, qk: 8, v: 8, l: 70, s: 300, mask: true},
	{heads: 2, qk: 8, v: 8, l: 70, s: 300, mask: true, bias: true, low: true},
	{heads: 2, qk: 12, v: 16, l: 300, s: 300, causal: true},
	{heads: 2, qk: 12, v: 16, l: 40, s: 600, causal: true, bias: true, low: true},
	{heads: 5, qk: 64, v: 64, l: 1, s: 260},
	{heads: 4, kv: 1, qk: 64, v: 80, l: 1, s: 500, bias: true},
	{heads: 2, qk: 10, v: 48, l: 4, s: 300, mask: true, causal: true},
	{heads: 2, qk: 64, v: 70, l: 3, s: 460, causal: true},
}

// build makes arguments of random values in guarded memory.
func (c attnCase) build() (*AttnArgs, func(t *testing.T, what string)) {
	kv := c.kv
	if kv == 0 {
		kv = c.heads
	}
	a := &AttnArgs{Heads: c.heads, KVHeads: c.kv, QK: c.qk, V: c.v, L: c.l, S: c.s, Causal: c.causal, Scale: float32(1 / math.Sqrt(float64(c.qk)))}
	a.LDQ, a.LDK, a.LDV, a.LDO = c.heads*c.qk+1, kv*c.qk+2, kv*c.v+3, c.heads*c.v+1
	var checks [4]func(*testing.T, string)
	a.Q, checks[0] = guardRows(noise(1, c.l*c.heads*c.qk), c.l, c.heads*c.qk, a.LDQ, 3)
	a.K, checks[1] = guardRows(noise(2, c.s*kv*c.qk), c.s, kv*c.qk, a.LDK, 5)
	a.VV, checks[2] = guardRows(noise(3, c.s*kv*c.v), c.s, kv*c.v, a.LDV, 7)
	a.Out, checks[3] = guardRows(make([]float32, c.l*c.heads*c.v), c.l, c.heads*c.v, a.LDO, 1)
	if c.bias {
		n := c.s
		if c.perHead {
			a.KeyBiasStride, n = c.s, c.s*c.heads
		}
		a.KeyBias = noise(4, n)
	}
	if c.mask {
		a.Mask, a.LDM = noise(5, c.l*c.s), c.s
	}
	if c.low { // hide half the keys, and every key of query 1
		for i := range a.KeyBias {
			if i%2 == 0 || !c.mask && i < c.s-5 {
				a.KeyBias[i] = lowest
			}
		}
		if c.mask {
			for j := range c.s {
				a.Mask[c.s+j] = lowest
			}
		}
	}
	return a, func(t *testing.T, what string) {
		t.Helper()
		for _, f := range checks {
			f(t, what)
		}
	}
}

func TestAttentionAgainstFloat64(t *testing.T) {
	forEachSet(t, func(t *testing.T) {
		for _, dt := range []DType{F32, BF16} {
			for _, c := range attnCases {
				name := fmt.Sprintf("%v %+v", dt, c)
				a, check := c.build()
				a.DType = dt
				want := attend64(a)
				Attention(a)
				check(t, name)
				tol := 5e-6
				if dt == BF16 {
					tol = 0.04
				}
				for i := range a.L {
					for j := range a.Heads * a.V {
						if got, want := float64(a.Out[i*a.LDO+j]), want[i*a.Heads*a.V+j]; !(math.Abs(got-want) <= tol) {
							t.Fatalf("%s [%d,%d]: %g, want %g", name, i, j, got, want)
						}
					}
				}
			}
		}
	})
}

// A query whose keys are all hidden, even twice over, gets the plain average.
func TestAttentionAllHidden(t *testing.T) {
	forEachSet(t, func(t *testing.T) {
		c := attnCase{heads: 2, qk: 4, v: 3, l: 2, s: 450, bias: true, mask: true}
		a, _ := c.build()
		for i := range a.KeyBias {
			a.KeyBias[i] = lowest
		}
		for i := range a.Mask {
			a.Mask[i] = lowest
		}
		Attention(a)
		for j := range 6 {
			mean := 0.0
			for k := range a.S {
				mean += float64(a.VV[k*a.LDV+j]) / float64(a.S)
			}
			if got := float64(a.Out[j]); math.Abs(got-mean) > 1e-6 {
				t.Errorf("column %d: %g, want the average %g", j, got, mean)
			}
		}
	})
}

// Streaming in blocks, and attending to fewer queries at a time, keeps every bit.
func TestStreamHasTheBitsOfAttention(t *testing.T) {
	forEachSet(t, func(t *testing.T) {
		for _, v := range []int{37, 48} {
			streamBits(t, attnCase{heads: 3, qk: 20, v: v, l: 75, s: 1000, bias: true})
		}
	})
}

func streamBits(t *testing.T, c attnCase) {
	a, _ := c.build()
	Attention(a)
	want := append([]float32(nil), a.Out...)
	for _, step := range []int{KeyTile, 2 * KeyTile, 1120} {
		var s Stream
		SetThreads(1 + step/KeyTile%3)
		s.Start(c.heads, 0, c.qk, c.v, c.l, a.Scale, a.Q, a.LDQ)
		for from := 0; from < c.s; from += step {
			n := min(step, c.s-from)
			s.Add(a.K[from*a.LDK:], a.LDK, a.VV[from*a.LDV:], a.LDV, n, a.KeyBias[from:from+n])
		}
		s.Finish(a.Out, a.LDO)
		SetThreads(0)
		bitsEqual(t, fmt.Sprintf("blocks of %d", step), a.Out, want)
	}
	for _, l := range []int{1, 2, 5, 16, 20, 33} {
		b := *a
		from := 75 - l
		b.L, b.Q = l, a.Q[from*a.LDQ:]
		b.Out = make([]float32, l*a.LDO)
		Attention(&b)
		for i := range l {
			w := want[(from+i)*a.LDO:][:c.heads*c.v]
			bitsEqual(t, fmt.Sprintf("%d queries, query %d", l, i), b.Out[i*a.LDO:][:c.heads*c.v], w)
		}
	}
}
