package pipeline_test

import (
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/flamingo/tokenizer"
	"github.com/mmserve/mmserve/modality/imagefile"
	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/pipeline"
	"github.com/mmserve/mmserve/weights"
)

// drawn is a PNG of w×h.
func drawn(t testing.TB, w, h int) pipeline.Part {
	t.Helper()
	img := image.NewNRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			img.SetNRGBA(x, y, color.NRGBA{uint8(x * 7), uint8(y * 5), uint8(x ^ y), 255})
		}
	}
	b, err := imagefile.EncodePNG(img)
	if err != nil {
		t.Fatal(err)
	}
	return pipeline.Part{Input: media.Bytes("a.png", b)}
}

// pictureDir writes a model directory: small files, and tokenizers copied to those names.
func pictureDir(t testing.TB, files map[string]string, tokenizers map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, from := range tokenizers {
		b, err := os.ReadFile(filepath.Join("..", "flamingo", "tokenizer", "testdata", from))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func tokenizerOf(t testing.TB, name string) *tokenizer.Tokenizer {
	t.Helper()
	tok, err := tokenizer.Open(filepath.Join("..", "flamingo", "tokenizer", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

const tinyVision = `"vision_config":{"hidden_size":32,"embed_dim":32,"intermediate_size":48,"num_hidden_layers":2,"num_attention_heads":2,"image_size":28,"patch_size":7}`

// pictureModels are directories of every family, to be opened with random weights.
func pictureModels(t testing.TB) map[string]string {
	llama := tokenizerOf(t, "llama.json")
	image, _ := llama.ID("<image>")
	lang := func(kind string, vocab int) string {
		return fmt.Sprintf(`{"model_type":%q,"vocab_size":%d,"hidden_size":48,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"intermediate_size":64,"max_position_embeddings":256}`, kind, vocab)
	}
	neox := tokenizerOf(t, "neox.json")
	return map[string]string{
		"idefics2": pictureDir(t, map[string]string{
			"config.json": fmt.Sprintf(`{"architectures":["Idefics2ForConditionalGeneration"],"model_type":"idefics2","image_token_id":%d,%s,
				"perceiver_config":{"resampler_n_latents":3,"resampler_depth":1,"resampler_n_heads":4,"resampler_head_dim":8,"num_key_value_heads":2},"text_config":%s}`,
				image, tinyVision, lang("mistral", llama.Size())),
			"preprocessor_config.json": `{"image_processor_type":"Idefics2ImageProcessor","size":{"shortest_edge":14,"longest_edge":28},"do_image_splitting":true}`,
		}, map[string]string{"tokenizer.json": "llama.json"}),
		"idefics": pictureDir(t, map[string]string{
			"config.json": strings.Replace(lang("idefics", llama.Size()-2), "{", `{"architectures":["IdeficsForVisionText2Text"],"additional_vocab_size":2,"cross_layer_interval":1,"eos_token_id":2,
				"perceiver_config":{"resampler_n_latents":3,"resampler_depth":1,"resampler_n_heads":4,"resampler_head_dim":8},`+tinyVision+",", 1),
		}, map[string]string{"tokenizer.json": "llama.json"}),
		"minicpmv": pictureDir(t, map[string]string{
			"config.json": strings.Replace(lang("minicpmv", llama.Size()), `"hidden_size":48`, `"architectures":["MiniCPMV"],"query_num":3,"hidden_size":256,`+tinyVision, 1),
		}, map[string]string{"tokenizer.json": "llama.json"}),
		"openflamingo": pictureDir(t, map[string]string{
			"model.json":                             `{"architecture":"openflamingo","cross_attn_every_n_layers":1,"perceiver":{"depth":1,"dim_head":8,"heads":4,"num_latents":3},"gated_cross_attn":{"dim_head":8,"heads":4}}`,
			"checkpoint.pt":                          "", // never opened with random weights
			"language_model/config.json":             strings.Replace(lang("gpt_neox", neox.Size()), `"num_key_value_heads":2,`, `"rotary_pct":1,`, 1),
			"language_model/special_tokens_map.json": `{"eos_token":"<|endoftext|>"}`,
			"vision_tower/config.json":               `{"model_type":"clip_vision_model",` + strings.TrimSuffix(strings.TrimPrefix(tinyVision, `"vision_config":{`), "}") + `}`,
		}, map[string]string{"language_model/tokenizer.json": "neox.json"}),
	}
}

func TestPicturesBecomeText(t *testing.T) {
	for name, dir := range pictureModels(t) {
		t.Run(name, func(t *testing.T) {
			m, err := pipeline.Open(t.Context(), dir, pipeline.Options{Random: true})
			if err != nil {
				t.Fatal(err)
			}
			info := m.Info()
			if info.SoftTokens != 3 || info.Task != "image_text_generation" {
				t.Errorf("%+v", info)
			}
			want := map[bool]string{true: "soft_tokens", false: "cross_attention"}[name == "idefics2" || name == "minicpmv"]
			if info.SoftTokenKind != want {
				t.Errorf("soft token kind %q", info.SoftTokenKind)
			}
			item := pipeline.Item{Parts: []pipeline.Part{drawn(t, 40, 30)}}
			enc, err := m.Encode(t.Context(), item, pipeline.EncodeOptions{Outputs: []string{"all"}})
			if err != nil {
				t.Fatal(err)
			}
			rows := 3
			if name == "idefics2" {
				rows = 15 // four quadrants and the whole
			}
			if !slices.Equal(enc.SoftTokens.Shape, []int{rows, info.SoftTokenDim}) {
				t.Errorf("soft tokens %v", enc.SoftTokens.Shape)
			}
			if plan, err := m.Plan(t.Context(), item); err != nil || plan.FLOPs <= 0 || plan.Rows <= 0 {
				t.Errorf("plan %+v, %v", plan, err)
			}
			var streamed strings.Builder
			g, err := m.(pipeline.Generator).Generate(t.Context(), pipeline.Prompt{Text: "<image>A picture of", Parts: item.Parts},
				pipeline.GenerateOptions{MaxTokens: 8}, func(s string) error { streamed.WriteString(s); return nil })
			if err != nil {
				t.Fatal(err)
			}
			if g.Tokens == 0 || g.Tokens > 8 || streamed.String() != g.Text || strings.Contains(g.Text, "<image>") {
				t.Errorf("%+v, streamed %q", g, streamed.String())
			}
			if _, err := m.Predict(t.Context(), item, pipeline.PredictOptions{}); err != nil {
				t.Error(err)
			}
			if _, err := m.(pipeline.Generator).Generate(t.Context(), pipeline.Prompt{Text: "<image><image>", Parts: item.Parts}, pipeline.GenerateOptions{}, nil); err == nil {
				t.Error("two marks for one picture")
			}
		})
	}
}

func TestPictureReferenceDirectoriesEncode(t *testing.T) {
	dir := filepath.Join("..", "testdata", "reference", "flamingo", "idefics-tiny")
	m, err := pipeline.Open(t.Context(), dir, pipeline.Options{})
	if err != nil {
		t.Fatal(err)
	}
	enc, err := m.Encode(t.Context(), pipeline.Item{Parts: []pipeline.Part{drawn(t, 64, 48)}}, pipeline.EncodeOptions{})
	if err != nil || !slices.Equal(enc.Latents.Shape, []int{6, 32}) {
		t.Fatalf("%v, %v", enc, err)
	}
	if _, err := m.(pipeline.Generator).Generate(t.Context(), pipeline.Prompt{Text: "a"}, pipeline.GenerateOptions{}, nil); err == nil || !strings.Contains(err.Error(), "tokenizer.json") {
		t.Errorf("generation without a tokenizer: %v", err)
	}
}

// An IP-Adapter directory is its adapter file and its encoder's.
func TestIPAdapterDirectory(t *testing.T) {
	adapter := map[string][]int{
		"image_proj.latents": {1, 4, 64}, "image_proj.proj_in.weight": {64, 32}, "image_proj.proj_in.bias": {64},
		"image_proj.proj_out.weight": {48, 64}, "image_proj.proj_out.bias": {48}, "image_proj.norm_out.weight": {48}, "image_proj.norm_out.bias": {48},
		"image_proj.layers.0.0.norm1.weight": {64}, "image_proj.layers.0.0.norm1.bias": {64}, "image_proj.layers.0.0.norm2.weight": {64}, "image_proj.layers.0.0.norm2.bias": {64},
		"image_proj.layers.0.0.to_q.weight": {128, 64}, "image_proj.layers.0.0.to_kv.weight": {256, 64}, "image_proj.layers.0.0.to_out.weight": {64, 128},
		"image_proj.layers.0.1.0.weight": {64}, "image_proj.layers.0.1.0.bias": {64}, "image_proj.layers.0.1.1.weight": {256, 64}, "image_proj.layers.0.1.3.weight": {64, 256},
		"ip_adapter.1.to_k_ip.weight": {8, 48},
	}
	encoder := map[string][]int{
		"vision_model.embeddings.class_embedding": {32}, "vision_model.embeddings.patch_embedding.weight": {32, 3, 7, 7}, "vision_model.embeddings.position_embedding.weight": {17, 32},
		"vision_model.pre_layrnorm.weight": {32}, "vision_model.pre_layrnorm.bias": {32}, "vision_model.post_layernorm.weight": {32}, "vision_model.post_layernorm.bias": {32},
		"visual_projection.weight": {16, 32},
	}
	for i := range 2 {
		p := fmt.Sprintf("vision_model.encoder.layers.%d.", i)
		for _, n := range []string{"q_proj", "k_proj", "v_proj", "out_proj"} {
			encoder[p+"self_attn."+n+".weight"], encoder[p+"self_attn."+n+".bias"] = []int{32, 32}, []int{32}
		}
		maps.Copy(encoder, map[string][]int{
			p + "layer_norm1.weight": {32}, p + "layer_norm1.bias": {32}, p + "layer_norm2.weight": {32}, p + "layer_norm2.bias": {32},
			p + "mlp.fc1.weight": {48, 32}, p + "mlp.fc1.bias": {48}, p + "mlp.fc2.weight": {32, 48}, p + "mlp.fc2.bias": {32},
		})
	}
	dir := pictureDir(t, map[string]string{
		"model.json":                `{"architecture":"ip_adapter_plus","adapter":"ip-adapter-plus.safetensors"}`,
		"image_encoder/config.json": `{"model_type":"clip_vision_model","architectures":["CLIPVisionModelWithProjection"],"hidden_act":"gelu","projection_dim":16,` + strings.TrimSuffix(strings.TrimPrefix(tinyVision, `"vision_config":{`), "}") + `}`,
	}, nil)
	writeSeeded(t, filepath.Join(dir, "ip-adapter-plus.safetensors"), adapter)
	writeSeeded(t, filepath.Join(dir, "image_encoder", "model.safetensors"), encoder)
	m, err := pipeline.Open(t.Context(), dir, pipeline.Options{})
	if err != nil {
		t.Fatal(err)
	}
	item := pipeline.Item{Parts: []pipeline.Part{drawn(t, 30, 50)}}
	enc, err := m.Encode(t.Context(), item, pipeline.EncodeOptions{})
	if err != nil || !slices.Equal(enc.Latents.Shape, []int{4, 48}) {
		t.Fatalf("%v, %v", enc, err)
	}
	if _, err := m.Predict(t.Context(), item, pipeline.PredictOptions{}); err == nil {
		t.Error("an IP-Adapter has no language model")
	}
}

func writeSeeded(t *testing.T, path string, shapes map[string][]int) {
	t.Helper()
	var specs []weights.Spec
	for name, shape := range shapes {
		specs = append(specs, weights.Spec{Name: name, DType: weights.F32, Shape: shape})
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := weights.CopySafetensors(f, weights.Seeded(specs...), nil); err != nil {
		t.Fatal(err)
	}
}

func TestPictureDirectoryFaults(t *testing.T) {
	models := pictureModels(t)
	var config map[string]any
	b, err := os.ReadFile(filepath.Join(models["idefics2"], "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &config); err != nil {
		t.Fatal(err)
	}
	config["text_config"].(map[string]any)["vocab_size"] = 40
	config["image_token_id"] = 3
	b, _ = json.Marshal(config)
	small := pictureDir(t, map[string]string{"config.json": string(b)}, map[string]string{"tokenizer.json": "llama.json"})
	for _, c := range []struct{ dir, want string }{
		{small, "the embedding 40"},
		{pictureDir(t, map[string]string{"model.json": `{"architecture":"openflamingo"}`}, nil), "no "},
		{pictureDir(t, map[string]string{"model.json": `{"architecture":"ip_adapter_plus"}`}, nil), "image_encoder"},
	} {
		if _, err := pipeline.Open(t.Context(), c.dir, pipeline.Options{Random: true}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}

func TestSlices(t *testing.T) {
	for _, c := range []struct {
		w, h int
		want [][2]int // height, width
	}{
		{448, 448, [][2]int{{448, 448}}},
		{100, 100, [][2]int{{448, 448}}},
		{200, 50, [][2]int{{224, 896}}},
		{896, 448, [][2]int{{322, 630}, {448, 448}, {448, 448}}},
	} {
		got := pipeline.SliceSizes(c.w, c.h)
		if !slices.Equal(got, c.want) {
			t.Errorf("%d×%d: %v, want %v", c.w, c.h, got, c.want)
		}
	}
	for w := 1; w < 5000; w += 97 {
		for h := 1; h < 5000; h += 89 {
			for _, s := range pipeline.SliceSizes(w, h) {
				if s[0]%14 != 0 || s[1]%14 != 0 || s[0] < 14 || s[1] < 14 {
					t.Fatalf("%d×%d: %v", w, h, s)
				}
			}
		}
	}
}
