package flamingo_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/flamingo"
	"github.com/mmserve/mmserve/weights"
)

// part is a checkpoint of tensors made from their names.
type part map[string][]int

func (p part) source() weights.Source {
	var specs []weights.Spec
	for name, shape := range p {
		specs = append(specs, weights.Spec{Name: name, DType: weights.F32, Shape: shape})
	}
	return weights.Seeded(specs...)
}

func (p part) with(more part) part {
	out := maps.Clone(p)
	maps.Copy(out, more)
	return out
}

// gates are the parameters of the gated layers before the decoder layers of that prefix.
func gates(prefix string, layers ...int) part {
	out := part{}
	for _, i := range layers {
		p := fmt.Sprintf("%s%d.gated_cross_attn_layer.", prefix, i)
		maps.Copy(out, part{
			p + "attn_gate": {1}, p + "ff_gate": {1}, p + "attn.norm.weight": {48}, p + "attn.norm.bias": {48},
			p + "attn.to_q.weight": {32, 48}, p + "attn.to_kv.weight": {64, 24}, p + "attn.to_out.weight": {48, 32},
			p + "ff.0.weight": {48}, p + "ff.0.bias": {48}, p + "ff.1.weight": {96, 48}, p + "ff.3.weight": {48, 96},
		})
	}
	return out
}

// llamaPart is the base language model of langs["llama"].
func llamaPart() part {
	out := part{"model.embed_tokens.weight": {64, 48}, "model.norm.weight": {48}, "lm_head.weight": {64, 48}}
	for i := range 4 {
		p := fmt.Sprintf("model.layers.%d.", i)
		maps.Copy(out, part{
			p + "input_layernorm.weight": {48}, p + "post_attention_layernorm.weight": {48},
			p + "self_attn.q_proj.weight": {48, 48}, p + "self_attn.k_proj.weight": {48, 48}, p + "self_attn.v_proj.weight": {48, 48},
			p + "self_attn.o_proj.weight": {48, 48}, p + "self_attn.rotary_emb.inv_freq": {6},
			p + "mlp.gate_proj.weight": {80, 48}, p + "mlp.up_proj.weight": {80, 48}, p + "mlp.down_proj.weight": {48, 80},
		})
	}
	return out
}

const layers = "lang_encoder.model.layers."

var (
	embedding = part{"lang_encoder.model.embed_tokens.weight": {67, 48}}
	vision    = part{"vision_model.x": {1}, "text_model.y": {1}}
)

func assemble(t *testing.T, checkpoint, lang part) error {
	t.Helper()
	c, err := flamingo.ParseConfig([]byte(inFlamingo(langs["llama"], "")))
	if err != nil {
		t.Fatal(err)
	}
	src, err := flamingo.Assemble(checkpoint.source(), lang.source(), vision.source(), c)
	if err != nil {
		return err
	}
	_, err = weights.Bind(src, func(s weights.Scope) (*flamingo.Model, error) {
		return flamingo.New(s.At("lang_encoder"), c)
	}, weights.Options{Ignore: []string{"vision_encoder.*", "perceiver.*"}})
	return err
}

// A released checkpoint, a training checkpoint and the module's aliases are the same model.
func TestAssembleSpellings(t *testing.T) {
	released := gates(layers, 1, 3).with(embedding)
	training := part{}
	for name, shape := range released {
		training["module."+name] = shape
	}
	alias := part{}
	for name, shape := range released {
		name = strings.Replace(name, layers, "lang_encoder.gated_cross_attn_layers.", 1)
		alias[strings.Replace(name, ".gated_cross_attn_layer.", ".", 1)] = shape
	}
	for name, c := range map[string]part{"released": released, "training": training, "alias": alias} {
		if err := assemble(t, c, llamaPart()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMismatchedPartsNameBothSides(t *testing.T) {
	noHead := llamaPart()
	delete(noHead, "model.layers.2.mlp.up_proj.weight")
	for _, c := range []struct {
		name             string
		checkpoint, lang part
		want             []string
	}{
		{"interval", gates(layers, 0, 1, 2, 3).with(embedding), llamaPart(), []string{"every 2 of 4", "[1 3]", "[0 1 2 3]"}},
		{"decoder", gates("lang_encoder.gpt_neox.layers.", 1, 3).with(embedding), llamaPart(), []string{"model.layers", "llama"}},
		{"no embedding", gates(layers, 1, 3), llamaPart(), []string{"lacks", "67", "[64 48]"}},
		{"embedding rows", gates(layers, 1, 3).with(part{"lang_encoder.model.embed_tokens.weight": {70, 48}}), llamaPart(), []string{"[70 48]", "[67 48]"}},
		{"missing weight", gates(layers, 1, 3).with(embedding), noHead, []string{`missing "lang_encoder.model.layers.2.mlp.up_proj.weight"`}},
		{"left over", gates(layers, 1, 3).with(embedding), llamaPart().with(part{"model.extra": {2}}), []string{`left over "lang_encoder.model.extra"`}},
	} {
		err := assemble(t, c.checkpoint, c.lang)
		if err == nil {
			t.Errorf("%s: accepted", c.name)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v does not say %q", c.name, err, w)
			}
		}
	}
}

func TestTokenizerLength(t *testing.T) {
	c, err := flamingo.ParseConfig([]byte(inFlamingo(langs["llama"], "")))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.CheckTokenizer(67); err != nil {
		t.Error(err)
	}
	for _, n := range []int{66, 70} {
		if err := c.CheckTokenizer(n); err == nil || !strings.Contains(err.Error(), "67") {
			t.Errorf("%d tokens: %v", n, err)
		}
	}
	plain, _ := flamingo.ParseConfig([]byte(langs["llama"]))
	if plain.CheckTokenizer(60) != nil || plain.CheckTokenizer(65) == nil {
		t.Error("a plain model may pad its vocabulary and may not lack rows")
	}
}
