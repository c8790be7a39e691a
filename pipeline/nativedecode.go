package pipeline

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/mmserve/mmserve/resampler"
	"github.com/mmserve/mmserve/tensor"
)

// latentOutputs is what a composition's latents give: its heads by name, vectors for search, soft
// tokens, words, and answers to queries.
func (m *nativeModel) latentOutputs() []string {
	var names []string
	for _, name := range m.order {
		if m.heads[name].Kind != headEmbedding {
			names = append(names, name)
		}
	}
	names = append(names, OutputPooled)
	if m.resampler != nil {
		names = append(names, OutputSoftTokens)
	}
	if m.caption != nil {
		names = append(names, OutputCaption)
	}
	if m.decoder != nil {
		names = append(names, OutputAnswers)
	}
	return names
}

// decoderFLOPs is a head's answer to o queries.
func (m *nativeModel) decoderFLOPs(o, width int) float64 {
	c, n, d := m.config.Decoder, m.info.Latents, m.info.LatentDim
	qk := cmp.Or(c.QK, d)
	return attentionLayer(o, n, d, d, qk, cmp.Or(c.V, qk), c.Widening) + 2*float64(o)*float64(d)*float64(width)
}

// usualHeads are the heads that a request without outputs is answered by: the class lists of the
// media that the latents are of, or all; with the text itself also its masked bytes.
func (m *nativeModel) usualHeads(text string, of []string) []string {
	var heads []string
	for _, name := range m.order {
		h := m.heads[name]
		fits := func(medium string) bool { return slices.Contains(h.Modalities, medium) }
		switch {
		case h.Kind == headClasses && text == "" && (len(of) == 0 || slices.ContainsFunc(of, fits)):
			heads = append(heads, name)
		case h.Kind != headEmbedding && text != "" && fits(text):
			heads = append(heads, name)
		}
	}
	return heads
}

// planDecode says what decoding costs, and the outputs that are asked for.
func (m *nativeModel) planDecode(ctx context.Context, it Item, opt DecodeOptions) (plan Plan, outputs []string, err error) {
	text := "" // the modality that reads it
	var medium Plan
	if len(it.Parts) > 0 {
		parts, err := m.parts(ctx, it)
		if err != nil {
			return plan, nil, err
		}
		if len(parts) > 1 || !m.reads(parts[0].name, "text") {
			return plan, nil, fmt.Errorf("pipeline: %w: of an item's content only a text is read, for masked bytes", ErrInput)
		}
		text = parts[0].name
		if medium, err = m.Plan(ctx, it); err != nil {
			return plan, nil, err
		}
		medium.FLOPs -= encoderFLOPs(m.encoderIs, medium.Rows, medium.RowChannels) // its stem is left
	}
	if outputs, err = m.decodes(it, opt, m.usualHeads(text, opt.Modalities)...); err != nil {
		return plan, nil, err
	}
	flops, values := 0.0, 0
	for _, o := range outputs {
		h, isHead := m.heads[o]
		switch {
		case isHead && h.Kind == headMaskedBytes:
			if text == "" {
				return plan, nil, fmt.Errorf("pipeline: %w: %s: its queries are the text's rows: give the text as the item's content", ErrInput, o)
			}
			flops += m.decoderFLOPs(medium.Rows, h.width())
			values += medium.Rows * h.width()
		case isHead:
			flops += m.decoderFLOPs(1, h.width())
		case o == OutputAnswers:
			n := opt.Queries.Dim(0)
			flops += m.decoderFLOPs(n, 0)
			values += n * m.info.LatentDim
		case o == OutputPooled && m.embedding() != "":
			flops += m.decoderFLOPs(1, m.heads[m.embedding()].width())
		case o == OutputSoftTokens:
			flops += resamplerFLOPs(m.resampler.Config, m.info.Latents)
			values += m.info.SoftTokens * m.info.SoftTokenDim
		case o == OutputCaption:
			flops += resamplerFLOPs(m.resampler.Config, m.info.Latents)
		}
	}
	plan, err = m.decodePlan(flops+medium.FLOPs, values)
	plan.DecodedBytes += medium.DecodedBytes
	return plan, outputs, err
}

// PlanDecode says what answers from latents cost.
func (m *nativeModel) PlanDecode(ctx context.Context, it Item, opt DecodeOptions) (Plan, error) {
	plan, _, err := m.planDecode(ctx, it, opt)
	return plan, err
}

// Decode answers heads from latents, and what else is asked for.
func (m *nativeModel) Decode(ctx context.Context, it Item, opt DecodeOptions) (*Decoding, error) {
	plan, outputs, err := m.planDecode(ctx, it, opt)
	if err != nil {
		return nil, err
	}
	a, done := m.arena(opt.Trace)
	defer done()
	pass := &nativePass{}
	if slices.ContainsFunc(outputs, func(o string) bool { return m.heads[o].Kind == headMaskedBytes }) {
		if pass, err = m.read(ctx, a, it); err != nil {
			return nil, err
		}
	}
	pass.latents = batched(it.Latents)
	p := &Prediction{Task: m.info.Task, Plan: plan}
	out := &Decoding{Prediction: p}
	for _, o := range outputs {
		h, isHead := m.heads[o]
		switch {
		case isHead && h.Kind == headMaskedBytes:
			err = m.fillMasks(ctx, a, pass, h, opt.top(), p)
		case isHead:
			var logits tensor.Tensor
			if logits, err = m.answer(ctx, a, pass.latents, o); err == nil {
				p.Heads = append(p.Heads, Head{Task: o, Classes: topClasses(logits.Row(0), opt.top(), labeler(h.Labels))})
			}
		case o == OutputAnswers:
			out.Answers, err = answers(ctx, a, m.decoder, it.Latents, opt.Queries)
		case o == OutputPooled:
			out.Pooled, err = m.pooled(ctx, a, pass.latents)
		case o == OutputSoftTokens:
			var soft tensor.Tensor
			if soft, err = m.resampler.Forward(a, resampler.Input{X: pass.latents}); err == nil {
				out.SoftTokens = soft.At(0).Clone()
			}
		case o == OutputCaption:
			p.Caption, err = m.caption.say(ctx, a, m.resampler, pass.latents)
		}
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}
