package resampler_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/resampler"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// configs are small resamplers of every kind, with every option on.
var configs = map[string]string{
	"openflamingo": `{"model_type":"openflamingo_perceiver_resampler","dim":48,"depth":2,"dim_head":16,"heads":3,"num_latents":5,"max_num_media":4,"max_num_frames":3}`,
	"lucidrains":   `{"model_type":"lucidrains_flamingo_perceiver_resampler","dim":48,"depth":2,"dim_head":16,"heads":3,"num_latents":5,"num_media_embeds":4}`,
	"idefics":      `{"model_type":"idefics","vision_config":{"embed_dim":48},"perceiver_config":{"qk_layer_norms_perceiver":true,"resampler_depth":2,"resampler_head_dim":16,"resampler_n_heads":3,"resampler_n_latents":5}}`,
	"idefics2":     `{"model_type":"idefics2","vision_config":{"hidden_size":48},"text_config":{"hidden_size":64,"intermediate_size":80},"perceiver_config":{"resampler_depth":2,"resampler_head_dim":16,"resampler_n_heads":4,"num_key_value_heads":2,"resampler_n_latents":5}}`,
	"ip_adapter":   `{"model_type":"ip_adapter_plus_resampler","dim":40,"depth":2,"dim_head":16,"heads":3,"num_queries":4,"embedding_dim":48,"output_dim":56,"max_seq_len":64,"apply_pos_emb":true,"num_latents_mean_pooled":2}`,
	"qwen_vl":      `{"model_type":"qwen_vl_style_resampler","grid_size":3,"embed_dim":64,"num_heads":4,"kv_dim":48}`,
	"minicpmv":     `{"model_type":"minicpmv_resampler","num_queries":5,"embed_dim":64,"num_heads":4,"kv_dim":48,"max_size":[4,4]}`,
}

func build(t testing.TB, config string, dt kernel.DType) *resampler.Resampler {
	t.Helper()
	cfg, err := resampler.ParseConfig([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	r, err := weights.Bind(weights.Seeded(), func(s weights.Scope) (*resampler.Resampler, error) {
		return resampler.New(s.At(cfg.Prefix()), cfg)
	}, weights.Options{DType: dt})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// random fills n pictures of v tokens.
func random(seed uint64, n, v, width int) tensor.Tensor {
	x := tensor.New(n, v, width)
	rng := rand.New(rand.NewPCG(seed, 1))
	for i := range x.Data {
		x.Data[i] = float32(rng.NormFloat64())
	}
	return x
}

// input is a batch of four pictures; masks and grids differ between them.
func input(r *resampler.Resampler) resampler.Input {
	in := resampler.Input{X: random(7, 4, 36, r.Config.In), Media: []int{0, 1, 2, 3}}
	if r.Config.MaxFrames > 0 {
		in.Frames = 3
	}
	if r.Config.Kind == resampler.Idefics2 {
		for i := range 4 {
			m := make([]bool, 36)
			for j := range m {
				m[j] = j%(i+1) == 0
			}
			in.Mask = append(in.Mask, m)
		}
	}
	if r.Config.Kind == resampler.MiniCPMV {
		in.Sizes = [][2]int{{6, 6}, {1, 9}, {5, 3}, {2, 2}}
	}
	return in
}

// only is picture i of a batch.
func only(in resampler.Input, i int) resampler.Input {
	one := resampler.Input{X: in.X.Slice(i, i+1), Frames: in.Frames, Media: in.Media[i : i+1]}
	if in.Mask != nil {
		one.Mask = in.Mask[i : i+1]
	}
	if in.Sizes != nil {
		one.Sizes = in.Sizes[i : i+1]
	}
	return one
}

func forward(t testing.TB, r *resampler.Resampler, in resampler.Input) tensor.Tensor {
	t.Helper()
	var a tensor.Arena
	z, err := r.Forward(&a, in)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// A picture has the same bits alone and in a batch, and whatever pads it.
func TestBatchedEqualsSingle(t *testing.T) {
	for name, config := range configs {
		t.Run(name, func(t *testing.T) {
			r := build(t, config, kernel.F32)
			in := input(r)
			all := forward(t, r, in)
			if got := all.Shape; !slices.Equal(got, []int{4, r.Config.Count(), r.Config.Out}) {
				t.Fatalf("shape %v", got)
			}
			for i := range 4 {
				one := forward(t, r, only(in, i))
				if !slices.Equal(one.Data, all.At(i).Data) {
					t.Errorf("picture %d differs in the batch", i)
				}
			}
		})
	}
}

func TestPaddingDoesNotShow(t *testing.T) {
	for _, name := range []string{"idefics2", "minicpmv"} {
		r := build(t, configs[name], kernel.F32)
		x := random(3, 1, 12, r.Config.In)
		wide := random(4, 1, 20, r.Config.In)
		copy(wide.Data, x.Data)
		short, long := resampler.Input{X: x, Sizes: [][2]int{{3, 4}}}, resampler.Input{X: wide, Sizes: [][2]int{{3, 4}}}
		long.Mask = [][]bool{make([]bool, 20)}
		for i := range 12 {
			long.Mask[0][i] = true
		}
		if !slices.Equal(forward(t, r, short).Data, forward(t, r, long).Data) {
			t.Errorf("%s: padding changes the latents", name)
		}
	}
}

// Stages are watched on another path through the same arithmetic.
func TestTraceChangesNothing(t *testing.T) {
	for name, config := range configs {
		r := build(t, config, kernel.F32)
		in := input(r)
		if r.Config.Kind == resampler.Idefics2 { // more tokens than a block holds
			in = resampler.Input{X: random(5, 2, 700, r.Config.In), Mask: [][]bool{make([]bool, 700), make([]bool, 700)}}
			for i := range in.Mask[0] {
				in.Mask[0][i], in.Mask[1][i] = i%5 != 0, i < 3
			}
		}
		a := tensor.Arena{Trace: func(string, tensor.Tensor) {}}
		watched, err := r.Forward(&a, in)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(watched.Data, forward(t, r, in).Data) {
			t.Errorf("%s: a trace changes the latents", name)
		}
	}
}

func TestArenaIsGivenBack(t *testing.T) {
	for name, config := range configs {
		r := build(t, config, kernel.F32)
		in := input(r)
		var a tensor.Arena
		for range 2 {
			m := a.Mark()
			if _, err := r.Forward(&a, in); err != nil {
				t.Fatal(err)
			}
			a.Release(m)
		}
		before := a.Bytes()
		for range 5 {
			m := a.Mark()
			if _, err := r.Forward(&a, in); err != nil {
				t.Fatal(err)
			}
			a.Release(m)
		}
		if a.Bytes() != before {
			t.Errorf("%s: scratch grew from %d to %d bytes", name, before, a.Bytes())
		}
	}
}

func TestBadInputIsRefused(t *testing.T) {
	of, ip, mini := build(t, configs["openflamingo"], kernel.F32), build(t, configs["ip_adapter"], kernel.F32), build(t, configs["minicpmv"], kernel.F32)
	qwen, ide := build(t, configs["qwen_vl"], kernel.F32), build(t, configs["idefics2"], kernel.F32)
	for _, c := range []struct {
		r    *resampler.Resampler
		in   resampler.Input
		want string
	}{
		{of, resampler.Input{X: tensor.New(1, 4, 47)}, "want 48, got 47"},
		{of, resampler.Input{X: tensor.New(4, 48)}, "got shape"},
		{of, resampler.Input{X: tensor.New(0, 4, 48)}, "no tokens"},
		{of, resampler.Input{X: tensor.New(1, 8, 48), Frames: 4}, "embeddings for 3"},
		{of, resampler.Input{X: tensor.New(1, 8, 48), Frames: 3}, "do not divide"},
		{of, resampler.Input{X: tensor.New(1, 8, 48), Media: []int{4}}, "embeddings for 4"},
		{of, resampler.Input{X: tensor.New(2, 8, 48), Media: []int{1}}, "1 media places for 2"},
		{ip, resampler.Input{X: tensor.New(1, 65, 48)}, "positions for 64"},
		{mini, resampler.Input{X: tensor.New(1, 8, 48)}, "0 patch grids for 1"},
		{mini, resampler.Input{X: tensor.New(1, 8, 48), Sizes: [][2]int{{3, 3}}}, "does not fit 8"},
		{mini, resampler.Input{X: tensor.New(1, 8, 48), Sizes: [][2]int{{0, 3}}}, "does not fit 8"},
		{qwen, resampler.Input{X: tensor.New(1, 8, 48)}, "no square grid"},
		{ide, resampler.Input{X: tensor.New(1, 8, 48), Mask: [][]bool{make([]bool, 7)}}, "want 8 tokens, got 7"},
	} {
		var a tensor.Arena
		if _, err := c.r.Forward(&a, c.in); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}

func TestBadConfigIsRefused(t *testing.T) {
	for _, c := range []struct{ config, want string }{
		{`{"model_type":"blip"}`, `"blip"`},
		{`{"model_type":"openflamingo_perceiver_resampler","dim":-3}`, "got -3"},
		{`{"model_type":"openflamingo_perceiver_resampler","dim":8,"heads":99999999}`, "99999999"},
		{`{"model_type":"idefics2","perceiver_config":{"resampler_n_heads":6,"num_key_value_heads":4}}`, "6 heads do not divide over 4"},
		{`{"model_type":"idefics2","perceiver_config":{"hidden_act":"wave"}}`, `"wave"`},
		{`{"model_type":"minicpmv_resampler","num_queries":4,"embed_dim":30,"num_heads":4}`, "must divide"},
		{`{`, "config"},
	} {
		if _, err := resampler.ParseConfig([]byte(c.config)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.config, err, c.want)
		}
	}
}

// published are the resamplers at their published sizes.
var published = map[string]struct {
	config string
	tokens int
}{
	"openflamingo":       {`{"model_type":"openflamingo_perceiver_resampler","dim":1024}`, 256},
	"idefics-9b":         {`{"model_type":"idefics","vision_config":{"embed_dim":1280},"perceiver_config":{"qk_layer_norms_perceiver":true}}`, 257},
	"ip-adapter-sd15":    {`{"model_type":"ip_adapter_plus_resampler","dim":768,"depth":4,"heads":12,"num_queries":16,"embedding_dim":1280,"output_dim":768}`, 257},
	"ip-adapter-sdxl":    {`{"model_type":"ip_adapter_plus_resampler","dim":1280,"depth":4,"heads":20,"num_queries":16,"embedding_dim":1280,"output_dim":2048}`, 257},
	"minicpmv-2.6":       {`{"model_type":"minicpmv_resampler","num_queries":64,"embed_dim":3584,"num_heads":28,"kv_dim":1152}`, 1024},
	"qwen-vl":            {`{"model_type":"qwen_vl_style_resampler","grid_size":16,"embed_dim":4096,"num_heads":32,"kv_dim":1664}`, 1024},
	"idefics2-connector": {`{"model_type":"idefics2"}`, 256},
}

func BenchmarkPublished(b *testing.B) {
	for name, p := range published {
		b.Run(name, func(b *testing.B) {
			r := build(b, p.config, kernel.F32)
			in := resampler.Input{X: random(1, 1, p.tokens, r.Config.In)}
			if r.Config.Kind == resampler.MiniCPMV {
				in.Sizes = [][2]int{{32, 32}}
			}
			var a tensor.Arena
			for b.Loop() {
				m := a.Mark()
				if _, err := r.Forward(&a, in); err != nil {
					b.Fatal(err)
				}
				a.Release(m)
			}
			b.ReportMetric(float64(a.Bytes())/(1<<20), "MiB-scratch")
		})
	}
}

func Example() {
	cfg, _ := resampler.ParseConfig([]byte(`{"model_type":"openflamingo_perceiver_resampler","dim":32,"depth":1,"num_latents":4}`))
	r, _ := weights.Bind(weights.Seeded(), func(s weights.Scope) (*resampler.Resampler, error) {
		return resampler.New(s.At(cfg.Prefix()), cfg)
	})
	var a tensor.Arena
	z, _ := r.Forward(&a, resampler.Input{X: tensor.New(2, 16, 32)})
	fmt.Println(z.Shape, cfg.SoftTokens())
	// Output: [2 4 32] false
}

// The published names of Qwen-VL are those of the fixture, some one level up.
func TestQwenVLNames(t *testing.T) {
	names := map[string][]int{}
	for _, s := range []struct {
		name  string
		shape []int
	}{
		{"transformer.visual.attn_pool.query", []int{9, 64}}, {"transformer.visual.attn_pool.pos_embed", []int{9, 64}},
		{"transformer.visual.attn_pool.kv_proj.weight", []int{64, 48}}, {"transformer.visual.attn_pool.attn.in_proj_weight", []int{192, 64}},
		{"transformer.visual.attn_pool.attn.in_proj_bias", []int{192}}, {"transformer.visual.attn_pool.attn.out_proj.weight", []int{64, 64}},
		{"transformer.visual.attn_pool.attn.out_proj.bias", []int{64}}, {"transformer.visual.attn_pool.ln_q.weight", []int{64}},
		{"transformer.visual.attn_pool.ln_q.bias", []int{64}}, {"transformer.visual.attn_pool.ln_kv.weight", []int{64}},
		{"transformer.visual.attn_pool.ln_kv.bias", []int{64}}, {"transformer.visual.ln_post.weight", []int{64}},
		{"transformer.visual.ln_post.bias", []int{64}}, {"transformer.visual.proj", []int{64, 64}},
		{"transformer.visual.conv1.weight", []int{8, 3, 2, 2}}, {"transformer.wte.weight", []int{4, 4}},
	} {
		names[s.name] = s.shape
	}
	var specs []weights.Spec
	for name, shape := range names {
		specs = append(specs, weights.Spec{Name: name, DType: weights.F32, Shape: shape})
	}
	cfg, err := resampler.ParseConfig([]byte(configs["qwen_vl"]))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := weights.Bind(resampler.QwenVLNames(weights.Seeded(specs...)), func(s weights.Scope) (*resampler.Resampler, error) {
		return resampler.New(s, cfg)
	}); err != nil {
		t.Error(err)
	}
}
