package flamingo

import (
	"github.com/mmserve/mmserve/internal/nn"
	"github.com/mmserve/mmserve/weights"
)

// llama reads LLaMA and its kin (Mistral, Qwen2), and Idefics v1, whose gated layers and
// additional vocabulary stand beside the decoder's own.
func (m *Model) llama(s weights.Scope) {
	c := m.Config
	body := s.At("model")
	m.embed = table(body.At("embed_tokens"), "weight", c.Vocab, c.Width)
	idefics := c.Cross != nil && c.Cross.Kind == IdeficsCross
	for i := range c.Layers {
		at := body.At("layers").Index(i)
		cross := at.At("gated_cross_attn_layer")
		if idefics {
			cross = body.At("gated_cross_attn_layers").Index(i / c.Cross.Every)
		}
		l := llamaLayer(at, c)
		l.cross = newGated(cross, c, i)
		m.layers = append(m.layers, l)
	}
	m.final = rmsNorm(body.At("norm"), c.Width, c.Eps)
	m.headOf(s.At("lm_head"), "weight")
	if c.Extra > 0 {
		m.extra = table(body.At("embed_tokens", "additional_embedding"), "weight", c.Extra, c.Width)
		if c.Tied {
			m.headExtra = m.extra.Packed()
			s.Ignore("lm_head.additional_fc.weight")
		} else {
			m.headExtra = s.At("lm_head", "additional_fc").AsStored("weight").Linear("weight", c.Extra, c.Width)
		}
	}
}

func llamaLayer(at weights.Scope, c Config) layer {
	attn, mlp := at.At("self_attn"), at.At("mlp")
	attn.Ignore("rotary_emb.inv_freq") // a buffer of old files
	l := layer{
		norm1: rmsNorm(at.At("input_layernorm"), c.Width, c.Eps),
		norm2: rmsNorm(at.At("post_attention_layernorm"), c.Width, c.Eps),
		qkv: []nn.Linear{
			linear(attn.At("q_proj"), c.Width, c.Heads*c.HeadDim, c.QKVBias),
			linear(attn.At("k_proj"), c.Width, c.KVHeads*c.HeadDim, c.QKVBias),
			linear(attn.At("v_proj"), c.Width, c.KVHeads*c.HeadDim, c.QKVBias),
		},
		out: linear(attn.At("o_proj"), c.Heads*c.HeadDim, c.Width, c.Bias),
		ff: nn.GatedMLP{
			Gate: linear(mlp.At("gate_proj"), c.Width, c.Hidden, c.MLPBias),
			Up:   linear(mlp.At("up_proj"), c.Width, c.Hidden, c.MLPBias),
			Down: linear(mlp.At("down_proj"), c.Hidden, c.Width, c.MLPBias),
			Act:  c.Act,
		},
	}
	if attn.Has("q_layer_norm.weight") { // Idefics can norm the heads here too, after rotary
		q, k := rmsNorm(attn.At("q_layer_norm"), c.HeadDim, c.Eps), rmsNorm(attn.At("k_layer_norm"), c.HeadDim, c.Eps)
		l.normQ, l.normK = &q, &k
	}
	return l
}
