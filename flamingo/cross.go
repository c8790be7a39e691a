package flamingo

import (
	"math"
	"strconv"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/internal/nn"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// gated is one gated cross-attention layer:
//
//	y   = x + g₁·Attention(norm(x), latents)
//	out = y + g₂·FeedForward(norm(y))
//
// with g = tanh of a learned gate, one for all channels or one a channel.
type gated struct {
	c            *Cross
	norm, normFF norm
	q, out       nn.Linear
	kv           *nn.Linear // keys then values in one; nil when apart
	k, v         nn.Linear
	normQ, normK *norm
	ff           feedForward
	gate, gateFF []float32 // tanh already taken; one value, or one a channel
	width        int
	// reported names: the attention branch before its gate, after the gated addition, the
	// feed-forward branch, the output
	attnID, afterID, ffID, outID string
}

// newGated reads the layer before decoder layer i, nil when there is none.
func newGated(s weights.Scope, c Config, i int) *gated {
	if !c.Cross.At(i) {
		return nil
	}
	if c.Cross.Kind == IdeficsCross {
		return newIdefics(s, c, i/c.Cross.Every)
	}
	g := newOpenFlamingo(s, *c.Cross, c.Width)
	p := "layers." + strconv.Itoa(i)
	g.attnID, g.outID = p+".xattn_branch", p+".gated_xattn"
	return g
}

func newOpenFlamingo(s weights.Scope, c Cross, width int) *gated {
	inner, attn, ff := c.Heads*c.HeadDim, s.At("attn"), s.At("ff")
	kv := linear(attn.At("to_kv"), c.Media, 2*inner, false)
	return &gated{
		c: &c, width: width,
		norm:   layerNorm(attn.At("norm"), width, c.Eps, true),
		q:      linear(attn.At("to_q"), width, inner, false),
		kv:     &kv,
		out:    linear(attn.At("to_out"), inner, width, false),
		normFF: layerNorm(ff.Index(0), width, c.Eps, true),
		ff: nn.MLP{
			Up:   linear(ff.Index(1), width, c.Hidden, false),
			Down: linear(ff.Index(3), c.Hidden, width, false),
			Act:  kernel.GELU,
		},
		gate:   gateOf(s.Tensor("attn_gate", 1)),
		gateFF: gateOf(s.Tensor("ff_gate", 1)),
	}
}

func newIdefics(s weights.Scope, m Config, n int) *gated {
	c, width := *m.Cross, m.Width
	inner, attn, mlp := c.Heads*c.HeadDim, s.At("cross_attn"), s.At("mlp")
	g := &gated{
		c: &c, width: width,
		norm:   rmsNorm(s.At("input_layernorm"), width, c.Eps),
		q:      linear(attn.At("q_proj"), width, inner, false),
		k:      linear(attn.At("k_proj"), c.Media, inner, false),
		v:      linear(attn.At("v_proj"), c.Media, inner, false),
		out:    linear(attn.At("o_proj"), inner, width, false),
		normFF: rmsNorm(s.At("post_attention_layernorm"), width, c.Eps),
		ff: nn.GatedMLP{
			Gate: linear(mlp.At("gate_proj"), width, c.Hidden, false),
			Up:   linear(mlp.At("up_proj"), width, c.Hidden, false),
			Down: linear(mlp.At("down_proj"), c.Hidden, width, false),
			Act:  m.Act,
		},
		outID: "gated_cross_attn_layers." + strconv.Itoa(n) + ".out",
	}
	attn.Ignore("rotary_emb.inv_freq")
	if c.QKNorm {
		q, k := rmsNorm(attn.At("q_layer_norm"), c.HeadDim, c.Eps), rmsNorm(attn.At("k_layer_norm"), c.HeadDim, c.Eps)
		g.normQ, g.normK = &q, &k
	}
	shape := []int{1}
	if c.VectorGate {
		shape = []int{1, 1, width}
	}
	g.gate, g.gateFF = gateOf(s.Tensor("alpha_cross_attn", shape...)), gateOf(s.Tensor("alpha_dense", shape...))
	return g
}

func gateOf(t tensor.Tensor) []float32 {
	g := make([]float32, len(t.Data))
	for i, x := range t.Data {
		g[i] = float32(math.Tanh(float64(x)))
	}
	return g
}

// memory is the keys and values of a sequence's pictures for one layer, P·n rows each.
type memory struct{ k, v []float32 }

// project appends the keys and values of further latents (P×n×Media) to mem.
func (g *gated) project(a *tensor.Arena, mem *memory, latents tensor.Tensor) {
	mark := a.Mark()
	defer a.Release(mark)
	inner := g.c.Heads * g.c.HeadDim
	if g.kv != nil {
		kv := g.kv.Forward(a, latents)
		for i := range kv.Rows() {
			mem.k = append(mem.k, kv.Row(i)[:inner]...)
			mem.v = append(mem.v, kv.Row(i)[inner:]...)
		}
		return
	}
	k, v := g.k.Forward(a, latents), g.v.Forward(a, latents)
	if g.normK != nil {
		g.normK.apply(k.Data, k.Data, k.Rows()*g.c.Heads)
	}
	mem.k, mem.v = append(mem.k, k.Data...), append(mem.v, v.Data...)
}

// sight is what one token sees: the pictures [from, to), or those of set. With nothing to see
// its attention is zero; blind says that every score is the same instead, so that it averages
// all pictures, as the reference does for a token whose picture is not there.
type sight struct {
	from, to int
	blind    bool
	set      []int
}

func (s sight) equal(t sight) bool {
	return s.set == nil && t.set == nil && s.from == t.from && s.to == t.to && s.blind == t.blind
}

// run is a stretch of rows of one sequence, its view of its pictures row by row, and the keys
// and values to look at.
type run struct {
	from, to int
	see      []sight
	mem      *memory
	pictures int
	latents  int // of one picture
}

// forward updates x (rows×Width) in place.
func (g *gated) forward(a *tensor.Arena, x tensor.Tensor, runs []run) {
	mark := a.Mark()
	defer a.Release(mark)
	h := a.New(x.Shape...)
	g.norm.apply(h.Data, x.Data, x.Rows())
	q := g.q.Forward(a, h)
	if g.normQ != nil {
		g.normQ.apply(q.Data, q.Data, q.Rows()*g.c.Heads)
	}
	o := a.New(q.Shape...)
	for _, r := range runs {
		g.look(a, o, q, r)
	}
	g.out.Into(h, o, kernel.Epilogue{})
	if g.c.Kind == IdeficsCross { // without an image, the branch itself is zero
		for _, r := range runs {
			for i, s := range r.see {
				if s.from == s.to && !s.blind && s.set == nil {
					clear(h.Row(r.from + i))
				}
			}
		}
	}
	emit(a, g.attnID, h)
	addGated(x, h, g.gate)
	emit(a, g.afterID, x)
	g.normFF.apply(h.Data, x.Data, x.Rows())
	f := g.ff.Forward(a, h)
	emit(a, g.ffID, f)
	addGated(x, f, g.gateFF)
	emit(a, g.outID, x)
}

// emit reports rows of a single sequence, 1×rows×width.
func emit(a *tensor.Arena, name string, x tensor.Tensor) {
	if name != "" && a.Trace != nil {
		a.Emit(name, tensor.Of(x.Data, append([]int{1}, x.Shape...)...))
	}
}

// addGated adds gate·branch to x row by row.
func addGated(x, branch tensor.Tensor, gate []float32) {
	if len(gate) == 1 {
		s := gate[0]
		for i, b := range branch.Data {
			x.Data[i] += float32(s * b)
		}
		return
	}
	for r := range x.Rows() {
		dst, src := x.Row(r), branch.Row(r)
		for j, b := range src {
			dst[j] += float32(gate[j] * b)
		}
	}
}

// look attends for the rows of one run, neighbours that see the same together.
func (g *gated) look(a *tensor.Arena, o, q tensor.Tensor, r run) {
	inner := g.c.Heads * g.c.HeadDim
	args := kernel.AttnArgs{
		Heads: g.c.Heads, KVHeads: g.c.Heads, QK: g.c.HeadDim, V: g.c.HeadDim,
		Scale: float32(1 / math.Sqrt(float64(g.c.HeadDim))), LDQ: inner, LDK: inner, LDV: inner, LDO: inner,
	}
	for i := 0; i < len(r.see); {
		s, j := r.see[i], i+1
		for j < len(r.see) && s.equal(r.see[j]) {
			j++
		}
		rows := o.Slice(r.from+i, r.from+j)
		args.L, args.Out, args.Q = j-i, rows.Data, q.Slice(r.from+i, r.from+j).Data
		from, to := s.from, s.to
		mark := a.Mark()
		switch {
		case s.set != nil:
			g.gather(a, &args, r, s.set)
		case s.blind:
			args.Q = a.Floats((j - i) * inner)
			clear(args.Q) // every score alike
			from, to = 0, r.pictures
			fallthrough
		default:
			args.S = (to - from) * r.latents
			args.K, args.VV = r.mem.k[from*r.latents*inner:], r.mem.v[from*r.latents*inner:]
		}
		if args.S == 0 {
			clear(rows.Data)
		} else {
			kernel.Attention(&args)
		}
		a.Release(mark)
		i = j
	}
}

// gather copies the keys and values of scattered pictures side by side.
func (g *gated) gather(a *tensor.Arena, args *kernel.AttnArgs, r run, set []int) {
	n := r.latents * g.c.Heads * g.c.HeadDim
	k, v := a.Floats(len(set)*n), a.Floats(len(set)*n)
	for i, p := range set {
		copy(k[i*n:(i+1)*n], r.mem.k[p*n:])
		copy(v[i*n:(i+1)*n], r.mem.v[p*n:])
	}
	args.S, args.K, args.VV = len(set)*r.latents, k, v
}
