package feed

import (
	"strings"

	"github.com/mmserve/mmserve/weights"
)

// hiddenSizes are the hidden sizes of published language models, by the end of their names in
// lower case.
var hiddenSizes = map[string]int{
	"mistral-7b-v0.1": 4096, "mistral-7b-instruct-v0.1": 4096, "mistral-7b-instruct-v0.2": 4096, "mistral-7b-instruct-v0.3": 4096,
	"llama-2-7b-hf": 4096, "llama-2-7b-chat-hf": 4096, "llama-2-13b-hf": 5120, "llama-2-13b-chat-hf": 5120, "llama-2-70b-hf": 8192,
	"meta-llama-3-8b": 4096, "meta-llama-3-8b-instruct": 4096, "llama-3.1-8b": 4096, "llama-3.1-8b-instruct": 4096,
	"llama-3.1-70b-instruct": 8192, "llama-3.2-1b": 2048, "llama-3.2-1b-instruct": 2048, "llama-3.2-3b": 3072, "llama-3.2-3b-instruct": 3072,
	"qwen2-0.5b": 896, "qwen2-1.5b": 1536, "qwen2-7b": 3584, "qwen2-7b-instruct": 3584,
	"qwen2.5-0.5b": 896, "qwen2.5-0.5b-instruct": 896, "qwen2.5-1.5b-instruct": 1536, "qwen2.5-3b-instruct": 2048, "qwen2.5-7b-instruct": 3584,
	"qwen-7b": 4096, "qwen-vl": 4096, "qwen-vl-chat": 4096,
	"idefics2-8b": 4096, "idefics2-8b-base": 4096, "idefics2-8b-chatty": 4096, "minicpm-v-2_6": 3584,
	"opt-125m": 768, "opt-1.3b": 2048, "gpt2": 768,
}

// HiddenSize is the hidden size of a published language model, false when it is not listed.
// The owner's part of the name ("meta-llama/") may be left out.
func HiddenSize(llm string) (int, bool) {
	name := strings.ToLower(llm[strings.LastIndexByte(llm, '/')+1:])
	n, ok := hiddenSizes[name]
	return n, ok
}

// consistent fills in the hidden size of a published target, and refuses one that the request
// states differently.
func (t *Target) consistent() error {
	known, ok := HiddenSize(t.Name)
	if ok && t.Hidden != 0 && t.Hidden != known {
		return refuse("hidden size of %s is %d, the request says %d", t.Name, known, t.Hidden)
	}
	if ok {
		t.Hidden = known
	}
	return nil
}

// dtype is the type tensors are stored in.
func (t Target) dtype() weights.DType {
	if t.DType == "" {
		return weights.F32
	}
	return t.DType
}
