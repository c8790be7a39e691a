package pipeline

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"

	"golang.org/x/text/encoding/unicode"
	"golang.org/x/text/transform"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/perceiver"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

func init() {
	Register("PerceiverForMaskedLM", openText)
	Register("PerceiverForSequenceClassification", openText)
}

// textNet is what the two language networks share.
type textNet interface {
	Encode(ctx context.Context, a *tensor.Arena, ids [][]int, mask [][]float32) (tensor.Tensor, error)
	Rows(ids [][]int, mask [][]float32) ([]perceiver.Input, error)
}

// textModel answers byte-level language models: fill-mask or sequence classes.
type textModel struct {
	base
	perceiverCase
	config perceiver.Config
	net    textNet
	tokens modality.Tokenizer
}

func openText(_ context.Context, d *Dir, s weights.Scope, opt Options) (Model, error) {
	net, err := perceiver.Load(d.Config, s, perceiver.Options{Plain: opt.Plain})
	if err != nil {
		return nil, err
	}
	m := &textModel{net: net.(textNet), perceiverCase: perceiverCase{net}}
	switch n := net.(type) {
	case *perceiver.MaskedLM:
		m.config, m.info.Task = n.Config, "fill_mask"
		m.info.Decodes, m.info.QueryDim = []string{OutputMasks, OutputLogits, OutputAnswers}, n.Decoder.QueryDim()
	case *perceiver.SequenceClassifier:
		m.config, m.info.Task = n.Config, "text_classification"
		m.info.Decodes, m.info.QueryDim = classDecodes, n.Decoder().QueryDim()
	}
	m.describe(d, m.config, opt)
	m.info.Modalities = []string{"text"}
	m.tokens = modality.Tokenizer{MaxLength: m.config.MaxPositions}
	return m, nil
}

// ids reads the text of an item: one part, or two for a pair.
func (m *textModel) ids(ctx context.Context, it Item) ([]int, error) {
	if len(it.Parts) < 1 || len(it.Parts) > 2 {
		return nil, fmt.Errorf("pipeline: %w: %d parts, want one text or a pair", ErrInput, len(it.Parts))
	}
	texts := make([]string, len(it.Parts))
	for i, p := range it.Parts {
		if _, err := m.header(p, "text"); err != nil {
			return nil, err
		}
		b, err := m.read(ctx, p.Input)
		if err != nil {
			return nil, err
		}
		if texts[i], err = utf8Text(b); err != nil {
			return nil, err
		}
	}
	if len(texts) == 2 {
		return m.tokens.EncodePair(texts[0], texts[1])
	}
	return m.tokens.Encode(texts[0])
}

// read reads a text whole; one that cannot fit the model's positions is refused by its size.
func (m *textModel) read(ctx context.Context, in media.Input) ([]byte, error) {
	limit := int64(m.config.MaxPositions) * maxSpecialLength
	if in.Size > limit {
		return nil, media.Exceeds("text: bytes", float64(limit), float64(in.Size))
	}
	b, err := io.ReadAll(media.NewReader(ctx, in.Reader(), limit))
	if err != nil {
		return nil, media.Wrap(err, media.Unreadable, "text: read")
	}
	return bytes.TrimRight(b, "\r\n"), nil
}

// utf8Text is bytes as text: UTF-16 with a byte order mark becomes UTF-8, a UTF-8 mark goes,
// anything else stays byte for byte.
func utf8Text(b []byte) (string, error) {
	out, _, err := transform.Bytes(unicode.BOMOverride(transform.Nop), b)
	if err != nil {
		return "", media.Wrap(err, media.Malformed, "text: UTF-16")
	}
	return string(out), nil
}

// maxSpecialLength is the most bytes of text that become one token: "[MASK]" and its like.
const maxSpecialLength = 6

// Plan says what a text costs.
func (m *textModel) Plan(ctx context.Context, it Item) (Plan, error) {
	ids, err := m.ids(ctx, it)
	if err != nil {
		return Plan{}, err
	}
	p := Plan{Cost: modality.Cost{Modality: "text", MediaType: "text/plain", Rows: len(ids), RowChannels: m.config.ModelDim, DecodedBytes: int64(8 * len(ids))}}
	p.FLOPs = m.flops(len(ids))
	return p, nil
}

// Encode returns the latents of a text.
func (m *textModel) Encode(ctx context.Context, it Item, opt EncodeOptions) (*Encoding, error) {
	ids, err := m.ids(ctx, it)
	if err != nil {
		return nil, err
	}
	enc := &Encoding{Grid: []int{len(ids)}}
	if enc.Plan, err = m.Plan(ctx, it); err != nil {
		return nil, err
	}
	in, err := m.net.Rows([][]int{ids}, nil)
	if err != nil {
		return nil, err
	}
	return enc, m.encodeRows(ctx, m.encoder(), in[0], opt, enc)
}

// encoder is the network's encoder.
func (m *textModel) encoder() *perceiver.Encoder {
	if n, ok := m.net.(*perceiver.MaskedLM); ok {
		return n.Encoder
	}
	return m.net.(*perceiver.SequenceClassifier).Encoder
}

// mlmQK is the width of the queries and keys of a fill-mask model's decoder (perceiver.MaskedLM).
const mlmQK = 8 * 32

// flops is one forward over n tokens.
func (m *textModel) flops(n int) float64 {
	c := m.config
	f := encoderFLOPs(c, n, c.ModelDim)
	if m.info.Task == "fill_mask" {
		return f + decoderFLOPs(c, c.MaxPositions, c.ModelDim, mlmQK, c.ModelDim, c.VocabSize)
	}
	return f + decoderFLOPs(c, 1, c.LatentDim, c.LatentDim, c.LatentDim, c.NumLabels)
}

// Predict fills masks or names classes.
func (m *textModel) Predict(ctx context.Context, it Item, opt PredictOptions) (*Prediction, error) {
	ids, err := m.ids(ctx, it)
	if err != nil {
		return nil, err
	}
	p := &Prediction{Task: m.info.Task}
	if p.Plan, err = m.Plan(ctx, it); err != nil {
		return nil, err
	}
	a, done := m.arena(opt.Trace)
	defer done()
	switch n := m.net.(type) {
	case *perceiver.MaskedLM:
		return p, m.fill(ctx, a, n, ids, opt.top(), p)
	case *perceiver.SequenceClassifier:
		logits, err := n.Forward(ctx, a, [][]int{ids}, nil)
		if err != nil {
			return nil, err
		}
		p.Logits = logits.At(0).Clone()
		p.Classes = topClasses(p.Logits.Data, opt.top(), labeler(m.config.Labels))
	}
	return p, nil
}

// fill answers every masked position with its likeliest bytes, and writes the text with the
// likeliest of each filled in.
func (m *textModel) fill(ctx context.Context, a *tensor.Arena, n *perceiver.MaskedLM, ids []int, top int, p *Prediction) error {
	at, err := masked(ids)
	if err != nil {
		return err
	}
	x, err := n.Encode(ctx, a, [][]int{ids}, nil)
	if err != nil {
		return err
	}
	logits := a.New(1, len(at), m.config.VocabSize)
	if err := n.DecodeAt(ctx, a, x, at, logits); err != nil {
		return err
	}
	p.Logits = logits.At(0).Clone()
	m.candidates(p, ids, at, top)
	return nil
}

// masked are the positions of a text that are to be filled.
func masked(ids []int) ([]int, error) {
	var at []int
	for i, id := range ids {
		if id == modality.MASK {
			at = append(at, i)
		}
	}
	if len(at) == 0 {
		return nil, fmt.Errorf("pipeline: %w: the text has no [MASK] to fill", ErrInput)
	}
	return at, nil
}

// candidates names the likeliest bytes of positions by p.Logits, a row each, and writes the text
// with the likeliest filled in, where there is one.
func (m *textModel) candidates(p *Prediction, ids, at []int, top int) {
	filled := slices.Clone(ids)
	for i, pos := range at {
		c := topClasses(p.Logits.Row(i), top, byteLabel)
		p.Masks = append(p.Masks, Masked{Position: pos, Candidates: c})
		if ids != nil {
			filled[pos] = c[0].Index
		}
	}
	if ids != nil {
		p.Text = m.tokens.Decode(filled, true)
	}
}

// maskedDecode is what a fill-mask model is asked of latents.
type maskedDecode struct {
	outputs []string
	ids     []int // of the item's text, nil without one
	at      []int // the positions
}

// planDecode reads what a fill-mask model is asked: positions, or a text with masks, or all.
func (m *textModel) planDecode(ctx context.Context, it Item, opt DecodeOptions) (plan Plan, d maskedDecode, err error) {
	fail := func(err error) (Plan, maskedDecode, error) { return Plan{}, maskedDecode{}, err }
	if d.outputs, err = m.decodes(it, opt, OutputMasks); err != nil {
		return fail(err)
	}
	c := m.config
	asksMasks, asksLogits := slices.Contains(d.outputs, OutputMasks), slices.Contains(d.outputs, OutputLogits)
	if len(it.Parts) > 0 {
		if d.ids, err = m.ids(ctx, it); err != nil {
			return fail(err)
		}
	}
	switch {
	case !asksMasks && !asksLogits:
	case opt.Positions != nil:
		end := c.MaxPositions
		if d.ids != nil {
			end = len(d.ids)
		}
		for _, p := range opt.Positions {
			if p < 0 || p >= end {
				return fail(fmt.Errorf("pipeline: %w: position %d, want 0 to %d", ErrInput, p, end-1))
			}
		}
		if n := len(opt.Positions); n < 1 || n > c.MaxPositions {
			return fail(fmt.Errorf("pipeline: %w: %d positions, want 1 to %d", ErrInput, n, c.MaxPositions))
		}
		d.at = opt.Positions
	case d.ids != nil:
		if d.at, err = masked(d.ids); err != nil {
			return fail(err)
		}
	case asksMasks:
		return fail(fmt.Errorf("pipeline: %w: masks: give positions, or the text with its [MASK]s", ErrInput))
	default:
		for p := range c.MaxPositions {
			d.at = append(d.at, p)
		}
	}
	flops, values := decoderFLOPs(c, len(d.at), c.ModelDim, mlmQK, c.ModelDim, c.VocabSize), len(d.at)*c.VocabSize
	if slices.Contains(d.outputs, OutputAnswers) {
		n := opt.Queries.Dim(0)
		flops += decoderFLOPs(c, n, c.ModelDim, mlmQK, c.ModelDim, 0)
		values += n * c.ModelDim
	}
	plan, err = m.decodePlan(flops, values)
	return plan, d, err
}

// PlanDecode says what filling masks or naming classes from latents costs.
func (m *textModel) PlanDecode(ctx context.Context, it Item, opt DecodeOptions) (Plan, error) {
	if m.info.Task == "fill_mask" {
		plan, _, err := m.planDecode(ctx, it, opt)
		return plan, err
	}
	plan, _, err := m.planClasses(it, opt, m.config)
	return plan, err
}

// Decode fills masks or names classes from latents.
func (m *textModel) Decode(ctx context.Context, it Item, opt DecodeOptions) (*Decoding, error) {
	if n, ok := m.net.(*perceiver.SequenceClassifier); ok {
		return m.decodeClasses(ctx, it, opt, m.config, classifier{n.Decoder(), n.Decode})
	}
	plan, asked, err := m.planDecode(ctx, it, opt)
	if err != nil {
		return nil, err
	}
	n := m.net.(*perceiver.MaskedLM)
	a, done := m.arena(opt.Trace)
	defer done()
	out := &Decoding{Prediction: &Prediction{Task: m.info.Task, Plan: plan}}
	if len(asked.at) > 0 {
		logits := tensor.New(1, len(asked.at), m.config.VocabSize)
		if err := n.DecodeAt(ctx, a, batched(it.Latents), asked.at, logits); err != nil {
			return nil, err
		}
		out.Prediction.Logits = logits.At(0)
	}
	if slices.Contains(asked.outputs, OutputMasks) {
		m.candidates(out.Prediction, asked.ids, asked.at, opt.top())
	}
	if slices.Contains(asked.outputs, OutputLogits) {
		out.Logits = out.Prediction.Logits
	}
	if slices.Contains(asked.outputs, OutputAnswers) {
		out.Answers, err = answers(ctx, a, n.Decoder, it.Latents, opt.Queries)
	}
	return out, err
}

// byteLabel names a token for people: the byte's character, quoted when it does not print.
func byteLabel(id int) string {
	if id >= modality.ByteOffset && id < modality.Vocabulary {
		if b := byte(id - modality.ByteOffset); b < ' ' || b > '~' {
			return fmt.Sprintf("0x%02x", b)
		} else if b == ' ' {
			return "' '"
		}
	}
	return modality.Tokenizer{}.Decode([]int{id}, false)
}
