package flamingo_test

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/flamingo"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

const gatedPart = `"cross_attn_every_n_layers":2,"eoc_token_id":64,"media_token_id":65,"pad_token_id":66,
	"vision_config":{"hidden_size":24},"gated_cross_attn":{"dim_head":8,"heads":4,"ff_mult":2`

func inFlamingo(lang, more string) string {
	return `{"model_type":"openflamingo",` + gatedPart + more + `},"lang_config":` + lang + `}`
}

// langs are small decoders of every family and spelling.
var langs = map[string]string{
	"gpt_neox":           `{"model_type":"gpt_neox","vocab_size":64,"hidden_size":48,"num_hidden_layers":4,"num_attention_heads":4,"intermediate_size":80,"use_parallel_residual":false,"max_position_embeddings":64,"rotary_pct":1}`,
	"gpt_neox-parallel":  `{"model_type":"gpt_neox","vocab_size":64,"hidden_size":64,"num_hidden_layers":4,"num_attention_heads":4,"intermediate_size":80,"max_position_embeddings":64}`,
	"mpt":                `{"model_type":"mpt","vocab_size":64,"d_model":48,"n_heads":6,"n_layers":4,"max_seq_len":64,"attn_config":{"alibi":true,"clip_qkv":0.5}}`,
	"mosaic_gpt":         `{"model_type":"mosaic_gpt","vocab_size":64,"d_model":48,"n_heads":4,"n_layers":4,"mlp_ratio":4,"max_seq_len":64,"alibi":true,"alibi_bias_max":8,"attn_qk_ln":true,"no_bias":true}`,
	"mosaic_gpt-learned": `{"model_type":"mosaic_gpt","vocab_size":64,"d_model":48,"n_heads":4,"n_layers":4,"mlp_ratio":4,"max_seq_len":64,"alibi":false}`,
	"llama-dynamic":      `{"model_type":"llama","vocab_size":64,"hidden_size":48,"num_hidden_layers":4,"num_attention_heads":4,"intermediate_size":80,"max_position_embeddings":8,"rope_scaling":{"type":"dynamic","factor":4}}`,
	"mistral-window":     `{"model_type":"mistral","vocab_size":64,"hidden_size":64,"num_hidden_layers":4,"num_attention_heads":4,"num_key_value_heads":2,"intermediate_size":80,"sliding_window":3}`,
	"opt-350m":           `{"model_type":"opt","vocab_size":64,"hidden_size":48,"word_embed_proj_dim":20,"do_layer_norm_before":false,"num_hidden_layers":4,"num_attention_heads":4,"ffn_dim":80,"max_position_embeddings":64}`,
	"llama":              `{"model_type":"llama","vocab_size":64,"hidden_size":48,"num_hidden_layers":4,"num_attention_heads":4,"intermediate_size":80,"max_position_embeddings":64}`,
	"mistral":            `{"model_type":"mistral","vocab_size":64,"hidden_size":64,"num_hidden_layers":4,"num_attention_heads":4,"num_key_value_heads":2,"intermediate_size":80,"sliding_window":64}`,
	"qwen2":              `{"model_type":"qwen2","vocab_size":64,"hidden_size":64,"num_hidden_layers":4,"num_attention_heads":4,"num_key_value_heads":2,"intermediate_size":80,"max_position_embeddings":64,"tie_word_embeddings":true}`,
	"opt":                `{"model_type":"opt","vocab_size":64,"hidden_size":48,"num_hidden_layers":4,"num_attention_heads":4,"ffn_dim":80,"max_position_embeddings":64}`,
}

func build(t testing.TB, config string, opts ...weights.Options) *flamingo.Model {
	t.Helper()
	cfg, err := flamingo.ParseConfig([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	m, err := weights.Bind(weights.Seeded(), func(s weights.Scope) (*flamingo.Model, error) {
		return flamingo.New(s.At("lang_encoder"), cfg)
	}, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func random(seed uint64, shape ...int) tensor.Tensor {
	x := tensor.New(shape...)
	rng := rand.New(rand.NewPCG(seed, 3))
	for i := range x.Data {
		x.Data[i] = float32(rng.NormFloat64())
	}
	return x
}

// prompts are of different lengths, with different numbers of pictures.
func prompts() []flamingo.Prompt {
	const image = 65
	return []flamingo.Prompt{
		{Tokens: []int{image, 5, 6, 7, image, 9, 10}, Media: random(1, 2, 5, 24)},
		{Tokens: []int{3, image, 4}, Media: random(2, 1, 5, 24)},
		{Tokens: []int{1, 2, 3, 4, 5, 6, 7, 8, 9, image, image, 11}, Media: random(3, 2, 5, 24)},
	}
}

// A prompt gets the same tokens alone and in a batch, greedy and sampled.
func TestBatchedEqualsSingle(t *testing.T) {
	for name, lang := range langs {
		for _, rule := range []string{"", `,"only_attend_immediate_media":false`} {
			m := build(t, inFlamingo(lang, rule))
			for _, o := range []flamingo.Options{{MaxTokens: 10}, {MaxTokens: 10, Temperature: 0.9, TopK: 20, TopP: 0.95, Seed: 11}} {
				all, err := m.Generate(t.Context(), prompts(), o)
				if err != nil {
					t.Fatal(err)
				}
				for i, p := range prompts() {
					one, err := m.Generate(t.Context(), []flamingo.Prompt{p}, o)
					if err != nil {
						t.Fatal(err)
					}
					if !slices.Equal(one[0], all[i]) {
						t.Errorf("%s: prompt %d: %v alone, %v in the batch", name, i, one[0], all[i])
					}
					if slices.Contains(all[i], 65) {
						t.Errorf("%s: the media token was chosen", name)
					}
				}
			}
		}
	}
}

// Logits have the same bits alone and in a batch.
func TestBatchedLogitsAreTheSameBits(t *testing.T) {
	for name, lang := range langs {
		m := build(t, inFlamingo(lang, ""))
		var a tensor.Arena
		var parts []flamingo.Part
		for _, p := range prompts() {
			s := m.NewSequence()
			if err := m.Condition(&a, s, p.Media); err != nil {
				t.Fatal(err)
			}
			parts = append(parts, flamingo.Part{Seq: s, Tokens: p.Tokens})
		}
		all, err := m.Forward(&a, parts, false)
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range prompts() {
			s := m.NewSequence()
			if err := m.Condition(&a, s, p.Media); err != nil {
				t.Fatal(err)
			}
			one, err := m.Forward(&a, []flamingo.Part{{Seq: s, Tokens: p.Tokens}}, false)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(one.Row(0), all.Row(i)) {
				t.Errorf("%s: prompt %d differs in the batch", name, i)
			}
		}
	}
}

// Tokens fed one by one give what the whole prompt gives: the cache holds what it should.
func TestCacheEqualsWholePrompt(t *testing.T) {
	for name, lang := range langs {
		m := build(t, inFlamingo(lang, ""))
		p := prompts()[0]
		var a tensor.Arena
		whole, step := m.NewSequence(), m.NewSequence()
		for _, s := range []*flamingo.Sequence{whole, step} {
			if err := m.Condition(&a, s, p.Media); err != nil {
				t.Fatal(err)
			}
		}
		want, err := m.Forward(&a, []flamingo.Part{{Seq: whole, Tokens: p.Tokens}}, true)
		if err != nil {
			t.Fatal(err)
		}
		for i, id := range p.Tokens {
			got, err := m.Forward(&a, []flamingo.Part{{Seq: step, Tokens: []int{id}}}, false)
			if err != nil {
				t.Fatal(err)
			}
			for j, x := range got.Row(0) {
				if d := math.Abs(float64(x - want.Row(i)[j])); d > 1e-5*(1+math.Abs(float64(x))) {
					t.Fatalf("%s: token %d, logit %d differs by %v", name, i, j, d)
				}
			}
		}
	}
}

// With the pictures' latents changed, so do the logits after them and none before.
func TestPicturesAreSeenAfterTheirToken(t *testing.T) {
	m := build(t, inFlamingo(langs["llama"], ""))
	p := prompts()[0] // pictures at 0 and 4
	run := func(media tensor.Tensor) tensor.Tensor {
		var a tensor.Arena
		s := m.NewSequence()
		if err := m.Condition(&a, s, media); err != nil {
			t.Fatal(err)
		}
		x, err := m.Forward(&a, []flamingo.Part{{Seq: s, Tokens: p.Tokens}}, true)
		if err != nil {
			t.Fatal(err)
		}
		return x.Clone()
	}
	base := run(p.Media)
	other := p.Media.Clone()
	other.At(1).Data[0] += 1
	changed := run(other)
	for i := range p.Tokens {
		if same := slices.Equal(base.Row(i), changed.Row(i)); same != (i < 4) {
			t.Errorf("token %d: same %v after the second picture changed", i, same)
		}
	}
}

func TestSampling(t *testing.T) {
	m := build(t, langs["llama"])
	p := []flamingo.Prompt{{Tokens: []int{1, 2, 3}}}
	gen := func(o flamingo.Options) []int {
		out, err := m.Generate(t.Context(), p, o)
		if err != nil {
			t.Fatal(err)
		}
		return out[0]
	}
	greedy := gen(flamingo.Options{MaxTokens: 8})
	if len(greedy) != 8 {
		t.Fatalf("%d tokens", len(greedy))
	}
	hot := flamingo.Options{MaxTokens: 30, Temperature: 5, Seed: 1}
	if !slices.Equal(gen(hot), gen(hot)) {
		t.Error("the same seed gives other tokens")
	}
	other := hot
	other.Seed = 2
	if slices.Equal(gen(hot), gen(other)) {
		t.Error("another seed gives the same tokens")
	}
	for _, o := range []flamingo.Options{{MaxTokens: 8, Temperature: 5, TopK: 1}, {MaxTokens: 8, Temperature: 5, TopP: 1e-9}, {MaxTokens: 8, Temperature: 1e-9}} {
		if got := gen(o); !slices.Equal(got, greedy) {
			t.Errorf("%+v: %v, want the greedy %v", o, got, greedy)
		}
	}
	at := slices.IndexFunc(greedy[1:], func(id int) bool { return id != greedy[0] }) + 1
	if got := gen(flamingo.Options{MaxTokens: 8, Stop: []int{greedy[at]}}); !slices.Equal(got, greedy[:at]) {
		t.Errorf("stopped at %v, want %v", got, greedy[:at])
	}
	if got := gen(flamingo.Options{MaxTokens: 8, Ban: []int{greedy[0]}}); slices.Contains(got, greedy[0]) {
		t.Error("a banned token was chosen")
	}
	if got := gen(flamingo.Options{MaxTokens: 1000}); len(got) != 64-3+1 {
		t.Errorf("%d tokens in a context of 64 after 3", len(got))
	}
}

func TestStreamEndsWhenAsked(t *testing.T) {
	m := build(t, langs["mpt"])
	var got []int
	for id, err := range m.Stream(t.Context(), flamingo.Prompt{Tokens: []int{1}}, flamingo.Options{MaxTokens: 9}) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, id); len(got) == 3 {
			break
		}
	}
	if len(got) != 3 {
		t.Errorf("%d tokens", len(got))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range m.Stream(ctx, flamingo.Prompt{Tokens: []int{1}}, flamingo.Options{}) {
		if err != context.Canceled {
			t.Errorf("error %v", err)
		}
	}
}

func TestSoftTokensReplacePlaceholders(t *testing.T) {
	m := build(t, `{"model_type":"idefics2","image_token_id":63,"vision_config":{},"text_config":`+langs["mistral"]+`}`)
	ids := []int{1, 63, 63, 2}
	// the embedding of ordinary tokens, given as soft ones, is the same prompt
	soft, err := m.Embed([]int{7, 8})
	if err != nil {
		t.Fatal(err)
	}
	a, err := m.Generate(t.Context(), []flamingo.Prompt{{Tokens: ids, Soft: soft}}, flamingo.Options{MaxTokens: 6})
	if err != nil {
		t.Fatal(err)
	}
	b, err := m.Generate(t.Context(), []flamingo.Prompt{{Tokens: []int{1, 7, 8, 2}}}, flamingo.Options{MaxTokens: 6})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(a[0], b[0]) {
		t.Errorf("%v with soft tokens, %v with the tokens", a[0], b[0])
	}
	if _, err := m.Generate(t.Context(), []flamingo.Prompt{{Tokens: ids, Soft: soft.Slice(0, 1)}}); err == nil {
		t.Error("one soft token for two placeholders")
	}
}

func TestBadInputIsRefused(t *testing.T) {
	m, plain := build(t, inFlamingo(langs["llama"], "")), build(t, langs["llama"])
	var a tensor.Arena
	with := m.NewSequence()
	if err := m.Condition(&a, with, random(1, 1, 5, 24)); err != nil {
		t.Fatal(err)
	}
	forward := func(p flamingo.Part) error { _, err := m.Forward(&a, []flamingo.Part{p}, false); return err }
	long := make([]int, 65)
	for _, c := range []struct {
		err  error
		want string
	}{
		{m.Condition(&a, m.NewSequence(), random(1, 1, 5, 25)), "takes width 24, got 25"},
		{m.Condition(&a, m.NewSequence(), random(1, 5, 24)), "got shape"},
		{m.Condition(&a, with, random(1, 1, 6, 24)), "the sequence has 5"},
		{plain.Condition(&a, plain.NewSequence(), random(1, 1, 5, 24)), "no cross-attention"},
		{forward(flamingo.Part{Seq: m.NewSequence()}), "no tokens"},
		{forward(flamingo.Part{Seq: m.NewSequence(), Tokens: []int{67}}), "vocabulary has 67"},
		{forward(flamingo.Part{Seq: m.NewSequence(), Tokens: []int{-1}}), "token id -1"},
		{forward(flamingo.Part{Seq: m.NewSequence(), Tokens: long}), "context of this language model is 64"},
		{forward(flamingo.Part{Seq: with, Tokens: []int{1}, Visible: [][]bool{{true, true}}}), "over 2 pictures"},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.want) {
			t.Errorf("%v, want %q", c.err, c.want)
		}
	}
	if _, err := m.Forward(&a, []flamingo.Part{{Seq: with, Tokens: []int{1}}, {Seq: with, Tokens: []int{1}}}, false); err == nil {
		t.Error("one sequence twice in a pass")
	}
}

func TestBadConfigIsRefused(t *testing.T) {
	for _, c := range []struct{ config, want string }{
		{`{"model_type":"bert"}`, `"bert"`},
		{`{"model_type":"llama","num_attention_heads":6,"num_key_value_heads":4,"hidden_size":60}`, "6 heads do not divide over 4"},
		{`{"model_type":"llama","rope_scaling":{"rope_type":"longrope","factor":2}}`, `"longrope" is not known`},
		{`{"model_type":"llama","rope_scaling":{"type":"linear","factor":0.5}}`, "got 0.5"},
		{`{"model_type":"llama","rope_scaling":{"rope_type":"llama3","factor":8}}`, "low_freq_factor 0"},
		{`{"model_type":"llama","rope_scaling":{"rope_type":"yarn","factor":8,"mscale":1}}`, "mscale"},
		{`{"model_type":"llama","rope_scaling":7}`, "rope_scaling"},
		{`{"model_type":"mistral","sliding_window":"wide"}`, "sliding_window"},
		{`{"model_type":"mpt","attn_config":{"rope":true}}`, "with rope"},
		{`{"model_type":"mosaic_gpt","logit_scale":"inv_sqrt_d_model"}`, "logit_scale"},
		{`{"model_type":"opt","enable_bias":false}`, "biases"},
		{`{"model_type":"openflamingo","lang_config":{"model_type":"llama"}}`, "media_token_id"},
		{inFlamingo(strings.Replace(langs["llama"], `"num_hidden_layers":4`, `"num_hidden_layers":1`, 1), ""), "every 2 layers of 1"},
		{`{"model_type":"gpt_neox","hidden_size":-8}`, "got -8"},
	} {
		if _, err := flamingo.ParseConfig([]byte(c.config)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.config, err, c.want)
		}
	}
}
