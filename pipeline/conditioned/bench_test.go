package conditioned_test

import (
	"testing"

	"github.com/mmserve/mmserve/pipeline/conditioned"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

const (
	clipLarge = `"hidden_size":1024,"intermediate_size":4096,"num_hidden_layers":24,"num_attention_heads":16,"image_size":224,"patch_size":14`
	clipHuge  = `"hidden_act":"gelu","hidden_size":1280,"embed_dim":1280,"intermediate_size":5120,"num_hidden_layers":32,"num_attention_heads":16,"image_size":224,"patch_size":14`
	so400m    = `"hidden_size":1152,"intermediate_size":4304,"num_hidden_layers":27,"num_attention_heads":16,"image_size":980,"patch_size":14`
)

// pictureSides are towers and resamplers at their published sizes.
var pictureSides = []struct {
	name, config string
	h, w         int
}{
	{"openflamingo", `{"model_type":"openflamingo","media_token_id":1,"vision_config":{` + clipLarge + `},
		"lang_config":{"model_type":"mosaic_gpt","vocab_size":2,"d_model":2048,"n_heads":16,"n_layers":24,"alibi":true,"no_bias":true}}`, 224, 224},
	{"idefics-9b", `{"model_type":"idefics","hidden_size":4096,"num_attention_heads":32,"num_hidden_layers":32,"cross_layer_interval":4,"additional_vocab_size":2,
		"vision_config":{` + clipHuge + `},"perceiver_config":{"qk_layer_norms_perceiver":true}}`, 224, 224},
	{"ip-adapter-plus-sdxl", `{"model_type":"ip_adapter_plus","vision_config":{"model_type":"clip_vision_model",` + clipHuge + `},
		"resampler":{"model_type":"ip_adapter_plus_resampler","dim":1280,"depth":4,"heads":20,"num_queries":16,"embedding_dim":1280,"output_dim":2048}}`, 224, 224},
	{"idefics2-8b-378x504", `{"model_type":"idefics2","vision_config":{` + so400m + `},"text_config":{"model_type":"mistral","vocab_size":32003}}`, 378, 504},
	{"idefics2-8b-980x980", `{"model_type":"idefics2","vision_config":{` + so400m + `},"text_config":{"model_type":"mistral","vocab_size":32003}}`, 980, 980},
	{"minicpm-v-2.6-448x448", `{"model_type":"minicpmv","hidden_size":3584,"num_attention_heads":28,"num_key_value_heads":4,"query_num":64,"vision_config":{` + so400m + `}}`, 448, 448},
}

// BenchmarkPicture encodes one picture: tower and resampler, with the scratch they take.
func BenchmarkPicture(b *testing.B) {
	for _, c := range pictureSides {
		b.Run(c.name, func(b *testing.B) {
			m, err := weights.Bind(weights.Random(1), func(s weights.Scope) (*conditioned.Model, error) {
				return conditioned.New(s, []byte(c.config), conditioned.Options{PictureOnly: true})
			})
			if err != nil {
				b.Fatal(err)
			}
			var a tensor.Arena
			px := conditioned.Pictures{Pixels: tensor.New(1, c.h, c.w, 3)}
			for b.Loop() {
				mark := a.Mark()
				if _, err := m.Encode(&a, px); err != nil {
					b.Fatal(err)
				}
				a.Release(mark)
			}
			b.ReportMetric(float64(a.Bytes())/(1<<20), "MiB-scratch")
		})
	}
}
