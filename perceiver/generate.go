package perceiver

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/tensor"
)

// Generation is how CausalLM.Generate continues a prompt.
type Generation struct {
	Latents int // tokens of the prompt that are latents at the start; zero means as many as fit
	Steps   int // tokens to generate
	// Recompute runs the whole network for every token. The default keeps keys and values of
	// past tokens, which is the same until a latent has to become prefix (the reference's two
	// ways part there, too).
	Recompute bool
	// Next picks the token after logits (V values, scratch); nil picks the largest.
	Next func(logits []float32) int
}

// Generate continues a prompt (1 to max_seq_len ids) and calls emit with each new token and the
// logits it was picked from; emit returns false to stop. Latents grow to max_latents, then the
// prefix grows, then the oldest token drops.
func (m *CausalLM) Generate(ctx context.Context, a *tensor.Arena, prompt []int, g Generation, emit func(id int, logits []float32) bool) error {
	n := len(prompt)
	most := m.Config.MaxSeqLen - m.Config.MaxLatents
	latents := g.Latents
	if latents == 0 {
		latents = min(n, m.Config.MaxLatents)
	}
	prefix := n - latents
	if n == 0 || prefix > most {
		return fmt.Errorf("perceiver: prompt of %d tokens with %d latents: want 1 to %d tokens, all but %d of them latents", n, latents, m.Config.MaxSeqLen, most)
	}
	next := g.Next
	if next == nil {
		next = argmax
	}
	ids := append([]int(nil), prompt...)
	var cache *arCache
	for i := range g.Steps {
		if err := step(ctx, "generate", i, g.Steps); err != nil {
			return err
		}
		if len(ids) > m.Config.MaxSeqLen {
			ids = ids[1:]
		}
		if len(ids)-prefix > m.Config.MaxLatents {
			prefix++
		}
		prefix = min(prefix, most)
		mark := a.Mark()
		logits, err := m.step(ctx, a, ids, prefix, &cache, g.Recompute)
		if err != nil {
			return err
		}
		id := next(logits)
		if id < 0 || id >= m.Config.VocabSize {
			return fmt.Errorf("perceiver: picked token %d, want 0 to %d", id, m.Config.VocabSize-1)
		}
		more := emit(id, logits)
		a.Release(mark)
		if !more {
			return nil
		}
		ids = append(ids, id)
	}
	return nil
}

// step returns the logits of the last token of ids.
func (m *CausalLM) step(ctx context.Context, a *tensor.Arena, ids []int, prefix int, cache **arCache, recompute bool) ([]float32, error) {
	if *cache != nil {
		return m.append(a, *cache, ids[len(ids)-1], len(ids))
	}
	if !recompute {
		*cache = &arCache{layers: make([]arKeys, 1+len(m.layers))}
	}
	t, err := m.forward(ctx, a, [][]int{ids}, prefix, nil, *cache)
	if err != nil {
		return nil, err
	}
	return t.At(0).Row(t.Dim(1) - 1), nil
}

func argmax(x []float32) int {
	best := 0
	for i, v := range x {
		if v > x[best] {
			best = i
		}
	}
	return best
}

// arCache is the keys (not rotated) and values of past tokens: of the cross-attention first,
// then of every self-attention layer. A nil cache keeps nothing.
type arCache struct{ layers []arKeys }

type arKeys struct{ k, v []float32 } // rows of C

func (c *arCache) fill(layer int, k, v tensor.Tensor) {
	if c == nil {
		return
	}
	c.layers[layer] = arKeys{append([]float32(nil), k.Data...), append([]float32(nil), v.Data...)}
}

// add appends one row and drops the oldest beyond most rows.
func (k *arKeys) add(key, value []float32, most int) int {
	c := len(key)
	if n := len(k.k) / c; n >= most {
		drop := (n - most + 1) * c
		k.k = append(k.k[:0], k.k[drop:]...)
		k.v = append(k.v[:0], k.v[drop:]...)
	}
	k.k, k.v = append(k.k, key...), append(k.v, value...)
	return len(k.k) / c
}

// append runs one new token, the last of n, through the network with a cache, and returns its
// logits.
func (m *CausalLM) append(a *tensor.Arena, cache *arCache, id, n int) ([]float32, error) {
	c := m.Config.Channels
	logits := a.New(1, 1, m.Config.VocabSize)
	mark := a.Mark()
	defer a.Release(mark)
	s := arState{pads: []int{0}, n: n}
	x := a.New(1, 1, c)
	m.embedToken(x.Data, id, n-1)
	h := m.qnorm.Forward(a, x)
	m.cross.cached(a, m, x, h, &cache.layers[0], s, m.Config.MaxSeqLen, true)
	m.crossFF.add(a, x)
	for i := range m.layers {
		l := &m.layers[i]
		l.att.cached(a, m, x, l.norm.Forward(a, x), &cache.layers[i+1], s, m.Config.MaxLatents, m.rotates(i))
		l.ff.add(a, x)
	}
	trace := a.Trace
	a.Trace = nil // the stages of a case are those of its first pass
	m.predict(a, logits, x)
	a.Trace = trace
	return logits.Data, finite("logits", logits)
}

// cached adds to x (1×1×C) the attention of its normalised row h over the cache, h included.
func (l *arAttention) cached(a *tensor.Arena, m *CausalLM, x, h tensor.Tensor, kv *arKeys, s arState, most int, rotate bool) {
	mark := a.Mark()
	defer a.Release(mark)
	c := x.Dim(2)
	q := l.q.Forward(a, h)
	n := kv.add(l.k.Forward(a, h).Data, l.v.Forward(a, h).Data, most)
	k := tensor.Of(kv.k, 1, n, c)
	if rotate {
		turned := a.New(1, n, c)
		copy(turned.Data, kv.k)
		k = turned
		m.rotate(k, s, s.n-n)
		m.rotate(q, s, s.n-1)
	}
	l.o.Into(x, m.heads(tensor.Tensor{}).Attend(a, q, k, tensor.Of(kv.v, 1, n, c)), kernel.Epilogue{Add: true})
}

// RunCase implements Network: arguments input_ids (B×n), attention_mask and prefix_len. A case
// with a "greedy" entry also generates from row 0, both ways: greedy_recomputed.ids and
// .last_logits, greedy_cached.ids and .last_logits.
func (m *CausalLM) RunCase(ctx context.Context, a *tensor.Arena, in CaseInput) error {
	ids, err := in.tokens("input_ids")
	if err != nil {
		return err
	}
	prefix := in.list("prefix_len")
	if len(prefix) != 1 {
		return fmt.Errorf("perceiver: case: no number prefix_len")
	}
	if _, err := m.Forward(ctx, a, ids, prefix[0], in.mask("attention_mask")); err != nil {
		return err
	}
	var extra struct {
		Greedy *struct {
			Latents int `json:"num_latents"`
			Steps   int `json:"steps"`
		} `json:"greedy"`
	}
	if len(in.Case) == 0 {
		return nil
	}
	if err := json.Unmarshal(in.Case, &extra); err != nil {
		return fmt.Errorf("perceiver: case: %w", err)
	}
	if extra.Greedy == nil {
		return nil
	}
	g := Generation{Latents: extra.Greedy.Latents, Steps: extra.Greedy.Steps}
	if err := m.traceGreedy(ctx, a, "greedy_cached", ids[0], g); err != nil {
		return err
	}
	g.Recompute = true
	return m.traceGreedy(ctx, a, "greedy_recomputed", ids[0], g)
}

// traceGreedy emits the ids and logits of a generation.
func (m *CausalLM) traceGreedy(ctx context.Context, a *tensor.Arena, name string, prompt []int, g Generation) error {
	var ids, logits []float32
	for _, id := range prompt {
		ids = append(ids, float32(id))
	}
	trace := a.Trace
	a.Trace = nil
	err := m.Generate(ctx, a, prompt, g, func(id int, l []float32) bool {
		ids, logits = append(ids, float32(id)), append(logits, l...)
		return true
	})
	a.Trace = trace
	if err != nil {
		return err
	}
	a.Emit(name+".ids", tensor.Of(ids, 1, len(ids)))
	a.Emit(name+".last_logits", tensor.Of(logits, 1, g.Steps, m.Config.VocabSize))
	return nil
}
