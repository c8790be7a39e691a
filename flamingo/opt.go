package flamingo

import (
	"github.com/mmserve/mmserve/internal/nn"
	"github.com/mmserve/mmserve/weights"
)

// optOffset is how far OPT's learned positions are shifted: the table has two rows more than
// the context.
const optOffset = 2

// opt reads OPT. OPT-350m norms after the residual sums, has no final norm, and projects a
// narrower embedding in and out.
func (m *Model) opt(s weights.Scope) {
	c := m.Config
	body := s.At("model", "decoder")
	m.embed = table(body.At("embed_tokens"), "weight", c.Vocab, c.embedWidth())
	m.positions, m.offset = body.At("embed_positions").Tensor("weight", c.Context+optOffset, c.Width), optOffset
	if c.embedWidth() != c.Width {
		in, out := linear(body.At("project_in"), c.Embed, c.Width, false), linear(body.At("project_out"), c.Width, c.Embed, false)
		m.projIn, m.projOut = &in, &out
	}
	for i := range c.Layers {
		at := body.At("layers").Index(i)
		attn := at.At("self_attn")
		m.layers = append(m.layers, layer{
			cross: newGated(at.At("gated_cross_attn_layer"), c, i),
			norm1: layerNorm(at.At("self_attn_layer_norm"), c.Width, c.Eps, true),
			norm2: layerNorm(at.At("final_layer_norm"), c.Width, c.Eps, true),
			qkv: []nn.Linear{
				linear(attn.At("q_proj"), c.Width, c.Width, true),
				linear(attn.At("k_proj"), c.Width, c.Width, true),
				linear(attn.At("v_proj"), c.Width, c.Width, true),
			},
			out: linear(attn.At("out_proj"), c.Width, c.Width, true),
			ff: nn.MLP{
				Up:   linear(at.At("fc1"), c.Width, c.Hidden, true),
				Down: linear(at.At("fc2"), c.Hidden, c.Width, true),
				Act:  c.Act,
			},
		})
	}
	if !c.PostNorm {
		m.final = layerNorm(body.At("final_layer_norm"), c.Width, c.Eps, true)
	}
	m.headOf(s.At("lm_head"), "weight")
}
