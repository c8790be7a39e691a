package pipeline

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/perceiver"
	"github.com/mmserve/mmserve/tensor"
)

// LatentDecoder is a Model whose decoder can be asked by itself, with latents that Encode gave
// earlier: Info.Decodes says for what. Answers are the bits that Predict gives for the medium.
type LatentDecoder interface {
	Model
	// PlanDecode checks an item's latents and the options against the model, and says what
	// decoding them costs. Nothing is run.
	PlanDecode(ctx context.Context, it Item, opt DecodeOptions) (Plan, error)
	// Decode answers from Item.Latents. Item.Parts are the medium that the latents are of, for
	// decoders whose queries are made of it; empty where the latents are enough.
	Decode(ctx context.Context, it Item, opt DecodeOptions) (*Decoding, error)
}

// The values of DecodeOptions.Outputs besides OutputPooled, OutputSoftTokens and the names of a
// composition's heads. Info.Decodes has those of one model.
const (
	OutputClasses = "classes" // the class list
	OutputMasks   = "masks"   // fill-mask: the candidates of a position
	OutputLogits  = "logits"  // before the softmax: labels, or positions×vocabulary
	OutputFlow    = "flow"    // of the item's two pictures
	OutputFrames  = "frames"  // reconstructed pictures
	OutputAudio   = "audio"   // reconstructed sound
	OutputCaption = "caption" // a language model's words
	OutputAnswers = "answers" // to DecodeOptions.Queries
)

// DecodeOptions choose what Decode answers.
type DecodeOptions struct {
	// Outputs are of Info.Decodes. Empty: OutputAnswers with Queries, else what Predict gives.
	Outputs []string
	Top     int // answers a class list holds; zero means 5
	// Modalities are the media that the latents are of, of Info.Modalities: a composition then answers
	// with the heads that Predict takes for them. Empty: with every one.
	Modalities []string
	// Positions are the tokens that a fill-mask model is asked for; nil: those masked in the
	// item's text, or without one all (of logits).
	Positions []int
	// Points are output points of an autoencoder: flat indexes by "image" and "audio"; nil: all.
	Points map[string][]int
	// Queries are queries of one's own, O×E with E = Info.QueryDim. The decoder answers as it
	// answers its own, before any head: O×F.
	Queries tensor.Tensor
	Trace   func(name string, t tensor.Tensor) // sees every stage, may be nil
}

func (o DecodeOptions) top() int { return PredictOptions{Top: o.Top}.top() }

// Decoding is what a decoder made of latents. Tensors that were not asked for are empty.
type Decoding struct {
	Prediction *Prediction   // classes, heads, masks, caption, flow, reconstruction
	Pooled     tensor.Tensor // D, or the width of the embedding head
	SoftTokens tensor.Tensor // n×W
	Logits     tensor.Tensor // labels, or positions×vocabulary
	Answers    tensor.Tensor // O×F
}

// decodes checks latents and options against the model, and returns the outputs asked for;
// usual are those of a request that names none.
func (b *base) decodes(it Item, opt DecodeOptions, usual ...string) ([]string, error) {
	refuse := func(format string, args ...any) ([]string, error) {
		return nil, fmt.Errorf("pipeline: %w: "+format, append([]any{ErrInput}, args...)...)
	}
	if x, want := it.Latents, []int{b.info.Latents, b.info.LatentDim}; !slices.Equal(x.Shape, want) {
		return refuse("latents %v, want %v", x.Shape, want)
	} else if !finite(x) {
		return refuse("latents: a value is NaN or infinite")
	}
	q := opt.Queries
	asks := q.Shape != nil
	switch {
	case asks && b.info.QueryDim == 0:
		return nil, b.noTask("it has no decoder for queries")
	case asks && (len(q.Shape) != 2 || q.Dim(0) < 1 || q.Dim(1) != b.info.QueryDim):
		return refuse("queries %v, want O×%d", q.Shape, b.info.QueryDim)
	case asks && !finite(q):
		return refuse("queries: a value is NaN or infinite")
	case opt.Positions != nil && b.info.Task != "fill_mask":
		return refuse("positions are asked of fill-mask models")
	case opt.Points != nil && b.info.Task != "autoencoding":
		return refuse("points are asked of autoencoders")
	}
	for _, name := range opt.Modalities {
		if !slices.Contains(b.info.Modalities, name) {
			return refuse("modality %.40q, want one of %s", name, strings.Join(b.info.Modalities, ", "))
		}
	}
	outputs := opt.Outputs
	switch {
	case len(outputs) == 0 && asks:
		outputs = []string{OutputAnswers}
	case len(outputs) == 0:
		outputs = usual
	}
	if len(outputs) > len(b.info.Decodes) {
		return refuse("%d outputs are named, there are %d", len(outputs), len(b.info.Decodes))
	}
	for i, o := range outputs {
		if slices.Contains(outputs[:i], o) {
			return refuse("output %.40q is named twice", o)
		}
		if !slices.Contains(b.info.Decodes, o) {
			return nil, b.noTask(fmt.Sprintf("its latents do not give %.40q; they give %s", o, strings.Join(b.info.Decodes, ", ")))
		}
	}
	if slices.Contains(outputs, OutputAnswers) != asks {
		return refuse("answers are to queries: give both or neither")
	}
	return outputs, nil
}

// latentsAlone refuses an item whose medium the decoder has no use for.
func latentsAlone(it Item) error {
	if len(it.Parts) > 0 {
		return fmt.Errorf("pipeline: %w: the latents are enough: the item's content is not read", ErrInput)
	}
	return nil
}

// decodePlan is the cost of decoding: so many values out.
func (b *base) decodePlan(flops float64, values int) (Plan, error) {
	n, d := b.info.Latents, b.info.LatentDim
	if values > maxArrayValues {
		return Plan{}, fmt.Errorf("pipeline: %w: the answer has %d values, at most %d", ErrInput, values, maxArrayValues)
	}
	cost := modality.Cost{Modality: "latents", Rows: n, RowChannels: d, DecodedBytes: 4 * int64(n*d+values)}
	return Plan{Cost: cost, FLOPs: flops}, nil
}

// batched is latents as a batch of one: 1×N×D.
func batched(latents tensor.Tensor) tensor.Tensor {
	return latents.Reshape(append([]int{1}, latents.Shape...)...)
}

// answers asks a decoder queries of the caller's own: O×F.
func answers(ctx context.Context, a *tensor.Arena, d *perceiver.Decoder, latents, queries tensor.Tensor) (tensor.Tensor, error) {
	out := tensor.New(queries.Dim(0), d.Width())
	mark := a.Mark()
	defer a.Release(mark)
	err := d.Decode(ctx, a, d.Remember(a, batched(latents)), []perceiver.Rows{perceiver.Matrix(queries)}, func(_, from int, y tensor.Tensor) error {
		copy(out.Slice(from, from+y.Dim(0)).Data, y.Data)
		return nil
	})
	if err == nil && !finite(out) {
		err = fmt.Errorf("pipeline: answers: %w", ErrNotFinite)
	}
	return out, err
}

// classifier is a network whose decoder names classes.
type classifier struct {
	decoder *perceiver.Decoder
	logits  func(ctx context.Context, a *tensor.Arena, latents tensor.Tensor) (tensor.Tensor, error)
}

// classDecodes is what a classifier's latents give.
var classDecodes = []string{OutputClasses, OutputLogits, OutputAnswers}

// planClasses is PlanDecode of a classifier, and the outputs that are asked for.
func (b *base) planClasses(it Item, opt DecodeOptions, c perceiver.Config) (plan Plan, outputs []string, err error) {
	if err := latentsAlone(it); err != nil {
		return plan, nil, err
	}
	if outputs, err = b.decodes(it, opt, OutputClasses); err != nil {
		return plan, nil, err
	}
	queries := 0
	if slices.Contains(outputs, OutputClasses) || slices.Contains(outputs, OutputLogits) {
		queries++
	}
	if slices.Contains(outputs, OutputAnswers) {
		queries += opt.Queries.Dim(0)
	}
	d := c.LatentDim
	plan, err = b.decodePlan(decoderFLOPs(c, queries, d, d, d, c.NumLabels), queries*c.NumLabels)
	return plan, outputs, err
}

// decodeClasses is Decode of a classifier.
func (b *base) decodeClasses(ctx context.Context, it Item, opt DecodeOptions, c perceiver.Config, net classifier) (*Decoding, error) {
	plan, outputs, err := b.planClasses(it, opt, c)
	if err != nil {
		return nil, err
	}
	a, done := b.arena(opt.Trace)
	defer done()
	out := &Decoding{Prediction: &Prediction{Task: b.info.Task, Plan: plan}}
	if slices.Contains(outputs, OutputClasses) || slices.Contains(outputs, OutputLogits) {
		logits, err := net.logits(ctx, a, batched(it.Latents))
		if err != nil {
			return nil, err
		}
		out.classify(logits.At(0), outputs, opt.top(), labeler(c.Labels))
	}
	if slices.Contains(outputs, OutputAnswers) {
		out.Answers, err = answers(ctx, a, net.decoder, it.Latents, opt.Queries)
	}
	return out, err
}

// classify fills in the class list and the logits, as asked for.
func (d *Decoding) classify(logits tensor.Tensor, outputs []string, top int, label func(int) string) {
	if slices.Contains(outputs, OutputClasses) {
		d.Prediction.Classes = topClasses(logits.Data, top, label)
	}
	if slices.Contains(outputs, OutputLogits) {
		d.Logits = logits.Clone()
	}
}
