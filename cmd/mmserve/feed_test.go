package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/internal/feed"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// towerTokens writes the tokens of two pictures for the MiniCPM-V resampler of the reference
// cases, which makes 9 soft tokens of width 32 of each.
func towerTokens(t *testing.T) (model, file string) {
	t.Helper()
	x := tensor.New(2, 16, 24)
	weights.Uniform(x.Data, "tokens", 0, 0, 1)
	file = filepath.Join(t.TempDir(), "tokens.npy")
	var b bytes.Buffer
	if err := weights.WriteNPY(&b, x, weights.F32); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return data("reference", "resampler", "minicpmv-2.6"), file
}

func TestEncodeForLanguageModelServers(t *testing.T) {
	model, file := towerTokens(t)
	code, raw, errs := mmserve(t, "encode", "--model", model, "--output", "soft_tokens", "--format", "raw", file)
	if code != 0 || len(raw) != 4*2*9*32 {
		t.Fatalf("status %d, %d bytes: %s", code, len(raw), errs)
	}
	for _, format := range feed.Formats() {
		code, out, errs := mmserve(t, "encode", "--model", model, "--format", format, "--hidden-size", "32", "--image-sizes", "56x56,56x28", "--placeholders", "minicpmv", file)
		if code != 0 {
			t.Errorf("%s: status %d: %s", format, code, errs)
			continue
		}
		switch format {
		case "llama.cpp":
			if out != raw {
				t.Error("llama.cpp: not the bytes of raw")
			}
		default:
			if !json.Valid([]byte(out)) {
				t.Errorf("%s: %.80s", format, out)
			}
		}
		if format == "vllm-image-embeds" && !strings.Contains(out, "image_sizes") {
			t.Error("image_sizes were not sent along")
		}
	}
}

// A connector by itself takes the tokens of a tower, and which of them are real.
func TestEncodeTakesOptions(t *testing.T) {
	model := data("reference", "resampler", "idefics2-connector-padded")
	x := tensor.New(1, 4, 32)
	weights.Uniform(x.Data, "tokens", 0, 0, 1)
	write := func(t4 tensor.Tensor) string {
		file := filepath.Join(t.TempDir(), "x.npy")
		var b bytes.Buffer
		if err := weights.WriteNPY(&b, t4, weights.F32); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	encode := func(args ...string) string {
		code, out, errs := mmserve(t, append([]string{"encode", "--model", model, "--output", "soft_tokens", "--format", "raw"}, args...)...)
		if code != 0 || len(out) != 4*6*40 {
			t.Fatalf("status %d, %d bytes: %s", code, len(out), errs)
		}
		return out
	}
	whole := write(x)
	if encode("--options", `{"masks":[[true,true,true,false]]}`, whole) != encode(write(tensor.Of(x.Data[:3*32], 1, 3, 32))) {
		t.Error("a masked token was read")
	}
	for _, c := range []struct {
		options string
		code    int
		want    string
	}{
		{`{"masks":[[true]]}`, 1, "want 4 tokens, got 1"},
		{`{"mask":1}`, 1, "mask"},
		{`{`, 2, "no JSON"},
	} {
		code, _, errs := mmserve(t, "encode", "--model", model, "--options", c.options, whole)
		if code != c.code || !strings.Contains(errs, c.want) {
			t.Errorf("%s: status %d: %s", c.options, code, errs)
		}
	}
}

func TestEncodeRefusesWhatDoesNotFit(t *testing.T) {
	model, file := towerTokens(t)
	cross := data("reference", "resampler", "ip-adapter-plus-pos-meanpool")
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--model", cross, "--format", "vllm-chat", file}, 1, "cross-attention"},
		{[]string{"--model", model, "--format", "vllm-chat", "--hidden-size", "64", file}, 1, "width 32"},
		{[]string{"--model", model, "--format", "sglang", "--target", "Qwen/Qwen2-7B", file}, 1, "3584"},
		{[]string{"--model", model, "--format", "ollama", file}, 2, "vllm-chat"},
		{[]string{"--model", model, "--store", "f8", file}, 2, "bf16"},
		{[]string{"--model", model, "--format", "vllm-image-embeds", "--image-sizes", "big", file}, 2, "640x480"},
		{[]string{"--model", model, "--format", "llama.cpp", "--store", "f16", file}, 1, "F32"},
	} {
		code, out, errs := mmserve(t, append([]string{"encode"}, c.args...)...)
		if code != c.code || out != "" || !strings.Contains(errs, c.want) {
			t.Errorf("%v: status %d, %d bytes, %s", c.args, code, len(out), errs)
		}
	}
}

func TestGenerateStreamsWhatJSONHolds(t *testing.T) {
	args := []string{"generate", "--prompt", "a", "--max-tokens", "5", "--temperature", "1", "--top-k", "20", "--top-p", "0.9", "--seed", "3"}
	code, text, errs := mmserve(t, args...)
	if code != 0 {
		t.Fatalf("status %d: %s", code, errs)
	}
	code, out, errs := mmserve(t, append(args, "--json")...)
	if code != 0 {
		t.Fatalf("status %d: %s", code, errs)
	}
	var g struct {
		Text   string
		Tokens int
	}
	if err := json.Unmarshal([]byte(out), &g); err != nil || g.Text+"\n" != text || g.Tokens > 5 {
		t.Errorf("%q, %v: streamed %q", out, err, text)
	}
}

func TestGenerateRefusals(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
	}{
		{nil, 2},
		{[]string{"--prompt", "a", "--max-tokens", "0"}, 2},
		{[]string{"--prompt", "a", "--temperature", "-1"}, 2},
		{[]string{"--prompt", "a", "--temperature", "NaN"}, 2},
		{[]string{"--prompt", "a", "--top-p", "2"}, 2},
		{[]string{"--prompt", "a", "--top-k", "-2"}, 2},
		{[]string{"--prompt", "<image> and", "--max-tokens", "2"}, 1},
		{[]string{"--prompt", "a", "--image", "no-such-file.png"}, 1},
		{[]string{"--prompt", "a", "--model", data("reference", "perceiver", "mlm_language")}, 1},
	} {
		if code, out, errs := mmserve(t, append([]string{"generate"}, c.args...)...); code != c.code || out != "" {
			t.Errorf("%v: status %d, %q, %s", c.args, code, out, errs)
		}
	}
}
