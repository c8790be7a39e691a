package flamingo

import (
	"fmt"
	"maps"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/mmserve/mmserve/weights"
)

// Prefixes of OpenFlamingo's three parts, as its own module names them.
const (
	visionPrefix = "vision_encoder."
	langPrefix   = "lang_encoder."
)

// layersOf is where a decoder keeps its layers.
var layersOf = map[Arch]string{
	GPTNeoX: "gpt_neox.layers.",
	MPT:     "transformer.blocks.",
	LLaMA:   "model.layers.",
	OPT:     "model.decoder.layers.",
}

// Assemble joins the three sources of an OpenFlamingo model as the reference does: the
// released checkpoint (perceiver.*, the gated layers, the resized embeddings), the frozen base
// language model, whose embeddings the checkpoint's replace, and the vision tower. The result
// has perceiver.*, lang_encoder.* and vision_encoder.*. vision may be nil.
//
// Training checkpoints ({"model_state_dict": {"module.…"}}) and the aliases
// lang_encoder.gated_cross_attn_layers.N.* and lang_encoder.old_decoder_blocks.N.* are read
// too.
func Assemble(checkpoint, lang, vision weights.Source, c Config) (weights.Source, error) {
	checkpoint = Released(checkpoint, c.Arch)
	if err := checkGates(checkpoint, c); err != nil {
		return nil, err
	}
	have := map[string]bool{}
	for n := range checkpoint.Names() {
		have[n] = true
	}
	if err := checkEmbeddings(checkpoint, lang, c); err != nil {
		return nil, err
	}
	parts := map[string]weights.Source{
		"": checkpoint,
		langPrefix: weights.Rename(lang, func(name string) string {
			if c.Arch == OPT && strings.HasPrefix(name, "decoder.") {
				name = "model." + name
			}
			if have[langPrefix+name] {
				return "" // replaced
			}
			return name
		}),
	}
	if vision != nil {
		parts[visionPrefix] = weights.Rename(vision, func(name string) string {
			if strings.HasPrefix(name, "vision_model.") || strings.HasPrefix(name, "visual.") {
				return name
			}
			return "" // the text half of a whole CLIP
		})
	}
	return weights.Merge(parts), nil
}

// Released gives a training checkpoint, and one with the aliases of the module, the names of
// a released OpenFlamingo checkpoint over a decoder of that family.
func Released(src weights.Source, arch Arch) weights.Source {
	return weights.Rename(src, func(name string) string {
		name = strings.TrimPrefix(name, "model_state_dict.")
		name = strings.TrimPrefix(name, "module.")
		if rest, ok := strings.CutPrefix(name, langPrefix+"gated_cross_attn_layers."); ok {
			return langPrefix + layersOf[arch] + strings.Replace(rest, ".", ".gated_cross_attn_layer.", 1)
		}
		if rest, ok := strings.CutPrefix(name, langPrefix+"old_decoder_blocks."); ok {
			return langPrefix + layersOf[arch] + rest
		}
		return strings.Replace(name, ".decoder_layer.", ".", 1)
	})
}

// checkGates compares the layers that carry cross-attention in the checkpoint with those that
// the configuration asks for.
func checkGates(src weights.Source, c Config) error {
	found := map[int]bool{}
	for n := range src.Names() {
		rest, ok := strings.CutPrefix(n, langPrefix+layersOf[c.Arch])
		head, tail, _ := strings.Cut(rest, ".")
		if i, err := strconv.Atoi(head); ok && err == nil && strings.HasPrefix(tail, "gated_cross_attn_layer.") {
			found[i] = true
		}
	}
	if len(found) == 0 {
		return fmt.Errorf("flamingo: the checkpoint has no gated cross-attention below %q, where a %s decoder keeps its layers", langPrefix+layersOf[c.Arch], c.Arch)
	}
	var want []int
	for i := range c.Layers {
		if c.Cross.At(i) {
			want = append(want, i)
		}
	}
	got := slices.Collect(maps.Keys(found))
	sort.Ints(got)
	if !slices.Equal(got, want) {
		return fmt.Errorf("flamingo: cross-attention every %d of %d layers wants it before layers %v, the checkpoint has it before %v", c.Cross.Every, c.Layers, want, got)
	}
	return nil
}

// inputEmbedding names each decoder's embedding.
var inputEmbedding = map[Arch]string{
	GPTNeoX: "gpt_neox.embed_in.weight",
	MPT:     "transformer.wte.weight",
	LLaMA:   "model.embed_tokens.weight",
	OPT:     "model.decoder.embed_tokens.weight",
}

// checkEmbeddings refuses a checkpoint without its resized embeddings, and one whose rows are
// not the vocabulary that the configuration's added tokens make.
func checkEmbeddings(checkpoint, lang weights.Source, c Config) error {
	name := inputEmbedding[c.Arch]
	_, shape, ok := checkpoint.Stat(langPrefix + name)
	if !ok {
		_, base, _ := lang.Stat(name)
		return fmt.Errorf("flamingo: the checkpoint lacks %q, the embedding resized to %d tokens; the base language model's is %v", langPrefix+name, c.Vocab, base)
	}
	if w := c.embedWidth(); len(shape) != 2 || shape[0] != c.Vocab || shape[1] != w {
		return fmt.Errorf("flamingo: the checkpoint's embedding %q is %v, the base language model of width %d with the added tokens makes [%d %d]", langPrefix+name, shape, w, c.Vocab, w)
	}
	return nil
}
