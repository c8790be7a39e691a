package vision

import (
	"strings"

	"github.com/mmserve/mmserve/weights"
)

// openCLIPNames maps the parts of open_clip's names to Hugging Face's.
var openCLIPNames = strings.NewReplacer(
	"transformer.resblocks.", "encoder.layers.",
	".ln_1.", ".layer_norm1.",
	".ln_2.", ".layer_norm2.",
	".attn.", ".self_attn.",
	".mlp.c_fc.", ".mlp.fc1.",
	".mlp.c_proj.", ".mlp.fc2.",
)

// openCLIPHeads are the names outside the layers.
var openCLIPHeads = map[string]string{
	"class_embedding":      "embeddings.class_embedding",
	"positional_embedding": "embeddings.position_embedding.weight",
	"conv1.weight":         "embeddings.patch_embedding.weight",
	"ln_pre.weight":        "pre_layrnorm.weight",
	"ln_pre.bias":          "pre_layrnorm.bias",
	"ln_post.weight":       "post_layernorm.weight",
	"ln_post.bias":         "post_layernorm.bias",
	"proj":                 "proj",
}

// OpenCLIP gives the vision part of an open_clip checkpoint ("visual.*") the Hugging Face
// names that New reads with Config.Fused; the text part is hidden.
func OpenCLIP(src weights.Source) weights.Source {
	return weights.Rename(src, func(name string) string {
		rest, ok := strings.CutPrefix(name, "visual.")
		if !ok {
			return ""
		}
		if hf, ok := openCLIPHeads[rest]; ok {
			return "vision_model." + hf
		}
		return "vision_model." + openCLIPNames.Replace(rest)
	})
}
