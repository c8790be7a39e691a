package pipeline

import (
	"context"
	"fmt"
	"io"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/perceiver"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

func init() { Register("PerceiverCausalLanguageModel", openCausal) }

// causalModel answers Perceiver AR language models over bytes: it continues text.
type causalModel struct {
	base
	perceiverCase
	net *perceiver.CausalLM
}

func openCausal(_ context.Context, d *Dir, s weights.Scope, opt Options) (Model, error) {
	net, err := perceiver.Load(d.Config, s, perceiver.Options{Plain: opt.Plain})
	if err != nil {
		return nil, err
	}
	m := &causalModel{net: net.(*perceiver.CausalLM), perceiverCase: perceiverCase{net}}
	m.describe(d, perceiver.Config{NumLatents: m.net.Config.MaxLatents, LatentDim: m.net.Config.Channels}, opt)
	m.info.Task, m.info.Modalities, m.info.Outputs = "text_generation", []string{"text"}, nil
	return m, nil
}

// ids reads a prompt as bytes. A vocabulary that is not the byte tokenizer's is refused: its
// tokenizer is not in the checkpoint.
func (m *causalModel) ids(ctx context.Context, text string, parts []Part) ([]int, error) {
	c := m.net.Config
	if c.VocabSize != modality.Vocabulary {
		return nil, fmt.Errorf("pipeline: %w: vocabulary of %d tokens; text needs the byte tokenizer's %d", ErrInput, c.VocabSize, modality.Vocabulary)
	}
	for _, p := range parts {
		if _, err := m.header(p, "text"); err != nil {
			return nil, err
		}
		b, err := io.ReadAll(media.NewReader(ctx, p.Input.Reader(), int64(c.MaxSeqLen)*maxSpecialLength))
		if err != nil {
			return nil, media.Wrap(err, media.Unreadable, "text: read")
		}
		more, err := utf8Text(b)
		if err != nil {
			return nil, err
		}
		text += more
	}
	return modality.Tokenizer{MaxLength: c.MaxSeqLen, Bare: true}.Encode(text)
}

// Plan says what continuing a text by one token costs.
func (m *causalModel) Plan(ctx context.Context, it Item) (Plan, error) {
	ids, err := m.ids(ctx, "", it.Parts)
	if err != nil {
		return Plan{}, err
	}
	c := m.net.Config
	latents := min(len(ids), c.MaxLatents)
	p := Plan{Cost: modality.Cost{Modality: "text", MediaType: "text/plain", Rows: len(ids), RowChannels: c.Channels, DecodedBytes: int64(8 * len(ids))}}
	p.FLOPs = attentionLayer(latents, len(ids), c.Channels, c.Channels, c.Channels, c.Channels, c.CrossWidening) +
		float64(c.Layers)*attentionLayer(latents, latents, c.Channels, c.Channels, c.Channels, c.Channels, c.SelfWidening)
	return p, nil
}

// Encode refuses: latents of an autoregressive model belong to a prefix, not to an input.
func (m *causalModel) Encode(context.Context, Item, EncodeOptions) (*Encoding, error) {
	return nil, m.noTask("latents; use generate")
}

// Predict names the likeliest next bytes.
func (m *causalModel) Predict(ctx context.Context, it Item, opt PredictOptions) (*Prediction, error) {
	ids, err := m.ids(ctx, "", it.Parts)
	if err != nil {
		return nil, err
	}
	p := &Prediction{Task: "next_byte"}
	if p.Plan, err = m.Plan(ctx, it); err != nil {
		return nil, err
	}
	a, done := m.arena(opt.Trace)
	defer done()
	err = m.net.Generate(ctx, a, ids, perceiver.Generation{Steps: 1}, func(_ int, logits []float32) bool {
		p.Logits = tensor.Of(append([]float32(nil), logits...), len(logits))
		return false
	})
	if err != nil {
		return nil, err
	}
	if !finite(p.Logits) {
		return nil, fmt.Errorf("pipeline: logits: %w", ErrNotFinite)
	}
	p.Classes = topClasses(p.Logits.Data, opt.top(), byteLabel)
	return p, nil
}

// Generate implements Generator.
func (m *causalModel) Generate(ctx context.Context, p Prompt, opt GenerateOptions, emit func(string) error) (*Generation, error) {
	ids, err := m.ids(ctx, p.Text, p.Parts)
	if err != nil {
		return nil, err
	}
	a, done := m.arena(nil)
	defer done()
	draw := newSampler(opt)
	out := newTextStream(opt.Stop, emit)
	g := &Generation{PromptTokens: len(ids), Stop: "length"}
	var failed error
	err = m.net.Generate(ctx, a, ids, perceiver.Generation{Steps: opt.Limit(), Next: draw.pick}, func(id int, _ []float32) bool {
		g.Tokens++
		if id == modality.EOS || id == modality.SEP || id == modality.PAD {
			g.Stop = "stop"
			return false
		}
		var stopped bool
		stopped, failed = out.add(modality.Tokenizer{}.DecodeBytes([]int{id}, true))
		if stopped {
			g.Stop = "stop"
		}
		return failed == nil && !stopped
	})
	if err != nil {
		return nil, err
	}
	if failed != nil {
		return nil, failed
	}
	g.Text, err = out.finish()
	return g, err
}
