package flamingo

import (
	"github.com/mmserve/mmserve/internal/nn"
	"github.com/mmserve/mmserve/weights"
)

// gptNeoX reads GPT-NeoX (RedPajama-INCITE): queries, keys and values in one weight ordered
// head by head, biases everywhere.
func (m *Model) gptNeoX(s weights.Scope) {
	c := m.Config
	body := s.At("gpt_neox")
	m.embed = table(body.At("embed_in"), "weight", c.Vocab, c.Width)
	for i := range c.Layers {
		at := body.At("layers").Index(i)
		attn, mlp := at.At("attention"), at.At("mlp")
		attn.Ignore("bias", "masked_bias", "rotary_emb.inv_freq") // buffers of old files
		m.layers = append(m.layers, layer{
			cross:   newGated(at.At("gated_cross_attn_layer"), c, i),
			norm1:   layerNorm(at.At("input_layernorm"), c.Width, c.Eps, true),
			norm2:   layerNorm(at.At("post_attention_layernorm"), c.Width, c.Eps, true),
			qkv:     []nn.Linear{linear(attn.At("query_key_value"), c.Width, 3*c.Heads*c.HeadDim, c.QKVBias)},
			perHead: true,
			out:     linear(attn.At("dense"), c.Heads*c.HeadDim, c.Width, c.QKVBias),
			ff: nn.MLP{
				Up:   linear(mlp.At("dense_h_to_4h"), c.Width, c.Hidden, true),
				Down: linear(mlp.At("dense_4h_to_h"), c.Hidden, c.Width, true),
				Act:  c.Act,
			},
		})
	}
	m.final = layerNorm(body.At("final_layer_norm"), c.Width, c.Eps, true)
	m.headOf(s.At("embed_out"), "weight")
}
