package conditioned_test

import (
	"os"
	"testing"

	"github.com/mmserve/mmserve/flamingo"
	"github.com/mmserve/mmserve/pipeline/conditioned"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// atPublishedWidths are models at their published widths and one layer of each kind: depth
// does not change the scratch that a pass needs.
var atPublishedWidths = map[string]struct {
	config string
	side   int
}{
	"openflamingo-3b": {`{"model_type":"openflamingo","cross_attn_every_n_layers":1,"media_token_id":1001,"eoc_token_id":1000,"pad_token_id":1002,
		"vision_config":{"hidden_size":1024,"intermediate_size":4096,"num_hidden_layers":1,"num_attention_heads":16,"image_size":224,"patch_size":14},
		"perceiver":{"depth":1},
		"lang_config":{"model_type":"mosaic_gpt","vocab_size":1003,"d_model":2048,"n_heads":16,"n_layers":1,"alibi":true,"attn_qk_ln":true,"no_bias":true}}`, 224},
	"idefics-9b": {`{"model_type":"idefics","vocab_size":1000,"additional_vocab_size":2,"hidden_size":4096,"intermediate_size":11008,"num_hidden_layers":1,"num_attention_heads":32,"cross_layer_interval":1,"qk_layer_norms":true,
		"vision_config":{"embed_dim":1280,"intermediate_size":5120,"num_hidden_layers":1,"num_attention_heads":16,"image_size":224,"patch_size":14},
		"perceiver_config":{"qk_layer_norms_perceiver":true,"resampler_depth":1}}`, 224},
	"idefics2-8b": {`{"model_type":"idefics2","image_token_id":1000,
		"vision_config":{"hidden_size":1152,"intermediate_size":4304,"num_hidden_layers":1,"num_attention_heads":16,"image_size":980,"patch_size":14},
		"perceiver_config":{"resampler_depth":1},
		"text_config":{"model_type":"mistral","vocab_size":1003,"hidden_size":4096,"intermediate_size":14336,"num_hidden_layers":1,"num_attention_heads":32,"num_key_value_heads":8}}`, 980},
	"minicpm-v-2.6": {`{"model_type":"minicpmv","soft_token_id":1000,"vocab_size":1003,"hidden_size":3584,"intermediate_size":18944,"num_hidden_layers":1,"num_attention_heads":28,"num_key_value_heads":4,"query_num":64,
		"vision_config":{"hidden_size":1152,"intermediate_size":4304,"num_hidden_layers":1,"num_attention_heads":16,"image_size":980,"patch_size":14}}`, 448},
}

// One picture needs little memory besides the weights.
func TestMemoryOverWeights(t *testing.T) {
	if os.Getenv("MMSERVE_FULLSIZE") == "" {
		t.Skip("set MMSERVE_FULLSIZE=1 to run published sizes")
	}
	for name, c := range atPublishedWidths {
		t.Run(name, func(t *testing.T) { fits(t, name, c.config, c.side) })
	}
}

func fits(t *testing.T, name, config string, side int) {
	m, err := conditioned.Load([]byte(config), conditioned.Sources{Model: weights.Seeded(), Lang: weights.Seeded(), Vision: weights.Seeded()}, conditioned.Options{})
	if err != nil && name == "openflamingo-3b" { // joining asks for names, which a generator has none of
		m, err = bare(config)
	}
	if err != nil {
		t.Fatal(err)
	}
	var a tensor.Arena
	z, err := m.Encode(&a, conditioned.Pictures{Pixels: tensor.New(1, side, side, 3)})
	if err != nil {
		t.Fatal(err)
	}
	picture := a.Bytes()
	soft := m.LM.Config.Soft
	tokens := make([]int, 64)
	for i := range tokens {
		tokens[i] = max(soft, 0)
	}
	if _, err := m.LM.Generate(t.Context(), []flamingo.Prompt{m.Prompt(tokens, z)}, flamingo.Options{MaxTokens: 2}); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %d MiB for a picture of %d×%d", name, picture>>20, side, side)
	if picture > 100<<20 {
		t.Errorf("%s: %d MiB of scratch", name, picture>>20)
	}
}

func bare(config string) (*conditioned.Model, error) {
	return weights.Bind(weights.Seeded(), func(s weights.Scope) (*conditioned.Model, error) {
		return conditioned.New(s, []byte(config), conditioned.Options{})
	})
}
