package perceiver_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/perceiver"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// TestDefaults: keys that a config.json leaves out have the published defaults.
func TestDefaults(t *testing.T) {
	c, err := perceiver.ParseConfig([]byte(`{"architectures": ["PerceiverForMaskedLM"]}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		key       string
		got, want any
	}{
		{"num_latents", c.NumLatents, 256}, {"d_latents", c.LatentDim, 1280}, {"d_model", c.ModelDim, 768},
		{"num_blocks", c.NumBlocks, 1}, {"num_self_attends_per_block", c.SelfPerBlock, 26},
		{"num_self_attention_heads", c.SelfHeads, 8}, {"num_cross_attention_heads", c.CrossHeads, 8},
		{"qk_channels", c.QKChannels, 0}, {"v_channels", c.VChannels, 0},
		{"cross_attention_shape_for_attention", c.CrossShape, "kv"},
		{"self_attention_widening_factor", c.SelfWidening, 1}, {"cross_attention_widening_factor", c.CrossWidening, 1},
		{"hidden_act", c.Act, kernel.GELU}, {"use_query_residual", c.UseQueryResidual, true},
		{"vocab_size", c.VocabSize, 262}, {"max_position_embeddings", c.MaxPositions, 2048},
		{"image_size", c.ImageSize, 56}, {"train_size", fmt.Sprint(c.TrainSize), "[368 496]"},
		{"num_frames", c.NumFrames, 16}, {"audio_samples_per_frame", c.AudioSamplesPerFrame, 1920},
		{"samples_per_patch", c.SamplesPerPatch, 16}, {"output_shape", fmt.Sprint(c.OutputShape), "[1 16 224 224]"},
		{"output_num_channels", c.OutputChannels, 512}, {"_label_trainable_num_channels", c.LabelChannels, 1024},
		{"num_labels", c.NumLabels, 2},
	} {
		if x.got != x.want {
			t.Errorf("%s: %v, want %v", x.key, x.got, x.want)
		}
	}
}

// TestLabels: id2label decides over num_labels, and is ordered by id.
func TestLabels(t *testing.T) {
	c, err := perceiver.ParseConfig([]byte(`{"architectures": ["PerceiverForMaskedLM"], "num_labels": 5, "id2label": {"1": "b", "0": "a", "2": "c"}}`))
	if err != nil {
		t.Fatal(err)
	}
	if c.NumLabels != 3 || !slices.Equal(c.Labels, []string{"a", "b", "c"}) {
		t.Errorf("%d labels %v, want 3: a b c", c.NumLabels, c.Labels)
	}
}

// TestConfigFaults: every bad configuration is refused with its key.
func TestConfigFaults(t *testing.T) {
	for _, c := range []struct{ name, config, want string }{
		{"not JSON", `{`, "config"},
		{"not an object", `[]`, "config"},
		{"null", `null`, "architectures"},
		{"no architecture", `{}`, "architectures"},
		{"unknown architecture", `{"architectures": ["BertModel"]}`, `"BertModel" is not one of [Perceiver`},
		{"text for a number", `{"architectures": ["PerceiverModel"], "d_latents": "many"}`, `"d_latents"`},
		{"fraction", `{"architectures": ["PerceiverModel"], "num_latents": 2.5}`, `"num_latents"`},
		{"negative", `{"architectures": ["PerceiverModel"], "num_blocks": -1}`, `"num_blocks"`},
		{"huge", `{"architectures": ["PerceiverModel"], "d_latents": 1e30}`, `"d_latents"`},
		{"self heads", `{"architectures": ["PerceiverModel"], "d_latents": 30}`, `"num_self_attention_heads"`},
		{"cross heads", `{"architectures": ["PerceiverModel"], "num_cross_attention_heads": 3}`, `"num_cross_attention_heads"`},
		{"v is not d_latents", `{"architectures": ["PerceiverModel"], "v_channels": 640}`, `"v_channels"`},
		{"qk without v", `{"architectures": ["PerceiverModel"], "qk_channels": 256}`, `"v_channels"`},
		{"kv width and heads", `{"architectures": ["PerceiverForImageClassificationFourier"]}`, `261 input channels`},
		{"shape rule", `{"architectures": ["PerceiverModel"], "cross_attention_shape_for_attention": "v"}`, `"cross_attention_shape_for_attention"`},
		{"activation", `{"architectures": ["PerceiverModel"], "hidden_act": "mish"}`, `"hidden_act"`},
		{"labels", `{"architectures": ["PerceiverModel"], "id2label": {"0": "a", "7": "b"}}`, `"id2label"`},
		{"train size", `{"architectures": ["PerceiverForOpticalFlow"], "train_size": [368]}`, `"train_size"`},
		{"d_model and decoder heads", `{"architectures": ["PerceiverForMaskedLM"], "d_model": 12, "num_cross_attention_heads": 4}`, `"d_model"`},
		{"d_model zero", `{"architectures": ["PerceiverModel"], "d_model": 0}`, `"d_model"`},
		{"latents beyond memory", `{"architectures": ["PerceiverModel"], "num_latents": 1048576, "d_model": 1048576}`, `"num_latents"`},
		{"audio patches", `{"architectures": ["PerceiverForMultimodalAutoencoding"], "samples_per_patch": 7}`, `"samples_per_patch"`},
		{"original without depth", `{"architectures": ["Perceiver"], "num_freq_bands": 2, "max_freq": 3}`, `"depth"`},
		{"original inverted", `{"architectures": ["Perceiver"], "num_freq_bands": 2, "max_freq": 3, "depth": 1, "inverted_cross_attn": true}`, `"inverted_cross_attn"`},
		{"causal heads", `{"architectures": ["PerceiverCausalLanguageModel"], "model_config": {"num_channels": 30, "num_heads": 4}}`, `"num_channels"`},
		{"causal length", `{"architectures": ["PerceiverCausalLanguageModel"], "model_config": {"max_seq_len": 16777216}}`, `"max_seq_len"`},
		{"causal latents", `{"architectures": ["PerceiverCausalLanguageModel"], "model_config": {"max_latents": 30, "max_seq_len": 4}}`, `"max_latents"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := weights.Bind(weights.Random(1), func(s weights.Scope) (perceiver.Network, error) {
				return perceiver.Load([]byte(c.config), s, perceiver.Options{})
			})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %s", err, c.want)
			}
		})
	}
}

// TestMissing: one error lists what a checkpoint lacks.
func TestMissing(t *testing.T) {
	_, err := weights.Bind(weights.Memory{}, func(s weights.Scope) (perceiver.Network, error) {
		return perceiver.Load([]byte(small("PerceiverForMaskedLM", `"d_model": 24, "max_position_embeddings": 50, "num_cross_attention_heads": 4`)), s, perceiver.Options{})
	})
	bind, ok := errors.AsType[*weights.BindError](err)
	if !ok {
		t.Fatalf("an empty checkpoint gives %v", err)
	}
	for _, name := range []string{"perceiver.embeddings.latents", "perceiver.input_preprocessor.embeddings.weight", "embedding_decoder.bias",
		"perceiver.encoder.self_attends.1.mlp.dense2.bias", "perceiver.decoder.decoding_cross_attention.attention.output.dense.weight"} {
		if !slices.ContainsFunc(bind.Missing, func(m weights.Mismatch) bool { return m.Name == name }) {
			t.Errorf("the error does not name %s", name)
		}
	}
}

// TestInputFaults: inputs that do not fit are refused before any arithmetic, and say why.
func TestInputFaults(t *testing.T) {
	var a tensor.Arena
	ctx := t.Context()
	lm := build(t, subjects[0].config, perceiver.Options{}).(*perceiver.MaskedLM)
	text := func(ids [][]int, mask [][]float32) error {
		_, err := lm.Forward(ctx, &a, ids, mask)
		return err
	}
	image := func(config string, in []perceiver.Picture, mask [][]float32) error {
		_, err := build(t, config, perceiver.Options{}).(*perceiver.ImageClassifier).Forward(ctx, &a, in, mask)
		return err
	}
	flow := func(in ...perceiver.Picture) error {
		_, err := build(t, subjects[5].config, perceiver.Options{}).(*perceiver.OpticalFlow).Forward(ctx, &a, in, nil)
		return err
	}
	mm := build(t, subjects[6].config, perceiver.Options{}).(*perceiver.MultimodalAutoencoder)
	clip := func(c perceiver.Clip) error {
		_, err := mm.Encode(ctx, &a, []perceiver.Clip{c}, nil)
		return err
	}
	points := func(p perceiver.Points) error {
		_, err := mm.Decode(ctx, &a, tensor.New(1, 20, 32), p)
		return err
	}
	ar := build(t, subjects[8].config, perceiver.Options{}).(*perceiver.CausalLM)
	causal := func(ids []int, prefix int, mask []float32) error {
		var m [][]float32
		if mask != nil {
			m = [][]float32{mask}
		}
		_, err := ar.Forward(ctx, &a, [][]int{ids}, prefix, m)
		return err
	}
	film := perceiver.Film(tensor.New(3, 3, 24, 24))
	fourier, conv, learned := subjects[2].config, subjects[3].config, subjects[4].config
	for _, c := range []struct {
		name string
		err  error
		want string
	}{
		{"no batch", text(nil, nil), "empty batch"},
		{"no tokens", text([][]int{{}}, nil), "0 tokens, want 1 to 500"},
		{"too long", text([][]int{make([]int, 501)}, nil), "501 tokens, want 1 to 500"},
		{"no such token", text([][]int{{3, 262}}, nil), "token 1 is 262, want 0 to 261"},
		{"negative token", text([][]int{{-1}}, nil), "token 0 is -1"},
		{"mask count", text([][]int{{1}}, [][]float32{{1}, {1}}), "2 masks"},
		{"mask width", text([][]int{{1}}, [][]float32{{1, 1}}), "mask of 2 values for 1 rows"},
		{"mask value", text([][]int{{1}}, [][]float32{{2}}), "want a value in [0, 1]"},
		{"channels", image(fourier, perceiver.Planes(tensor.New(1, 4, 8, 8)), nil), "4 channels"},
		{"axes", image(fourier, []perceiver.Picture{film}, nil), "want 2 axes"},
		{"empty picture", image(fourier, perceiver.Planes(tensor.New(1, 3, 0, 8)), nil), "sizes of at least 1"},
		{"too small", image(conv, perceiver.Planes(tensor.New(1, 3, 4, 8)), nil), "too small"},
		{"learned size", image(learned, perceiver.Planes(tensor.New(1, 3, 18, 19)), nil), `"image_size" 18×18`},
		{"flow size", flow(perceiver.Frames(tensor.New(18, 30, 3), tensor.New(18, 30, 3))), "want 18×31"},
		{"two sizes", flow(perceiver.Frames(tensor.New(18, 31, 3), tensor.New(18, 30, 3))), "two of the same size"},
		{"film size", clip(perceiver.Clip{Film: perceiver.Film(tensor.New(3, 3, 22, 24)), Audio: make([]float32, 480)}), "multiples of 4"},
		{"sound length", clip(perceiver.Clip{Film: film, Audio: make([]float32, 481)}), "multiple of 16"},
		{"no sound", clip(perceiver.Clip{Film: film}), "0 samples"},
		{"image point", points(perceiver.Points{Image: []int{1728}}), "image point 1728, want 0 to 1727"},
		{"audio point", points(perceiver.Points{Audio: []int{-1}}), "audio point -1"},
		{"no points", points(perceiver.Points{}), "no points"},
		{"all prefix", causal([]int{1, 2}, 2, nil), "prefix of 2"},
		{"too many latents", causal(make([]int, 100), 10, nil), "want 1 to 60 latents"},
		{"right padding", causal([]int{1, 2, 3}, 1, []float32{0, 1, 0}), "on the left"},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %s", c.name, c.err, c.want)
		}
	}
}

// FuzzConfig: no text makes a parser panic, and what is accepted is within bounds.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"architectures": ["PerceiverModel"], "d_latents": 32, "id2label": {"0": "a"}, "train_size": [3, 4]}`))
	f.Add([]byte(`{"architectures": ["Perceiver"], "num_freq_bands": 2, "max_freq": 3.5, "depth": 1, "input_axis": 9}`))
	f.Add([]byte(`{"model_config": {"num_channels": 32, "num_heads": 4, "max_latents": 3}}`))
	f.Add([]byte(`{"model_config": [], "output_shape": [16777216, 16777216, 16777216, 16777216]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if c, err := perceiver.ParseConfig(text); err == nil && (c.NumLabels < 1 || c.LatentDim%c.SelfHeads != 0) {
			t.Fatalf("accepted %+v", c)
		}
		perceiver.ParseOriginalConfig(text)
		perceiver.ParseCausalConfig(text)
		perceiver.Architecture(text)
	})
}
