package pipeline

import (
	"context"
	"fmt"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/perceiver"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

func init() { Register("Perceiver", openOriginal) }

// originalModel answers the original Perceiver. Its published layout says nothing of
// preprocessing: it takes an .npy array of axes…×C, or a picture where the network reads two
// axes of three channels (prepared by preprocessor_config.json, else scaled to 0..1).
type originalModel struct {
	base
	perceiverCase
	net       *perceiver.Original
	processor *modality.ImageProcessor // nil without preprocessor_config.json
}

func openOriginal(_ context.Context, d *Dir, s weights.Scope, opt Options) (Model, error) {
	net, err := perceiver.Load(d.Config, s, perceiver.Options{Plain: opt.Plain})
	if err != nil {
		return nil, err
	}
	m := &originalModel{net: net.(*perceiver.Original), perceiverCase: perceiverCase{net}}
	c := m.net.Config
	m.describe(d, perceiver.Config{NumLatents: c.NumLatents, LatentDim: c.LatentDim}, opt)
	m.info.Task, m.info.Modalities = "classification", []string{"array"}
	if c.Head {
		m.info.Decodes = []string{OutputClasses, OutputLogits}
	} else {
		m.info.Task = "encode"
	}
	if m.pictures() {
		m.info.Modalities = append(m.info.Modalities, "image")
		if m.processor, err = readProcessor(d); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// picture reads an item as a picture of the network's axes and channels.
func (m *originalModel) picture(ctx context.Context, it Item) (perceiver.Picture, modality.Cost, error) {
	fail := func(err error) (perceiver.Picture, modality.Cost, error) {
		return perceiver.Picture{}, modality.Cost{}, err
	}
	p, err := one(it, "array or picture")
	if err != nil {
		return fail(err)
	}
	in := p.Input
	in.Limits = m.limits
	h, err := in.Header()
	if err != nil {
		return fail(err)
	}
	if isArray(p, h) {
		cost, shape, err := arrayCost(h, m.axes)
		if err != nil {
			return fail(err)
		}
		t, err := readArray(ctx, in, shape)
		if err != nil {
			return fail(err)
		}
		return perceiver.ChannelsLast(tensor.Of(t.Data, append([]int{1}, t.Shape...)...))[0], cost, nil
	}
	if !m.pictures() {
		return fail(m.wantsArray())
	}
	return m.image(ctx, p)
}

// axes refuses an array of other axes or channels than the network's.
func (m *originalModel) axes(shape []int) error {
	c := m.net.Config
	if len(shape) != c.InputAxes+1 || shape[c.InputAxes] != c.InputChannels {
		return fmt.Errorf("pipeline: %w: array %v, want %d axes and %d channels last", ErrInput, shape, c.InputAxes, c.InputChannels)
	}
	return nil
}

func (m *originalModel) wantsArray() error {
	c := m.net.Config
	return fmt.Errorf("pipeline: %w: the network reads %d axes of %d channels: give an .npy array", ErrInput, c.InputAxes, c.InputChannels)
}

// image prepares a picture.
func (m *originalModel) image(ctx context.Context, p Part) (perceiver.Picture, modality.Cost, error) {
	cost, err := m.imageCost(ctx, p)
	if err != nil {
		return perceiver.Picture{}, cost, err
	}
	if m.processor != nil {
		v, notes, err := onePicture(ctx, m.processor, p, m.limits)
		if err != nil {
			return perceiver.Picture{}, cost, err
		}
		cost.Rows, cost.Notes = v.Dim(1)*v.Dim(2), notes
		return perceiver.Planes(v.Reshape(append([]int{1}, v.Shape...)...))[0], cost, nil
	}
	f, err := m.base.picture(ctx, p)
	if err != nil {
		return perceiver.Picture{}, cost, err
	}
	t := tensor.New(1, f.h, f.w, 3)
	for i, v := range f.rgb {
		t.Data[i] = float32(v) / 255
	}
	return perceiver.ChannelsLast(t)[0], cost, nil
}

// Plan says what an item costs, from its header alone.
func (m *originalModel) Plan(ctx context.Context, it Item) (Plan, error) {
	p, err := one(it, "array or picture")
	if err == nil {
		err = m.plain(p)
	}
	if err != nil {
		return Plan{}, err
	}
	in := p.Input
	in.Limits = m.limits
	h, err := in.Header()
	switch {
	case err != nil:
		return Plan{}, err
	case isArray(p, h):
		cost, _, err := arrayCost(h, m.axes)
		return Plan{Cost: cost, FLOPs: m.flops(cost.Rows)}, err
	case !m.pictures():
		return Plan{}, m.wantsArray()
	}
	cost, err := m.imageCost(ctx, p)
	if err != nil {
		return Plan{}, err
	}
	return m.planPicture(cost)
}

// pictures reports whether the network reads pictures besides arrays.
func (m *originalModel) pictures() bool {
	return m.net.Config.InputAxes == 2 && m.net.Config.InputChannels == 3
}

// planPicture adds the network's side to a picture's cost.
func (m *originalModel) planPicture(cost modality.Cost) (Plan, error) {
	h, w := cost.Height, cost.Width
	if m.processor != nil {
		if err := m.processor.Check(w, h, m.limits); err != nil {
			return Plan{}, err
		}
		size := m.processor.Sizes(w, h)[0]
		h, w = size[0], size[1]
	}
	cost.Rows, cost.RowChannels = h*w, m.width()
	return Plan{Cost: cost, FLOPs: m.flops(h * w)}, nil
}

// width is the number of channels of the network's rows.
func (m *originalModel) width() int {
	c := m.net.Config
	if !c.Fourier {
		return c.InputChannels
	}
	return c.InputChannels + c.InputAxes*(2*c.Bands+1)
}

// flops is one forward over n rows.
func (m *originalModel) flops(n int) float64 {
	c := m.net.Config
	cross, self := c.CrossHeads*c.CrossHeadDim, c.LatentHeads*c.LatentHeadDim
	// GEGLU widens by 8, of which half is the gate: 12·D² a row against a plain one's 2·w·D².
	const widening = 6
	return float64(c.Depth) * (attentionLayer(c.NumLatents, n, c.LatentDim, m.width(), cross, cross, widening) +
		float64(c.SelfPerCross)*attentionLayer(c.NumLatents, c.NumLatents, c.LatentDim, c.LatentDim, self, self, widening))
}

// latents runs the network up to its latents: N×D, scratch of a.
func (m *originalModel) latents(ctx context.Context, a *tensor.Arena, it Item) (tensor.Tensor, perceiver.Input, Plan, error) {
	pic, cost, err := m.picture(ctx, it)
	if err != nil {
		return tensor.Tensor{}, perceiver.Input{}, Plan{}, err
	}
	in, err := m.net.Rows([]perceiver.Picture{pic}, nil)
	if err != nil {
		return tensor.Tensor{}, perceiver.Input{}, Plan{}, err
	}
	n, _ := pic.Rows.Dims()
	x, err := m.net.Embed(ctx, a, in)
	return x, in[0], Plan{Cost: cost, FLOPs: m.flops(n)}, err
}

// Encode returns the latents of an array or a picture.
func (m *originalModel) Encode(ctx context.Context, it Item, opt EncodeOptions) (*Encoding, error) {
	if opt.wants(OutputAttention) {
		return nil, m.noTask("attention maps: the network attends several times")
	}
	a, done := m.arena(opt.Trace)
	defer done()
	x, in, plan, err := m.latents(ctx, a, it)
	if err != nil {
		return nil, err
	}
	enc := &Encoding{Plan: plan, Notes: plan.Notes}
	if opt.wants(OutputByteArray) {
		if enc.ByteArray, err = materialise(ctx, in.Rows); err != nil {
			return nil, err
		}
	}
	return enc, fill(enc, opt, x.At(0))
}

// Predict returns the classes of an array or a picture.
func (m *originalModel) Predict(ctx context.Context, it Item, opt PredictOptions) (*Prediction, error) {
	if !m.net.Config.Head {
		return nil, m.noTask("it has no classifier; use encode")
	}
	a, done := m.arena(opt.Trace)
	defer done()
	x, _, plan, err := m.latents(ctx, a, it)
	if err != nil {
		return nil, err
	}
	logits, err := m.net.Classify(a, x)
	if err != nil {
		return nil, err
	}
	p := &Prediction{Task: m.info.Task, Plan: plan, Logits: logits.At(0).Clone(), Notes: plan.Notes}
	p.Classes = topClasses(p.Logits.Data, opt.top(), labeler(nil))
	return p, nil
}

// PlanDecode says what naming classes from latents costs.
func (m *originalModel) PlanDecode(_ context.Context, it Item, opt DecodeOptions) (Plan, error) {
	plan, _, err := m.planDecode(it, opt)
	return plan, err
}

func (m *originalModel) planDecode(it Item, opt DecodeOptions) (plan Plan, outputs []string, err error) {
	c := m.net.Config
	if !c.Head {
		return plan, nil, m.noTask("it has no classifier; use encode")
	}
	if err := latentsAlone(it); err != nil {
		return plan, nil, err
	}
	if outputs, err = m.decodes(it, opt, OutputClasses); err != nil {
		return plan, nil, err
	}
	plan, err = m.decodePlan(float64(c.LatentDim)*float64(c.NumLatents+2*c.NumClasses), c.NumClasses)
	return plan, outputs, err
}

// Decode names classes from latents.
func (m *originalModel) Decode(ctx context.Context, it Item, opt DecodeOptions) (*Decoding, error) {
	plan, outputs, err := m.planDecode(it, opt)
	if err != nil {
		return nil, err
	}
	a, done := m.arena(opt.Trace)
	defer done()
	logits, err := m.net.Classify(a, batched(it.Latents))
	if err != nil {
		return nil, err
	}
	out := &Decoding{Prediction: &Prediction{Task: m.info.Task, Plan: plan}}
	out.classify(logits.At(0), outputs, opt.top(), labeler(nil))
	return out, nil
}
