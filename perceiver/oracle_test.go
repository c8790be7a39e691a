package perceiver_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/mmserve/mmserve/perceiver"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// oracle is the bare PerceiverModel as the reference writes it, in float64 and nested loops.
type oracle struct {
	s   weights.Scope
	act func(float64) float64
}

type matrix [][]float64

func (o oracle) tensor(name string, rows, cols int) matrix {
	t := o.s.Tensor(name, rows, cols)
	m := make(matrix, rows)
	for i := range m {
		for _, x := range t.Row(i) {
			m[i] = append(m[i], float64(x))
		}
	}
	return m
}

func (o oracle) vector(name string, n int) []float64 {
	var v []float64
	for _, x := range o.s.Tensor(name, n).Data {
		v = append(v, float64(x))
	}
	return v
}

func (o oracle) at(name string) oracle { return oracle{o.s.At(name), o.act} }

func (o oracle) linear(x matrix, name string, out int) matrix {
	w, b := o.tensor(name+".weight", out, len(x[0])), o.vector(name+".bias", out)
	y := make(matrix, len(x))
	for i, row := range x {
		for j := range out {
			sum := b[j]
			for k, v := range row {
				sum += v * w[j][k]
			}
			y[i] = append(y[i], sum)
		}
	}
	return y
}

func (o oracle) norm(x matrix, name string) matrix {
	n := len(x[0])
	g, b := o.vector(name+".weight", n), o.vector(name+".bias", n)
	y := make(matrix, len(x))
	for i, row := range x {
		var mean, v float64
		for _, e := range row {
			mean += e / float64(n)
		}
		for _, e := range row {
			v += (e - mean) * (e - mean) / float64(n)
		}
		for j, e := range row {
			y[i] = append(y[i], (e-mean)/math.Sqrt(v+1e-5)*g[j]+b[j])
		}
	}
	return y
}

// layer is one PerceiverLayer; kv is nil for self-attention.
func (o oracle) layer(x, kv matrix, mask []float32, qk, v, heads, widening int, residual bool) matrix {
	self := o.at("attention.self")
	out, q := len(x[0]), self.norm(x, "layernorm1")
	in := q
	if kv != nil {
		in = self.norm(kv, "layernorm2")
	}
	key, value := self.linear(in, "key", qk), self.linear(in, "value", v)
	q = self.linear(q, "query", qk)
	mixed := make(matrix, len(q))
	for i := range q {
		mixed[i] = make([]float64, v)
		for h := range heads {
			p, sum := make([]float64, len(key)), 0.0
			top := math.Inf(-1)
			for j := range key {
				for c := h * qk / heads; c < (h+1)*qk/heads; c++ {
					p[j] += q[i][c] * key[j][c]
				}
				p[j] /= math.Sqrt(float64(qk / heads))
				if mask != nil {
					p[j] = float64(float32(p[j]) + (1-mask[j])*-math.MaxFloat32)
				}
				top = math.Max(top, p[j])
			}
			for j := range p {
				p[j] = math.Exp(p[j] - top)
				sum += p[j]
			}
			for j := range p {
				for c := h * v / heads; c < (h+1)*v/heads; c++ {
					mixed[i][c] += p[j] / sum * value[j][c]
				}
			}
		}
	}
	y := o.linear(mixed, "attention.output.dense", out)
	if residual {
		add(y, x)
	}
	hidden := o.linear(o.norm(y, "layernorm"), "mlp.dense1", widening*out)
	for _, row := range hidden {
		for j := range row {
			row[j] = o.act(row[j])
		}
	}
	add(y, o.linear(hidden, "mlp.dense2", out))
	return y
}

func add(y, x matrix) {
	for i := range y {
		for j := range y[i] {
			y[i][j] += x[i][j]
		}
	}
}

var activation = map[string]func(float64) float64{
	"gelu":              func(x float64) float64 { return x / 2 * (1 + math.Erf(x/math.Sqrt2)) },
	"gelu_pytorch_tanh": geluTanh,
	"gelu_new":          geluTanh,
	"relu":              func(x float64) float64 { return math.Max(0, x) },
	"silu":              func(x float64) float64 { return x / (1 + math.Exp(-x)) },
	"quick_gelu":        func(x float64) float64 { return x / (1 + math.Exp(-1.702*x)) },
}

func geluTanh(x float64) float64 {
	return x / 2 * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x)))
}

// TestOracle: every flag that changes arithmetic, against float64.
func TestOracle(t *testing.T) {
	const m, n, d = 150, 6, 24
	for i, c := range []struct {
		dim, qk, v, cross, self, crossWide, selfWide, blocks, layers int
		residual                                                     bool
		rule, act                                                    string
		masked                                                       bool
	}{
		{10, 0, 0, 1, 4, 1, 1, 1, 2, true, "kv", "gelu", false},
		{10, 0, 0, 2, 3, 2, 1, 2, 1, false, "kv", "relu", true},
		{12, 0, 0, 4, 2, 1, 3, 1, 1, true, "q", "silu", true},
		{7, 0, 0, 1, 1, 4, 1, 3, 1, true, "kv", "quick_gelu", true},
		{30, 12, 24, 3, 4, 1, 2, 1, 2, true, "kv", "gelu_new", false},
		{9, 24, 0, 6, 8, 1, 1, 1, 1, false, "q", "gelu_pytorch_tanh", true},
		{9, 6, 24, 1, 2, 2, 2, 2, 2, true, "q", "gelu", true},
		{8, 0, 24, 8, 8, 1, 1, 1, 1, true, "kv", "gelu", true},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			null := func(n int) string {
				if n == 0 {
					return "null"
				}
				return fmt.Sprint(n)
			}
			config := fmt.Sprintf(`{"architectures": ["PerceiverModel"], "d_model": %d, "num_latents": %d, "d_latents": %d, "qk_channels": %s, "v_channels": %s,
				"num_cross_attention_heads": %d, "num_self_attention_heads": %d, "cross_attention_widening_factor": %d, "self_attention_widening_factor": %d,
				"num_blocks": %d, "num_self_attends_per_block": %d, "use_query_residual": %v, "cross_attention_shape_for_attention": %q, "hidden_act": %q}`,
				c.dim, n, d, null(c.qk), null(c.v), c.cross, c.self, c.crossWide, c.selfWide, c.blocks, c.layers, c.residual, c.rule, c.act)
			rows := random(uint64(i), 1, m, c.dim)
			var mask [][]float32
			var flat []float32
			if c.masked {
				flat = halfMask(uint64(i), m)
				flat[7] = 0.5 // between: as good as dropped
				mask = [][]float32{flat}
			}
			qk, v := c.qk, c.v
			if qk == 0 {
				qk = map[string]int{"kv": c.dim, "q": d}[c.rule]
			}
			if v == 0 {
				v = qk
			}
			want, err := weights.Bind(weights.Random(7), func(s weights.Scope) (matrix, error) {
				o := oracle{s, activation[c.act]}
				in := make(matrix, m)
				for j := range in {
					for _, x := range rows.At(0).Row(j) {
						in[j] = append(in[j], float64(x))
					}
				}
				x := o.at("encoder.cross_attention").layer(o.tensor("embeddings.latents", n, d), in, flat, qk, v, c.cross, c.crossWide, c.residual)
				selfQK := c.qk
				if selfQK == 0 {
					selfQK = d
				}
				for range c.blocks {
					for l := range c.layers {
						x = o.at(fmt.Sprintf("encoder.self_attends.%d", l)).layer(x, nil, nil, selfQK, d, c.self, c.selfWide, true)
					}
				}
				return x, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range ways {
				var a tensor.Arena
				got, err := build(t, config, w.opt).(*perceiver.Model).Forward(t.Context(), &a, perceiver.Matrices(rows), mask)
				if err != nil {
					t.Fatal(err)
				}
				for r := range want {
					for j, x := range want[r] {
						if diff := math.Abs(float64(got.At(0).Row(r)[j]) - x); diff > 2e-5*math.Max(1, math.Abs(x)) {
							t.Fatalf("%s: latent %d channel %d: %v, want %v", w.name, r, j, got.At(0).Row(r)[j], x)
						}
					}
				}
			}
		})
	}
}
