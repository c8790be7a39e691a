package flamingo_test

import (
	"testing"

	"github.com/mmserve/mmserve/flamingo"
	"github.com/mmserve/mmserve/internal/kernel"
)

// The language models of the published checkpoints, by what their config.json says of them.
func TestPublishedConfigurations(t *testing.T) {
	for _, c := range []struct {
		name, config string
		want         flamingo.Config
	}{
		{"anas-awadalla/mpt-1b-redpajama-200b", `{"model_type":"mosaic_gpt","d_model":2048,"n_heads":16,"n_layers":24,"mlp_ratio":4,"max_seq_len":2048,
			"vocab_size":50432,"attn_impl":"torch","attn_qk_ln":true,"attn_clip_qkv":null,"softmax_scale":null,"alibi":true,"alibi_bias_max":8,"no_bias":true,"logit_scale":null}`,
			flamingo.Config{Arch: flamingo.MPT, Vocab: 50432, Width: 2048, Layers: 24, Heads: 16, HeadDim: 128, Hidden: 8192, Context: 2048,
				Act: kernel.GELU, Tied: true, OldMPT: true, QKNorm: true, ALiBiMax: 8}},
		{"anas-awadalla/mpt-7b", `{"model_type":"mpt","d_model":4096,"n_heads":32,"n_layers":32,"expansion_ratio":4,"max_seq_len":2048,"vocab_size":50432,"no_bias":true,"learned_pos_emb":true,
			"attn_config":{"alibi":true,"alibi_bias_max":8,"attn_type":"multihead_attention","clip_qkv":null,"prefix_lm":false,"qk_ln":false,"softmax_scale":null}}`,
			flamingo.Config{Arch: flamingo.MPT, Vocab: 50432, Width: 4096, Layers: 32, Heads: 32, HeadDim: 128, Hidden: 16384, Context: 2048,
				Act: kernel.GELU, Tied: true, ALiBiMax: 8}},
		{"togethercomputer/RedPajama-INCITE-Base-3B-v1", `{"model_type":"gpt_neox","hidden_size":2560,"intermediate_size":10240,"num_attention_heads":32,"num_hidden_layers":32,
			"rotary_pct":1.0,"rotary_emb_base":10000,"max_position_embeddings":2048,"hidden_act":"gelu","layer_norm_eps":1e-05,"use_parallel_residual":false,"tie_word_embeddings":false,"vocab_size":50432}`,
			flamingo.Config{Arch: flamingo.GPTNeoX, Vocab: 50432, Width: 2560, Layers: 32, Heads: 32, HeadDim: 80, Hidden: 10240, Context: 2048,
				Act: kernel.GELU, Bias: true, QKVBias: true, RotaryDim: 80, RotaryBase: 10000}},
		{"facebook/opt-350m", `{"model_type":"opt","hidden_size":1024,"word_embed_proj_dim":512,"ffn_dim":4096,"num_attention_heads":16,"num_hidden_layers":24,
			"max_position_embeddings":2048,"vocab_size":50272,"do_layer_norm_before":false,"activation_function":"relu","_remove_final_layer_norm":false}`,
			flamingo.Config{Arch: flamingo.OPT, Vocab: 50272, Width: 1024, Layers: 24, Heads: 16, HeadDim: 64, Hidden: 4096, Context: 2048,
				Act: kernel.ReLU, Tied: true, Bias: true, QKVBias: true, Embed: 512, PostNorm: true}},
		{"meta-llama/Llama-3.1-8B", `{"model_type":"llama","hidden_size":4096,"intermediate_size":14336,"num_attention_heads":32,"num_key_value_heads":8,"num_hidden_layers":32,
			"max_position_embeddings":131072,"rms_norm_eps":1e-05,"rope_theta":500000.0,"vocab_size":128256,"tie_word_embeddings":false,"attention_bias":false,"mlp_bias":false,
			"rope_scaling":{"factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":8192,"rope_type":"llama3"}}`,
			flamingo.Config{Arch: flamingo.LLaMA, Vocab: 128256, Width: 4096, Layers: 32, Heads: 32, KVHeads: 8, HeadDim: 128, Hidden: 14336, Context: 131072,
				Act: kernel.SiLU, RotaryDim: 128, RotaryBase: 500000, Rope: &flamingo.Rope{Kind: flamingo.LLaMA3Rope, Factor: 8, Trained: 8192, Low: 1, High: 4}}},
	} {
		got, err := flamingo.ParseConfig([]byte(c.config))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if (got.Rope == nil) != (c.want.Rope == nil) || got.Rope != nil && *got.Rope != *c.want.Rope {
			t.Errorf("%s: rope %+v, want %+v", c.name, got.Rope, c.want.Rope)
		}
		c.want.Soft, c.want.Eps, c.want.Scale, c.want.Rope = -1, got.Eps, got.Scale, got.Rope
		if c.want.KVHeads == 0 {
			c.want.KVHeads = c.want.Heads
		}
		if c.want.Embed == 0 {
			c.want.Embed = got.Embed
		}
		if got != c.want {
			t.Errorf("%s:\n got %+v\nwant %+v", c.name, got, c.want)
		}
	}
}
