package conditioned_test

import (
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/flamingo"
	"github.com/mmserve/mmserve/internal/golden"
	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/internal/refcase"
	"github.com/mmserve/mmserve/pipeline/conditioned"
	"github.com/mmserve/mmserve/resampler"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/vision"
	"github.com/mmserve/mmserve/weights"
)

func idefics(t *testing.T) *refcase.Case {
	t.Helper()
	c, err := refcase.Load(filepath.Join(golden.Root(t), "testdata", "reference", "flamingo", "idefics-tiny"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// stored returns every tensor of a case's checkpoint rounded to dt, and those same values
// widened again.
func stored(t *testing.T, c *refcase.Case, dt weights.DType) (half, wide weights.Memory) {
	t.Helper()
	src, err := c.Source()
	if err != nil {
		t.Fatal(err)
	}
	half, wide = weights.Memory{}, weights.Memory{}
	for name := range src.Names() {
		raw, err := src.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		if half[name], err = weights.Encode(raw.Tensor(), dt); err != nil {
			t.Fatal(err)
		}
		if wide[name], err = weights.Encode(half[name].Tensor(), weights.F32); err != nil {
			t.Fatal(err)
		}
	}
	return half, wide
}

// Weights kept in 16 bits give the same bits as the same values in float32.
func TestHalvesGiveTheSameBits(t *testing.T) {
	c := idefics(t)
	ids, _, _ := c.Ints("p0.input_ids")
	px, _ := c.Tensor("p0.pixel_values")
	for _, dt := range []weights.DType{weights.F16, weights.BF16} {
		half, wide := stored(t, c, dt)
		var logits []tensor.Tensor
		for _, src := range []weights.Source{half, wide} {
			m, err := conditioned.Load(c.Config, conditioned.Sources{Model: src}, conditioned.Options{})
			if err != nil {
				t.Fatal(err)
			}
			var a tensor.Arena
			z, err := m.Encode(&a, conditioned.Pictures{Pixels: vision.ChannelsLast(px.Reshape(px.Shape[1:]...))})
			if err != nil {
				t.Fatal(err)
			}
			s := m.LM.NewSequence()
			if err := m.LM.Condition(&a, s, z); err != nil {
				t.Fatal(err)
			}
			x, err := m.LM.Forward(&a, []flamingo.Part{{Seq: s, Tokens: ids}}, true)
			if err != nil {
				t.Fatal(err)
			}
			logits = append(logits, x.Clone())
		}
		if !slices.Equal(logits[0].Data, logits[1].Data) {
			t.Errorf("%s weights change the logits", dt)
		}
	}
}

// The arithmetic reaches tower, resampler and language model: each changes what comes out, more
// so the coarser it is.
func TestDTypeReachesEveryPart(t *testing.T) {
	c := idefics(t)
	ids, _, _ := c.Ints("p0.input_ids")
	px, _ := c.Tensor("p0.pixel_values")
	src, err := c.Source()
	if err != nil {
		t.Fatal(err)
	}
	load := func(dt kernel.DType) *conditioned.Model {
		m, err := conditioned.Load(c.Config, conditioned.Sources{Model: src}, conditioned.Options{DType: dt})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	// Latents of a model; logits for the latents of the float32 model.
	run := func(m *conditioned.Model, z tensor.Tensor) (latents, logits tensor.Tensor) {
		var a tensor.Arena
		latents, err := m.Encode(&a, conditioned.Pictures{Pixels: vision.ChannelsLast(px.Reshape(px.Shape[1:]...))})
		if err != nil {
			t.Fatal(err)
		}
		if z.Data == nil {
			z = latents
		}
		s := m.LM.NewSequence()
		if err := m.LM.Condition(&a, s, z); err != nil {
			t.Fatal(err)
		}
		x, err := m.LM.Forward(&a, []flamingo.Part{{Seq: s, Tokens: ids}}, true)
		if err != nil {
			t.Fatal(err)
		}
		return latents.Clone(), x.Clone()
	}
	z, want := run(load(kernel.F32), tensor.Tensor{})
	lastZ, lastX := 0.0, 0.0
	for _, dt := range []kernel.DType{kernel.BF16W, kernel.BF16, kernel.Int8} {
		latents, logits := run(load(dt), z)
		dz, dx := relative(z, latents), relative(want, logits)
		t.Logf("%s: latents %.2g, logits %.2g", dt, dz, dx)
		if dz <= lastZ || dx <= lastX || dz > 0.2 || dx > 0.2 {
			t.Errorf("%s: latents are off by %g after %g, logits by %g after %g", dt, dz, lastZ, dx, lastX)
		}
		lastZ, lastX = dz, dx
	}
}

// relative is the RMS of the difference over the RMS of want.
func relative(want, got tensor.Tensor) float64 {
	d, w := 0.0, 0.0
	for i, x := range want.Data {
		d += float64(got.Data[i]-x) * float64(got.Data[i]-x)
		w += float64(x) * float64(x)
	}
	return math.Sqrt(d / w)
}

// The picture side alone gives the latents of the whole model.
func TestPictureOnly(t *testing.T) {
	c := idefics(t)
	src, err := c.Source()
	if err != nil {
		t.Fatal(err)
	}
	m, err := conditioned.Load(c.Config, conditioned.Sources{Model: src}, conditioned.Options{PictureOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	px, _ := c.Tensor("p0.pixel_values")
	var a tensor.Arena
	z, err := m.Encode(&a, conditioned.Pictures{Pixels: vision.ChannelsLast(px.Reshape(px.Shape[1:]...))})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Compare("p0.perceiver", z); err != nil || m.LM != nil {
		t.Error(err)
	}
}

// A training checkpoint, {"model_state_dict": {"module.…"}}, holds the released resampler.
func TestTrainingCheckpoint(t *testing.T) {
	dir := filepath.Join(golden.Root(t), "testdata", "reference", "resampler", "openflamingo-bf16-weights")
	c, err := refcase.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	src, err := c.File("checkpoint.pt")
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := resampler.ParseConfig(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	r, err := weights.Bind(flamingo.Released(src, flamingo.MPT), func(s weights.Scope) (*resampler.Resampler, error) {
		return resampler.New(s.At(cfg.Prefix()), cfg)
	}, weights.Options{Ignore: []string{"epoch"}})
	if err != nil {
		t.Fatal(err)
	}
	x, _ := c.Tensor("x")
	var a tensor.Arena
	z, err := r.Forward(&a, resampler.Input{X: x.Reshape(x.Dim(1), x.Dim(3), x.Dim(4))})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Compare("output", z); err != nil {
		t.Error(err)
	}
}

// idefics2 is a small model of every part that takes soft tokens.
const idefics2 = `{"model_type":"idefics2","image_token_id":63,
	"vision_config":{"hidden_size":48,"intermediate_size":80,"num_hidden_layers":2,"num_attention_heads":3,"image_size":32,"patch_size":8},
	"perceiver_config":{"resampler_n_latents":3,"resampler_depth":1,"resampler_n_heads":4,"resampler_head_dim":8,"num_key_value_heads":2},
	"text_config":{"model_type":"mistral","vocab_size":64,"hidden_size":64,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"intermediate_size":80}}`

func TestIdefics2SpeaksAboutPictures(t *testing.T) {
	m, err := conditioned.Load([]byte(idefics2), conditioned.Sources{Model: weights.Seeded()}, conditioned.Options{})
	if err != nil {
		t.Fatal(err)
	}
	mask := make([]bool, 6*6)
	for r := range 3 {
		for c := range 5 {
			mask[r*6+c] = true
		}
	}
	var a tensor.Arena
	px := tensor.New(1, 48, 48, 3)
	for i := range px.Data {
		px.Data[i] = float32(i%7) - 3
	}
	z, err := m.Encode(&a, conditioned.Pictures{Pixels: px, Masks: [][]bool{mask}})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(z.Shape, []int{1, 3, 64}) {
		t.Fatalf("latents %v", z.Shape)
	}
	out, err := m.LM.Generate(t.Context(), []flamingo.Prompt{m.Prompt([]int{1, 63, 63, 63, 5}, z)}, flamingo.Options{MaxTokens: 5})
	if err != nil || len(out[0]) != 5 {
		t.Errorf("%v, %v", out, err)
	}
}

func TestMismatchedPartsAreRefused(t *testing.T) {
	for _, c := range []struct{ config, want string }{
		{strings.Replace(idefics2, `"hidden_size":48`, `"hidden_size":48,"num_channels":0`, 1), ""},
		{`{"model_type":"blip"}`, `"blip"`},
		{`{"model_type":"openflamingo","media_token_id":3,"vision_config":{"hidden_size":768},"lang_config":{"model_type":"llama"}}`, "three sources"},
	} {
		_, err := conditioned.Load([]byte(c.config), conditioned.Sources{Model: weights.Seeded()}, conditioned.Options{})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}
