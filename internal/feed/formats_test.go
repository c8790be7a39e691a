package feed_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/internal/feed"
	"github.com/mmserve/mmserve/weights"
)

func TestWriteByName(t *testing.T) {
	for _, name := range feed.Formats() {
		var b bytes.Buffer
		if err := feed.Write(&b, name, soft(t, "x_f32"), feed.Target{Hidden: 8}, feed.Extra{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		mediaType, ok := feed.Known(name)
		if !ok || b.Len() == 0 || strings.HasSuffix(mediaType, "json") != json.Valid(b.Bytes()) {
			t.Errorf("%s: %q, %d bytes", name, mediaType, b.Len())
		}
		cross := soft(t, "x_f32")
		cross.Kind = feed.CrossAttention
		var r *feed.Refusal
		err := feed.Write(&bytes.Buffer{}, name, cross, feed.Target{}, feed.Extra{})
		if name != "hf" && !errors.As(err, &r) || name == "hf" && err != nil {
			t.Errorf("%s of cross-attention latents: %v", name, err)
		}
		if early := feed.Check(name, feed.CrossAttention, 8, feed.Target{}); (early == nil) != (err == nil) {
			t.Errorf("%s: Check says %v, Write %v", name, early, err)
		}
	}
}

func TestNamedTargets(t *testing.T) {
	for _, c := range []struct {
		target feed.Target
		word   string // "" passes
	}{
		{feed.Target{Name: "mistralai/Mistral-7B-v0.1"}, "4096"},
		{feed.Target{Name: "Qwen/Qwen2-7B", Hidden: 8}, "3584"},
		{feed.Target{Name: "nobody/knows"}, ""},
		{feed.Target{Name: "nobody/knows", Hidden: 9}, "nobody/knows"},
	} {
		err := feed.Check("vllm-chat", feed.SoftTokens, 8, c.target)
		if (err == nil) != (c.word == "") || err != nil && !strings.Contains(err.Error(), c.word) {
			t.Errorf("%+v: %v", c.target, err)
		}
	}
}

func TestWriteRefuses(t *testing.T) {
	big := soft(t, "x_f32")
	big.Data = big.Data.Clone()
	big.Data.Data[3] = 1e6
	for name, err := range map[string]error{
		"infinite as F16": feed.Write(&bytes.Buffer{}, "vllm-chat", big, feed.Target{DType: weights.F16}, feed.Extra{}),
		"embd as F16":     feed.Write(&bytes.Buffer{}, "llama.cpp", soft(t, "x_f32"), feed.Target{DType: weights.F16}, feed.Extra{}),
		"unknown":         feed.Write(&bytes.Buffer{}, "ollama", soft(t, "x_f32"), feed.Target{}, feed.Extra{}),
		"no kind":         feed.Check("vllm-chat", "", 8, feed.Target{}),
	} {
		var r *feed.Refusal
		if !errors.As(err, &r) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
