package vision_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/vision"
	"github.com/mmserve/mmserve/weights"
)

// configs are small towers of every kind.
var configs = map[string]string{
	"clip":     `{"model_type":"clip_vision_model","architectures":["CLIPVisionModelWithProjection"],"hidden_size":48,"intermediate_size":80,"num_hidden_layers":2,"num_attention_heads":3,"image_size":32,"patch_size":8,"projection_dim":20}`,
	"siglip":   `{"model_type":"siglip_vision_model","hidden_size":48,"intermediate_size":80,"num_hidden_layers":2,"num_attention_heads":3,"image_size":32,"patch_size":8}`,
	"idefics2": `{"model_type":"idefics2","vision_config":{"hidden_size":48,"intermediate_size":80,"num_hidden_layers":2,"num_attention_heads":3,"image_size":32,"patch_size":8}}`,
	"openclip": `{"model_type":"open_clip_vision","width":48,"layers":2,"heads":3,"mlp_ratio":2,"output_dim":20,"image_size":32,"patch_size":8}`,
}

func build(t testing.TB, config string) *vision.Tower {
	t.Helper()
	cfg, err := vision.ParseConfig([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	tower, err := weights.Bind(weights.Seeded(), func(s weights.Scope) (*vision.Tower, error) {
		return vision.New(s, cfg)
	}, weights.Options{DType: kernel.F32})
	if err != nil {
		t.Fatal(err)
	}
	return tower
}

func pixels(seed uint64, b, h, w int) tensor.Tensor {
	x := tensor.New(b, h, w, 3)
	rng := rand.New(rand.NewPCG(seed, 2))
	for i := range x.Data {
		x.Data[i] = float32(rng.NormFloat64())
	}
	return x
}

func forward(t testing.TB, tower *vision.Tower, in vision.Input, f vision.Features) tensor.Tensor {
	t.Helper()
	var a tensor.Arena
	z, err := tower.Forward(&a, in, f)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// A picture has the same bits alone and in a batch.
func TestBatchedEqualsSingle(t *testing.T) {
	for name, config := range configs {
		tower := build(t, config)
		x := pixels(5, 3, 32, 32)
		all := forward(t, tower, vision.Input{Pixels: x}, vision.Features{})
		var a tensor.Arena
		var pooled tensor.Tensor
		if tower.PooledWidth() > 0 {
			pooled = tower.Pooled(&a, all)
		}
		for i := range 3 {
			one := forward(t, tower, vision.Input{Pixels: x.Slice(i, i+1)}, vision.Features{})
			if !slices.Equal(one.Data, all.At(i).Data) {
				t.Errorf("%s: picture %d differs in the batch", name, i)
			}
			if tower.PooledWidth() > 0 && !slices.Equal(tower.Pooled(&a, one).Data, pooled.At(i).Data) {
				t.Errorf("%s: pooled picture %d differs in the batch", name, i)
			}
		}
	}
}

// A picture padded to a larger canvas has the same bits as on its own.
func TestPaddingDoesNotShow(t *testing.T) {
	tower := build(t, configs["idefics2"])
	for _, size := range [][2]int{{2, 5}, {3, 3}, {1, 7}, {4, 4}} {
		gh, gw := size[0], size[1]
		small := pixels(9, 1, gh*8, gw*8)
		own := forward(t, tower, vision.Input{Pixels: small}, vision.Features{})
		const side = 8
		wide, mask := tensor.New(1, side*8, side*8, 3), make([]bool, side*side)
		for y := range gh * 8 {
			copy(wide.Data[y*side*8*3:], small.Data[y*gw*8*3:(y+1)*gw*8*3])
		}
		for r := range gh {
			for c := range gw {
				mask[r*side+c] = true
			}
		}
		padded := forward(t, tower, vision.Input{Pixels: wide, Masks: [][]bool{mask}}, vision.Features{})
		for r := range gh {
			for c := range gw {
				if !slices.Equal(own.At(0).Row(r*gw+c), padded.At(0).Row(r*side+c)) {
					t.Fatalf("%d×%d: patch (%d, %d) differs with padding", gh, gw, r, c)
				}
			}
		}
	}
}

// Features choose tokens of the same pass.
func TestFeatures(t *testing.T) {
	tower := build(t, configs["clip"])
	in := vision.Input{Pixels: pixels(1, 2, 32, 32)}
	stages := map[string]tensor.Tensor{}
	a := tensor.Arena{Trace: func(name string, x tensor.Tensor) { stages[name] = x.Clone() }}
	all, err := tower.Forward(&a, in, vision.Features{})
	if err != nil {
		t.Fatal(err)
	}
	patches := forward(t, tower, in, vision.Features{DropClass: true})
	if !slices.Equal(patches.Shape, []int{2, 16, 48}) {
		t.Fatalf("shape %v", patches.Shape)
	}
	for i := range 2 {
		if !slices.Equal(patches.At(i).Data, all.At(i).Data[48:]) {
			t.Error("patch tokens are not the tokens after the class token")
		}
	}
	if before := forward(t, tower, in, vision.Features{Skip: 1}); !slices.Equal(before.Data, stages["hidden_states.1"].Data) {
		t.Error("Skip 1 is not the layer before the last")
	}
}

func TestBadInputIsRefused(t *testing.T) {
	clip, nav := build(t, configs["clip"]), build(t, configs["idefics2"])
	for _, c := range []struct {
		tower *vision.Tower
		in    vision.Input
		f     vision.Features
		want  string
	}{
		{clip, vision.Input{Pixels: tensor.New(1, 32, 30, 3)}, vision.Features{}, "want 32×32, got 32×30"},
		{clip, vision.Input{Pixels: tensor.New(1, 32, 32, 1)}, vision.Features{}, "got shape"},
		{clip, vision.Input{Pixels: tensor.New(32, 32, 3)}, vision.Features{}, "got shape"},
		{clip, vision.Input{Pixels: tensor.New(1, 32, 32, 3)}, vision.Features{Skip: 3}, "skip 3 of 2"},
		{clip, vision.Input{Pixels: tensor.New(1, 32, 32, 3), Masks: make([][]bool, 1)}, vision.Features{}, "patch masks"},
		{nav, vision.Input{Pixels: tensor.New(1, 7, 32, 3)}, vision.Features{}, "smaller than a patch"},
		{nav, vision.Input{Pixels: tensor.New(1, 16, 16, 3), Masks: [][]bool{make([]bool, 5)}}, vision.Features{}, "want 2×2, got 5"},
		{nav, vision.Input{Pixels: tensor.New(1, 16, 16, 3), Masks: [][]bool{make([]bool, 4)}}, vision.Features{}, "no real patch"},
	} {
		var a tensor.Arena
		if _, err := c.tower.Forward(&a, c.in, c.f); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}

func TestBadConfigIsRefused(t *testing.T) {
	for _, c := range []struct{ config, want string }{
		{`{"model_type":"resnet"}`, `"resnet"`},
		{`{"model_type":"clip_vision_model","hidden_size":50,"num_attention_heads":12}`, "does not divide"},
		{`{"model_type":"clip_vision_model","hidden_act":"wave"}`, `"wave"`},
		{`{"model_type":"clip_vision_model","patch_size":300}`, "300 pixels"},
		{`{"model_type":"clip_vision_model","num_hidden_layers":-1}`, "got -1"},
		{`[]`, "config"},
	} {
		if _, err := vision.ParseConfig([]byte(c.config)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.config, err, c.want)
		}
	}
}

// published are the towers at their published sizes.
var published = map[string]struct {
	config string
	h, w   int
}{
	"clip-vit-large-14":    {`{"model_type":"clip_vision_model","hidden_size":1024,"intermediate_size":4096,"num_hidden_layers":24,"num_attention_heads":16,"image_size":224,"patch_size":14}`, 224, 224},
	"clip-vit-huge-14":     {`{"model_type":"clip_vision_model","hidden_act":"gelu","hidden_size":1280,"intermediate_size":5120,"num_hidden_layers":32,"num_attention_heads":16,"image_size":224,"patch_size":14}`, 224, 224},
	"siglip-base-16":       {`{"model_type":"siglip_vision_model"}`, 224, 224},
	"siglip-so400m-14-384": {`{"model_type":"siglip_vision_model","hidden_size":1152,"intermediate_size":4304,"num_hidden_layers":27,"num_attention_heads":16,"image_size":384,"patch_size":14}`, 384, 384},
	"idefics2-so400m-980":  {`{"model_type":"idefics2","vision_config":{"hidden_size":1152,"intermediate_size":4304,"num_hidden_layers":27,"num_attention_heads":16,"image_size":980,"patch_size":14}}`, 980, 980},
	"idefics2-so400m":      {`{"model_type":"idefics2","vision_config":{"hidden_size":1152,"intermediate_size":4304,"num_hidden_layers":27,"num_attention_heads":16,"image_size":980,"patch_size":14}}`, 378, 504},
}

func BenchmarkPublished(b *testing.B) {
	for name, p := range published {
		b.Run(name, func(b *testing.B) {
			tower := build(b, p.config)
			in := vision.Input{Pixels: pixels(1, 1, p.h, p.w)}
			var a tensor.Arena
			for b.Loop() {
				m := a.Mark()
				if _, err := tower.Forward(&a, in, vision.Features{}); err != nil {
					b.Fatal(err)
				}
				a.Release(m)
			}
			b.ReportMetric(float64(a.Bytes())/(1<<20), "MiB-scratch")
		})
	}
}

func Example() {
	cfg, _ := vision.ParseConfig([]byte(configs["clip"]))
	tower, _ := weights.Bind(weights.Seeded(), func(s weights.Scope) (*vision.Tower, error) { return vision.New(s, cfg) })
	var a tensor.Arena
	tokens, _ := tower.Forward(&a, vision.Input{Pixels: tensor.New(1, 32, 32, 3)}, vision.Features{DropClass: true})
	fmt.Println(tokens.Shape, tower.PooledWidth())
	// Output: [1 16 48] 20
}
