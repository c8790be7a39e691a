package pipeline

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/mmserve/mmserve/flamingo"
	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/resampler"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// captioner is the conditioned byte language model of a composition: OpenFlamingo's layers
// over the resampled latents. Tokens are bytes + 6, as the text adapter's, and one for media.
type captioner struct {
	lm    *flamingo.Model
	media int
	end   int
	max   int
}

// nativeCaption is what the caption part says.
type nativeCaption struct {
	Max   int `json:"max_new_tokens"` // zero means 48
	Media int `json:"media_token_id"`
	End   int `json:"eoc_token_id"`
	lm    flamingo.Config
}

// parseCaption reads the caption part, in OpenFlamingo's own words.
func parseCaption(config json.RawMessage) (nativeCaption, error) {
	p := nativeCaption{Max: 48}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(config, &fields); err != nil {
		return p, fmt.Errorf("caption: %w", err)
	}
	if err := json.Unmarshal(config, &p); err != nil {
		return p, fmt.Errorf("caption: %w", err)
	}
	fields["model_type"] = json.RawMessage(`"openflamingo"`)
	var err error
	if p.lm, err = flamingo.ParseConfig(mustJSON(fields)); err != nil {
		return p, fmt.Errorf("caption: %w", err)
	}
	return p, nil
}

// newCaptioner loads the language model that the caption part describes.
func newCaptioner(s weights.Scope, config json.RawMessage, r *resampler.Resampler) (*captioner, error) {
	if r == nil {
		return nil, fmt.Errorf("caption: needs a resampler")
	}
	own, err := parseCaption(config)
	if err != nil {
		return nil, err
	}
	c := own.lm
	switch {
	case c.Vocab < modality.Vocabulary:
		return nil, fmt.Errorf("caption.lang_config.vocab_size: %d, want at least %d: a byte is its value + %d", c.Vocab, modality.Vocabulary, modality.ByteOffset)
	case c.Cross == nil:
		return nil, fmt.Errorf("caption.gated_cross_attn: missing")
	case c.Cross.Media != r.Config.Out:
		return nil, fmt.Errorf("caption.gated_cross_attn.dim_visual: %d, the resampler's dim is %d", c.Cross.Media, r.Config.Out)
	case own.End >= c.Vocab:
		return nil, fmt.Errorf("caption.eoc_token_id: %d is beyond the vocabulary of %d", own.End, c.Vocab)
	}
	lm, err := flamingo.New(s, c)
	if err != nil {
		return nil, fmt.Errorf("caption: %w", err)
	}
	return &captioner{lm: lm, media: own.Media, end: own.End, max: own.Max}, nil
}

// condition resamples latents (1×N×D each) into what the language model attends to: P×n×W.
func (c *captioner) condition(a *tensor.Arena, r *resampler.Resampler, latents []tensor.Tensor) (tensor.Tensor, error) {
	out := tensor.New(len(latents), r.Config.Count(), r.Config.Out)
	for i, x := range latents {
		mark := a.Mark()
		soft, err := r.Forward(a, resampler.Input{X: x})
		if err != nil {
			return out, err
		}
		copy(out.At(i).Data, soft.Data)
		a.Release(mark)
	}
	return out, nil
}

// say captions one thing greedily.
func (c *captioner) say(ctx context.Context, a *tensor.Arena, r *resampler.Resampler, latents tensor.Tensor) (string, error) {
	media, err := c.condition(a, r, []tensor.Tensor{latents})
	if err != nil {
		return "", err
	}
	g, err := c.generate(ctx, []int{c.media}, media, GenerateOptions{MaxTokens: c.max}, nil)
	if err != nil {
		return "", err
	}
	return g.Text, nil
}

// generate continues tokens and hands on text as it comes.
func (c *captioner) generate(ctx context.Context, tokens []int, media tensor.Tensor, opt GenerateOptions, emit func(string) error) (*Generation, error) {
	o := flamingo.Options{
		MaxTokens: opt.Limit(), Temperature: opt.Temperature, TopK: opt.TopK, TopP: opt.TopP, Seed: opt.Seed,
		Stop: []int{c.end}, Ban: []int{modality.PAD, modality.BOS, modality.MASK, modality.CLS, modality.SEP},
	}
	g := &Generation{PromptTokens: len(tokens), Stop: "stop"}
	out := newTextStream(opt.Stop, emit)
	for id, err := range c.lm.Stream(ctx, flamingo.Prompt{Tokens: tokens, Media: media}, o) {
		if err != nil {
			return nil, err
		}
		g.Tokens++
		stopped, err := out.add(modality.Tokenizer{}.DecodeBytes([]int{id}, true))
		if err != nil {
			return nil, err
		}
		if stopped {
			break
		}
	}
	if g.Tokens >= o.MaxTokens {
		g.Stop = "length"
	}
	var err error
	g.Text, err = out.finish()
	return g, err
}

// mediaMark stands in a prompt where a medium goes.
const mediaMark = "<image>"

// Generate implements Generator: it continues a prompt in which "<image>" marks stand for the
// parts, whatever their medium.
func (m *nativeModel) Generate(ctx context.Context, p Prompt, opt GenerateOptions, emit func(string) error) (*Generation, error) {
	if m.caption == nil {
		return nil, m.noTask("a language model")
	}
	pieces := strings.Split(p.Text, mediaMark)
	if missing := len(p.Parts) - (len(pieces) - 1); missing > 0 {
		pieces = append(make([]string, missing), pieces...) // unmarked media go first
	} else if missing < 0 {
		return nil, fmt.Errorf("pipeline: %w: %d %s marks for %d media", ErrInput, len(pieces)-1, mediaMark, len(p.Parts))
	}
	a, done := m.arena(nil)
	defer done()
	var tokens []int
	var latents []tensor.Tensor
	for i, piece := range pieces {
		if i > 0 {
			pass, err := m.run(ctx, a, Item{Parts: p.Parts[i-1 : i]})
			if err != nil {
				return nil, err
			}
			latents = append(latents, pass.latents)
			tokens = append(tokens, m.caption.media)
		}
		ids, err := modality.Tokenizer{Bare: true, Literal: true, MaxLength: m.caption.lm.Config.Context}.Encode(piece)
		if err != nil {
			return nil, err
		}
		tokens = append(tokens, ids...)
	}
	if len(tokens) == 0 {
		return nil, fmt.Errorf("pipeline: %w: the prompt is empty", ErrInput)
	}
	var media tensor.Tensor
	if len(latents) > 0 {
		var err error
		if media, err = m.caption.condition(a, m.resampler, latents); err != nil {
			return nil, err
		}
	}
	return m.caption.generate(ctx, tokens, media, opt, emit)
}

// logits are the scores after each token of [media, text…], all positions: T×vocabulary.
func (c *captioner) logits(a *tensor.Arena, media tensor.Tensor, text string) (tensor.Tensor, error) {
	ids, err := modality.Tokenizer{Bare: true, Literal: true}.Encode(text)
	if err != nil {
		return tensor.Tensor{}, err
	}
	seq := c.lm.NewSequence()
	if err := c.lm.Condition(a, seq, media); err != nil {
		return tensor.Tensor{}, err
	}
	return c.lm.Forward(a, []flamingo.Part{{Seq: seq, Tokens: append([]int{c.media}, ids...)}}, true)
}
