package resampler

import (
	"fmt"
	"math"
	"sync"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/internal/nn"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// pool is the Qwen-VL family: learned queries attend once over the tokens, keys carry a 2-D
// sin-cos position and values do not. Qwen-VL stores the table for the queries' grid and
// resizes it to the keys'; MiniCPM-V computes it for each picture's own grid.
type pool struct {
	c       Config
	kvProj  *nn.Linear // nil when the widths agree
	normKV  norm
	queries tensor.Tensor // ln_q(query), Latents×Width, kept for Trace
	q       tensor.Tensor // projected queries, Latents×Width: the same for every picture
	k, v    nn.Linear
	out     nn.Linear
	post    norm
	proj    nn.Linear

	stored  tensor.Tensor // QwenVL: the stored table, grid·grid×Width
	resized resized
	axis    axisTable // MiniCPMV
}

func newPool(s weights.Scope, c Config) *pool {
	p := &pool{c: c}
	if c.In != c.Width {
		kv := nn.NewLinearNoBias(s.At("kv_proj"), c.In, c.Width)
		p.kvProj = &kv
	}
	p.normKV = layerNorm(s.At("ln_kv"), c.Width, c.Eps)
	p.post = layerNorm(s.At("ln_post"), c.Width, c.Eps)
	parts := nn.SplitLinear(s.At("attn"), "in_proj_weight", "in_proj_bias", c.Width, c.Width, c.Width, c.Width)
	p.k, p.v = parts[1], parts[2]
	p.out = nn.NewLinear(s.At("attn").At("out_proj"), c.Width, c.Width)
	p.proj = nn.Linear{W: s.LinearT("proj", c.Width, c.Width)}

	p.queries = s.Tensor("query", c.Latents, c.Width)
	layerNorm(s.At("ln_q"), c.Width, c.Eps).apply(p.queries.Data, p.queries.Data, c.Latents)
	placed := p.queries.Clone()
	if c.Kind == QwenVL {
		p.stored = s.Tensor("pos_embed", c.Latents, c.Width)
		kernel.Add(placed.Data, placed.Data, p.stored.Data)
	} else {
		s.Ignore("pos_embed") // a buffer in some exports; the table is computed
		p.axis = newAxisTable(max(c.MaxGrid, 1), c.Width/2)
	}
	p.q = tensor.New(c.Latents, c.Width)
	parts[0].Into(p.q, placed, kernel.Epilogue{})
	return p
}

// maxGridSide bounds a picture's patch grid: far above any tower.
const maxGridSide = 4096

func (p *pool) check(in Input) error {
	n, v := in.X.Shape[0], in.X.Shape[1]
	if p.c.Kind == QwenVL {
		if g := squareRoot(v); g*g != v {
			return fmt.Errorf("resampler: input: %d tokens are no square grid", v)
		}
		return nil
	}
	if len(in.Sizes) != n {
		return fmt.Errorf("resampler: input: %d patch grids for %d pictures", len(in.Sizes), n)
	}
	for i, s := range in.Sizes {
		if s[0] < 1 || s[1] < 1 || s[0] > maxGridSide || s[1] > maxGridSide || s[0]*s[1] > v {
			return fmt.Errorf("resampler: input: patch grid %d×%d of picture %d does not fit %d tokens", s[0], s[1], i, v)
		}
	}
	return nil
}

func squareRoot(v int) int { return int(math.Sqrt(float64(v)) + 0.5) }

func (p *pool) forward(a *tensor.Arena, in Input) tensor.Tensor {
	n, c := in.X.Dim(0), p.c
	out := a.New(n, c.Latents, c.Width)
	mark := a.Mark()
	defer a.Release(mark)
	a.Emit("ln_q", p.queries)
	kv := a.New(n, in.X.Dim(1), c.Width)
	x := in.X
	if p.kvProj != nil {
		p.kvProj.Into(kv, x, kernel.Epilogue{})
		x = kv
	}
	p.normKV.apply(kv.Data, x.Data, x.Rows())
	a.Emit("ln_kv", kv)
	v := p.v.Forward(a, kv)
	p.place(a, kv, in.Sizes) // values carry no positions
	k := p.k.Forward(a, kv)
	o := a.New(n, c.Latents, c.Width)
	args := kernel.AttnArgs{
		Heads: c.Heads, KVHeads: c.Heads, QK: c.HeadDim, V: c.HeadDim,
		Scale: float32(1 / math.Sqrt(float64(c.HeadDim))), L: c.Latents, Q: p.q.Data,
		LDQ: c.Width, LDK: c.Width, LDV: c.Width, LDO: c.Width, DType: p.out.W.DType(),
	}
	for i := range n {
		args.S = kv.Dim(1)
		if c.Kind == MiniCPMV {
			args.S = in.Sizes[i][0] * in.Sizes[i][1]
		}
		args.K, args.VV, args.Out = k.At(i).Data, v.At(i).Data, o.At(i).Data
		kernel.Attention(&args)
	}
	branch := p.out.Forward(a, o)
	a.Emit("attn_out", branch)
	p.post.apply(branch.Data, branch.Data, branch.Rows())
	a.Emit("ln_post", branch)
	p.proj.Into(out, branch, kernel.Epilogue{})
	return out
}

// place adds the position of each key to kv.
func (p *pool) place(a *tensor.Arena, kv tensor.Tensor, sizes [][2]int) {
	if p.c.Kind == QwenVL {
		table := p.resized.get(p.stored, squareRoot(kv.Dim(1)))
		a.Emit("pos_embed_kv", table)
		for i := range kv.Dim(0) {
			kernel.Add(kv.At(i).Data, kv.At(i).Data, table.Data)
		}
		return
	}
	side := 0
	for _, s := range sizes {
		side = max(side, s[0], s[1])
	}
	axis := p.axis.upTo(side)
	if a.Trace != nil {
		a.Emit("pos_embed_first", axis.grid(sizes[0][0], sizes[0][1]))
	}
	for i, s := range sizes {
		for t := range s[0] * s[1] {
			row, half := kv.At(i).Row(t), axis.width
			kernel.Add(row[:half], row[:half], axis.row(t%s[1]))
			kernel.Add(row[half:], row[half:], axis.row(t/s[1]))
		}
	}
}

// resized keeps the stored table at the key grids met so far, a few of them.
type resized struct {
	mu    sync.Mutex
	sides []int
	at    []tensor.Tensor
}

// maxResized bounds the tables kept: a tower has one grid, two with a larger input.
const maxResized = 4

func (r *resized) get(stored tensor.Tensor, side int) tensor.Tensor {
	own := squareRoot(stored.Dim(0))
	if side == own {
		return stored
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, s := range r.sides {
		if s == side {
			return r.at[i]
		}
	}
	t := resizeBicubic(stored, own, side)
	if len(r.sides) == maxResized {
		r.sides, r.at = r.sides[1:], r.at[1:]
	}
	r.sides, r.at = append(r.sides, side), append(r.at, t)
	return t
}
