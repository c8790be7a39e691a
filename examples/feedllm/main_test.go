package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/flamingo/tokenizer"
	"github.com/mmserve/mmserve/internal/golden"
	"github.com/mmserve/mmserve/weights"
)

// model writes a small model of the Idefics2 kind, whose weights are random.
func model(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	b, err := os.ReadFile(filepath.Join(golden.Root(t), "flamingo", "tokenizer", "testdata", "llama.json"))
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	image, _ := tok.ID("<image>")
	config := fmt.Sprintf(`{"architectures":["Idefics2ForConditionalGeneration"],"model_type":"idefics2","image_token_id":%d,
		"vision_config":{"hidden_size":32,"intermediate_size":48,"num_hidden_layers":1,"num_attention_heads":2,"image_size":56,"patch_size":14},
		"perceiver_config":{"resampler_n_latents":4,"resampler_depth":1,"resampler_n_heads":4,"resampler_head_dim":8,"num_key_value_heads":2},
		"text_config":{"model_type":"mistral","vocab_size":%d,"hidden_size":64,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"intermediate_size":64}}`, image, tok.Size())
	for name, data := range map[string][]byte{
		"tokenizer.json":           b,
		"config.json":              []byte(config),
		"preprocessor_config.json": []byte(`{"image_processor_type":"Idefics2ImageProcessor","size":{"shortest_edge":28,"longest_edge":56},"do_image_splitting":false}`),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// rows reads the torch file of a prompt_embeds part as float32 bytes.
func rows(data string) ([]byte, error) {
	b, err := base64.StdEncoding.DecodeString(data)
	if err != nil {
		return nil, err
	}
	c, err := weights.Parse("embeds.pt", b)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	for name := range c.Names() {
		raw, err := c.Load(name)
		if err != nil || raw.DType != weights.F32 || len(raw.Shape) != 2 || raw.Shape[1] != 64 {
			return nil, fmt.Errorf("%v %v: %w", raw.DType, raw.Shape, err)
		}
		return raw.Data, nil
	}
	return nil, fmt.Errorf("no tensor")
}

// All three consumers get the same latents, byte for byte.
func TestFeedsThreeLanguageModels(t *testing.T) {
	var sent []byte
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			Messages []struct {
				Content []struct{ Type, Data, Text string }
			}
		}
		text, _ := io.ReadAll(r.Body)
		if err := json.Unmarshal(text, &body); err != nil || r.URL.Path != "/v1/chat/completions" {
			http.Error(w, "bad request", http.StatusBadRequest)
			return
		}
		content := body.Messages[0].Content
		if len(content) != 2 || content[0].Type != "prompt_embeds" || content[1].Text == "" {
			http.Error(w, "bad parts", http.StatusBadRequest)
			return
		}
		var err error
		if sent, err = rows(content[0].Data); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		io.WriteString(w, `{"choices":[{"message":{"role":"assistant","content":"a picture"}}]}`)
	}))
	defer server.Close()

	image := filepath.Join(t.TempDir(), "a.png")
	copyFile(t, filepath.Join(golden.Root(t), "testdata", "media", "image"), image)
	embd := filepath.Join(t.TempDir(), "a.embd")
	var out bytes.Buffer
	args := []string{"--model", model(t), "--random", "--image", image, "--prompt", "<image>What is it?", "--vllm", server.URL, "--embd", embd}
	if err := run(t.Context(), args, &out); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(embd)
	if err != nil {
		t.Fatal(err)
	}
	if len(raw) != 4*4*64 || !bytes.Equal(raw, sent) {
		t.Errorf("%d bytes for llama.cpp, %d for vLLM, the same: %v", len(raw), len(sent), bytes.Equal(raw, sent))
	}
	for _, want := range []string{"own: ", "vllm: a picture", "llama.cpp: 4 rows of 64"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("output lacks %q:\n%s", want, out.String())
		}
	}
	// a target of another hidden size is refused before anything is sent
	sent = nil
	err = run(t.Context(), append(args, "--target", "Mistral-7B-v0.1"), io.Discard)
	if err == nil || !strings.Contains(err.Error(), "4096") || !strings.Contains(err.Error(), "64") || sent != nil {
		t.Errorf("a target of another size: %v", err)
	}
}

// copyFile copies the first PNG of a directory.
func copyFile(t *testing.T, dir, to string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*.png"))
	if err != nil || len(found) == 0 {
		t.Fatalf("no picture in %s: %v", dir, err)
	}
	for _, path := range found {
		if b, err := os.ReadFile(path); err == nil && len(b) > 1000 {
			if err := os.WriteFile(to, b, 0o600); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
}

// Latents that are cross-attention memory are refused, with the reason.
func TestCrossAttentionIsRefused(t *testing.T) {
	dir := filepath.Join(golden.Root(t), "testdata", "reference", "flamingo", "idefics-tiny")
	image := filepath.Join(t.TempDir(), "a.png")
	copyFile(t, filepath.Join(golden.Root(t), "testdata", "media", "image"), image)
	b, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	own := t.TempDir()
	// without a tokenizer the model cannot speak; give it one of its size
	tok, err := os.ReadFile(filepath.Join(golden.Root(t), "flamingo", "tokenizer", "testdata", "llama.json"))
	if err != nil {
		t.Fatal(err)
	}
	b = bytes.Replace(b, []byte(`"vocab_size": 90`), []byte(`"vocab_size": 420`), 1)
	for name, data := range map[string][]byte{"config.json": b, "tokenizer.json": tok} {
		if err := os.WriteFile(filepath.Join(own, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	err = run(t.Context(), []string{"--model", own, "--random", "--image", image, "--embd", filepath.Join(own, "x")}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "cross-attention memory") {
		t.Errorf("%v", err)
	}
}
