package flamingo

import (
	"github.com/mmserve/mmserve/internal/nn"
	"github.com/mmserve/mmserve/weights"
)

// mptNames are the spellings of one MPT layer.
type mptNames struct{ norm1, norm2, mlp, up, down string }

// mpt reads MPT in both spellings: transformers' (MPT-7B) and the older MosaicGPT's (MPT-1B),
// which also has norms over all queries and keys.
func (m *Model) mpt(s weights.Scope) {
	c := m.Config
	n := mptNames{"norm_1", "norm_2", "ffn", "up_proj", "down_proj"}
	final := "norm_f"
	if c.OldMPT {
		n = mptNames{"ln_1", "ln_2", "mlp", "mlp_up", "mlp_down"}
		final = "ln_f"
	}
	body := s.At("transformer")
	m.embed = table(body.At("wte"), "weight", c.Vocab, c.Width)
	if c.Learned {
		m.positions = body.At("wpe").Tensor("weight", c.Context, c.Width)
	}
	for i := range c.Layers {
		at := body.At("blocks").Index(i)
		attn, mlp := at.At("attn"), at.At(n.mlp)
		inner := c.Heads * c.HeadDim
		l := layer{
			cross: newGated(at.At("gated_cross_attn_layer"), c, i),
			norm1: layerNorm(at.At(n.norm1), c.Width, c.Eps, c.Bias),
			norm2: layerNorm(at.At(n.norm2), c.Width, c.Eps, c.Bias),
			qkv:   []nn.Linear{linear(attn.At("Wqkv"), c.Width, 3*inner, c.QKVBias)},
			out:   linear(attn.At("out_proj"), inner, c.Width, c.Bias),
			ff: nn.MLP{
				Up:   linear(mlp.At(n.up), c.Width, c.Hidden, c.Bias),
				Down: linear(mlp.At(n.down), c.Hidden, c.Width, c.Bias),
				Act:  c.Act,
			},
		}
		if c.QKNorm {
			q, k := layerNorm(attn.At("q_ln"), inner, c.Eps, c.Bias), layerNorm(attn.At("k_ln"), inner, c.Eps, c.Bias)
			l.normQ, l.normK = &q, &k
		}
		m.layers = append(m.layers, l)
	}
	m.final = layerNorm(body.At(final), c.Width, c.Eps, c.Bias)
	m.headOf(s.At("lm_head"), "weight")
}
