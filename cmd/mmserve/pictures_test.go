package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/flamingo/tokenizer"
	"github.com/mmserve/mmserve/pipeline"
	"github.com/mmserve/mmserve/pipeline/conditioned"
	"github.com/mmserve/mmserve/weights"
)

// files are what a model directory holds, by name.
type files map[string]string

func (f files) write(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range f {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// needed lists the tensors that a configuration's model reads.
func needed(t *testing.T, config string) []weights.Spec {
	t.Helper()
	_, err := weights.Bind(weights.Memory{}, func(s weights.Scope) (*conditioned.Model, error) {
		return conditioned.New(s, []byte(config), conditioned.Options{})
	})
	var missing *weights.BindError
	if !errors.As(err, &missing) {
		t.Fatal(err)
	}
	var specs []weights.Spec
	for _, m := range missing.Missing {
		specs = append(specs, weights.Spec{Name: m.Name, DType: weights.F32, Shape: m.Want})
	}
	return specs
}

// checkpoint is the text of a safetensors file of tensors made from their names. name gives
// the name in the file, "" to leave a tensor out.
func checkpoint(t *testing.T, specs []weights.Spec, name func(string) string) string {
	t.Helper()
	var kept []weights.Spec
	for _, s := range specs {
		if s.Name = name(s.Name); s.Name != "" {
			kept = append(kept, s)
		}
	}
	var b strings.Builder
	if err := weights.CopySafetensors(&b, weights.Seeded(kept...), nil); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func tokenizerFile(t *testing.T, name string) (string, *tokenizer.Tokenizer) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "flamingo", "tokenizer", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), tok
}

const tower = `"hidden_size":32,"embed_dim":32,"intermediate_size":48,"num_hidden_layers":2,"num_attention_heads":2,"image_size":28,"patch_size":7`

func decoder(kind string, vocab int, more string) string {
	return fmt.Sprintf(`{"model_type":%q,"vocab_size":%d,"hidden_size":48,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"intermediate_size":64,"max_position_embeddings":256%s}`, kind, vocab, more)
}

// openFlamingo is a directory of three sources, as an OpenFlamingo model is published.
func openFlamingo(t *testing.T) files {
	text, tok := tokenizerFile(t, "neox.json")
	all := tok.With("<|endofchunk|>", "<image>", "<PAD>")
	id := func(s string) int { i, _ := all.ID(s); return i }
	lang := decoder("gpt_neox", tok.Size(), `,"rotary_pct":1`)
	shape := `"cross_attn_every_n_layers":1,"perceiver":{"depth":1,"dim_head":8,"heads":4,"num_latents":3},"gated_cross_attn":{"dim_head":8,"heads":4}`
	whole := fmt.Sprintf(`{"model_type":"openflamingo",%s,"media_token_id":%d,"eoc_token_id":%d,"pad_token_id":%d,"lang_config":%s,"vision_config":{%s}}`,
		shape, id("<image>"), id("<|endofchunk|>"), id("<PAD>"), lang, tower)
	specs := needed(t, whole)
	released := func(n string) bool {
		return strings.HasPrefix(n, "perceiver.") || strings.Contains(n, "gated_cross_attn_layer") || strings.Contains(n, "embed_in") || strings.Contains(n, "embed_out")
	}
	only := func(prefix string) func(string) string {
		return func(n string) string {
			if rest, ok := strings.CutPrefix(n, prefix); ok && !released(n) {
				return rest
			}
			return ""
		}
	}
	return files{
		"model.json": `{"architecture":"OpenFlamingo",` + shape + `}`,
		"checkpoint.safetensors": checkpoint(t, specs, func(n string) string {
			if released(n) {
				return n
			}
			return ""
		}),
		"language_model/config.json":             lang,
		"language_model/tokenizer.json":          text,
		"language_model/special_tokens_map.json": `{"eos_token":"<|endoftext|>"}`,
		"language_model/model.safetensors":       checkpoint(t, specs, only("lang_encoder.")),
		"vision_tower/config.json":               `{"model_type":"clip_vision_model",` + tower + `}`,
		"vision_tower/model.safetensors":         checkpoint(t, specs, only("vision_encoder.")),
	}
}

// sharded divides a model over two safetensors files and their index.
func sharded(t *testing.T, f files, specs []weights.Spec, name func(string) string) files {
	index := map[string]string{}
	for i := range 2 {
		shard := fmt.Sprintf("model-0000%d-of-00002.safetensors", i+1)
		half := specs[i*len(specs)/2 : (i+1)*len(specs)/2]
		f[shard] = checkpoint(t, half, name)
		for _, s := range half {
			index[name(s.Name)] = shard
		}
	}
	b, err := json.Marshal(map[string]any{"weight_map": index})
	if err != nil {
		t.Fatal(err)
	}
	f["model.safetensors.index.json"] = string(b)
	return f
}

func idefics(t *testing.T) files {
	text, tok := tokenizerFile(t, "llama.json")
	config := strings.Replace(decoder("idefics", tok.Size()-2, ""), "{", `{"architectures":["IdeficsForVisionText2Text"],"additional_vocab_size":2,"cross_layer_interval":1,
		"perceiver_config":{"resampler_n_latents":3,"resampler_depth":1,"resampler_n_heads":4,"resampler_head_dim":8},"vision_config":{`+tower+`},`, 1)
	return sharded(t, files{"config.json": config, "tokenizer.json": text}, needed(t, config), func(n string) string { return n })
}

func idefics2(t *testing.T) files {
	text, tok := tokenizerFile(t, "llama.json")
	image, _ := tok.ID("<image>")
	config := fmt.Sprintf(`{"architectures":["Idefics2ForConditionalGeneration"],"model_type":"idefics2","image_token_id":%d,"vision_config":{%s},
		"perceiver_config":{"resampler_n_latents":3,"resampler_depth":1,"resampler_n_heads":4,"resampler_head_dim":8,"num_key_value_heads":2},"text_config":%s}`,
		image, tower, decoder("mistral", tok.Size(), ""))
	return sharded(t, files{
		"config.json": config, "tokenizer.json": text,
		"preprocessor_config.json": `{"image_processor_type":"Idefics2ImageProcessor","size":{"shortest_edge":14,"longest_edge":28},"do_image_splitting":false}`,
	}, needed(t, config), func(n string) string {
		if rest, ok := strings.CutPrefix(n, "lang.model."); ok {
			return "model.text_model." + rest
		}
		return strings.TrimPrefix(n, "lang.")
	})
}

func mediaPicture(name string) string { return data("media", "image", name) }

// A directory as published answers prompts about several pictures: streamed as printed,
// greedy or drawn by a seed, up to a limit or a stop, never with the media token.
func TestGenerateAboutPictures(t *testing.T) {
	a, b := mediaPicture("alpha.png"), mediaPicture("go-video-001.rgb.jpeg")
	for name, make := range map[string]func(*testing.T) files{"OpenFlamingo": openFlamingo, "Idefics": idefics, "Idefics2": idefics2} {
		t.Run(name, func(t *testing.T) {
			f := make(t)
			dir := f.write(t)
			type answer struct {
				Text   string `json:"text"`
				Prompt int    `json:"prompt_tokens"`
				Tokens int    `json:"tokens"`
				Reason string `json:"finish_reason"`
			}
			ask := func(args ...string) (g answer) {
				t.Helper()
				args = append([]string{"generate", "--model", dir}, args...)
				code, streamed, errs := mmserve(t, args...)
				if code != 0 {
					t.Fatalf("%v: status %d: %s", args, code, errs)
				}
				code, out, errs := mmserve(t, append(args, "--json")...)
				if code != 0 || json.Unmarshal([]byte(out), &g) != nil {
					t.Fatalf("%v: status %d: %s%s", args, code, out, errs)
				}
				if streamed != g.Text+"\n" {
					t.Errorf("%v: streamed %q, whole %q", args, streamed, g.Text)
				}
				if strings.Contains(g.Text, "<image>") || strings.Contains(g.Text, "fake_token") {
					t.Errorf("%v: a media token in %q", args, g.Text)
				}
				return g
			}
			two := []string{"--image", a, "--image", b, "--prompt", "<image>one<image>two", "--max-tokens", "12"}
			g := ask(two...)
			if g.Tokens != 12 || g.Reason != "length" {
				t.Errorf("%+v", g)
			}
			if front := ask("--image", a, "--image", b, "--prompt", "onetwo", "--max-tokens", "12"); front == g {
				t.Error("where the pictures stand makes no difference")
			}
			if other := ask("--image", b, "--image", a, "--prompt", "<image>one<image>two", "--max-tokens", "12"); other.Prompt != g.Prompt {
				t.Errorf("%d tokens of prompt, %d with the pictures exchanged", g.Prompt, other.Prompt)
			}
			if one := ask("--image", a, "--prompt", "<image>one", "--max-tokens", "1"); one.Tokens != 1 {
				t.Errorf("%+v", one)
			}
			hot := append(slices.Clone(two), "--temperature", "2", "--top-k", "40", "--top-p", "0.95", "--seed")
			if x, y := ask(append(hot, "5")...), ask(append(hot, "6")...); x == y || x == g {
				t.Errorf("two seeds and the greedy choice: %q, %q, %q", x.Text, y.Text, g.Text)
			}
			if runes := []rune(g.Text); len(runes) > 2 {
				mark := string(runes[1:2])
				s := ask(append(slices.Clone(two), "--stop", mark)...)
				if want, _, _ := strings.Cut(g.Text, mark); s.Text != want || s.Reason != "stop" {
					t.Errorf("stopped before %q: %+v, want %q", mark, s, want)
				}
			}
			code, _, errs := mmserve(t, "generate", "--model", dir, "--image", a, "--prompt", "<image> and <image>")
			if code != 1 || !strings.Contains(errs, "2 <image> marks for 1 pictures") {
				t.Errorf("status %d: %s", code, errs)
			}
		})
	}
}

// The end tokens of a configuration end the text and are not printed.
func TestGenerateStopsAtEndTokens(t *testing.T) {
	f := idefics(t)
	var all []string
	_, tok := tokenizerFile(t, "llama.json")
	for id := range tok.Size() {
		all = append(all, fmt.Sprint(id))
	}
	f["config.json"] = strings.Replace(f["config.json"], "{", `{"eos_token_id":[`+strings.Join(all, ",")+`],`, 1)
	code, out, errs := mmserve(t, "generate", "--model", f.write(t), "--image", mediaPicture("alpha.png"), "--prompt", "<image>a", "--json")
	if code != 0 || !strings.Contains(out, `"tokens":0`) || !strings.Contains(out, `"finish_reason":"stop"`) {
		t.Errorf("status %d: %s%s", code, out, errs)
	}
}

// Parts that do not belong together are refused with what each side has.
func TestMismatchedPartsAreRefused(t *testing.T) {
	_, tok := tokenizerFile(t, "neox.json")
	size := tok.With("<|endofchunk|>", "<image>", "<PAD>").Size()
	for _, c := range []struct {
		name  string
		spoil func(files)
		want  []string
	}{
		{"interval", func(f files) {
			f["model.json"] = strings.Replace(f["model.json"], `"cross_attn_every_n_layers":1`, `"cross_attn_every_n_layers":2`, 1)
		}, []string{"every 2 of 2 layers", "[1]", "[0 1]"}},
		{"no embeddings", func(f files) {
			f["checkpoint.safetensors"] = strings.ReplaceAll(f["checkpoint.safetensors"], "gpt_neox.embed_in", "gpt_neox.embed_xx")
		}, []string{"lacks", "lang_encoder.gpt_neox.embed_in.weight", fmt.Sprint(size)}},
		{"tokenizer length", func(f files) {
			f["model.json"] = strings.Replace(f["model.json"], "{", fmt.Sprintf(`{"media_token_id":%d,`, size), 1)
		}, []string{fmt.Sprint(size), fmt.Sprint(size + 1)}},
		{"another decoder", func(f files) {
			f["language_model/config.json"] = decoder("llama", tok.Size(), "")
		}, []string{"lang_encoder.model.layers.", "llama"}},
		{"another tower", func(f files) {
			f["vision_tower/config.json"] = strings.Replace(f["vision_tower/config.json"], `"hidden_size":32`, `"hidden_size":64`, 1)
		}, []string{"64", "32"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := openFlamingo(t)
			c.spoil(f)
			code, out, errs := mmserve(t, "generate", "--model", f.write(t), "--prompt", "a")
			if code != 1 || out != "" {
				t.Errorf("status %d: %s", code, out)
			}
			for _, w := range c.want {
				if !strings.Contains(errs, w) {
					t.Errorf("%q does not say %q", errs, w)
				}
			}
		})
	}
}

// The digest covers every source of an assembled model.
func TestDigestCoversEveryPart(t *testing.T) {
	f := openFlamingo(t)
	digest := func(f files) string {
		t.Helper()
		m, err := pipeline.Open(t.Context(), f.write(t), pipeline.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return m.Info().Digest
	}
	seen := map[string]string{digest(f): "the model"}
	if again := digest(f); seen[again] == "" {
		t.Error("the same files have two digests")
	}
	for name := range f {
		changed := files{}
		for n, text := range f {
			changed[n] = text
		}
		if strings.HasSuffix(name, ".json") {
			changed[name] = f[name] + "\n"
		} else { // the last value of the last tensor
			changed[name] = f[name][:len(f[name])-4] + "\x00\x00\x00\x3f"
		}
		d := digest(changed)
		if other := seen[d]; other != "" {
			t.Errorf("the digest with another %s is that of %s", name, other)
		}
		seen[d] = name
	}
}
