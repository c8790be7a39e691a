package pipeline

import (
	"context"
	"fmt"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/modality/imagefile"
	"github.com/mmserve/mmserve/perceiver"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

func init() {
	for _, kind := range []string{"Learned", "Fourier", "ConvProcessing"} {
		Register("PerceiverForImageClassification"+kind, openImage)
	}
}

// imageModel answers the published image classifiers.
type imageModel struct {
	base
	perceiverCase
	net       *perceiver.ImageClassifier
	processor *modality.ImageProcessor
}

func openImage(_ context.Context, d *Dir, s weights.Scope, opt Options) (Model, error) {
	net, err := perceiver.Load(d.Config, s, perceiver.Options{Plain: opt.Plain})
	if err != nil {
		return nil, err
	}
	m := &imageModel{net: net.(*perceiver.ImageClassifier), perceiverCase: perceiverCase{net}}
	m.describe(d, m.net.Config, opt)
	m.info.Task, m.info.Modalities = "image_classification", []string{"image"}
	m.info.Decodes, m.info.QueryDim = classDecodes, m.net.Decoder().QueryDim()
	if m.processor, err = readProcessor(d); err != nil {
		return nil, err
	}
	if m.processor == nil {
		side := m.net.Config.ImageSize
		if !m.learned() {
			side = publishedSide
		}
		m.processor, err = defaultProcessor(side)
	}
	return m, err
}

// publishedSide is the size of picture that the published classifiers were trained on; their
// configuration does not always say it.
const publishedSide = 224

// learned reports whether positions are a table, which fixes the picture's size.
func (m *imageModel) learned() bool {
	return m.info.Architecture == "PerceiverForImageClassificationLearned"
}

// convolves reports whether a convolution goes before the encoder.
func (m *imageModel) convolves() bool {
	return m.info.Architecture == "PerceiverForImageClassificationConvProcessing"
}

func (m *imageModel) benchSide() int {
	if m.learned() {
		return m.net.Config.ImageSize
	}
	return publishedSide
}

// grid is the number of rows that h×w pixels become.
func (m *imageModel) grid(h, w int) []int {
	if m.convolves() {
		h, w = ((h-1)/2+1-3)/2+1, ((w-1)/2+1-3)/2+1
	}
	return []int{h, w}
}

// flops is one forward over h×w pixels.
func (m *imageModel) flops(h, w int) (float64, error) {
	g := m.grid(h, w)
	if g[0] < 1 || g[1] < 1 {
		return 0, fmt.Errorf("pipeline: %w: pictures of %d×%d are too small", ErrInput, w, h)
	}
	c := m.net.Config
	return encoderFLOPs(c, g[0]*g[1], m.net.Encoder.Channels()) +
		decoderFLOPs(c, 1, c.LatentDim, c.LatentDim, c.LatentDim, c.NumLabels), nil
}

// Plan says what a picture costs.
func (m *imageModel) Plan(ctx context.Context, it Item) (Plan, error) {
	p, err := one(it, "picture")
	if err != nil {
		return Plan{}, err
	}
	cost, err := m.imageCost(ctx, p)
	if err != nil {
		return Plan{}, err
	}
	return m.plan(cost)
}

// plan adds the network's side to a picture's cost.
func (m *imageModel) plan(cost modality.Cost) (Plan, error) {
	if err := m.processor.Check(cost.Width, cost.Height, m.limits); err != nil {
		return Plan{}, err
	}
	size := m.processor.Sizes(cost.Width, cost.Height)[0]
	h, w := size[0], size[1]
	g := m.grid(h, w)
	cost.Rows, cost.RowChannels = g[0]*g[1], m.net.Encoder.Channels()
	cost.DecodedBytes += bytesOf(3*h, w)
	if m.convolves() {
		// The pixels once more, what 64 filters make of them at half the size, and their maxima twice.
		cost.DecodedBytes += bytesOf(3*h, w) + bytesOf((h+1)/2*((w+1)/2), 64) + bytesOf(2*cost.Rows, 64)
	}
	f, err := m.flops(h, w)
	return Plan{Cost: cost, FLOPs: f}, err
}

// input prepares a picture: 1×3×H×W.
func (m *imageModel) input(ctx context.Context, it Item) (tensor.Tensor, Plan, error) {
	plan, err := m.Plan(ctx, it)
	if err != nil {
		return tensor.Tensor{}, plan, err
	}
	v, notes, err := onePicture(ctx, m.processor, it.Parts[0], m.limits)
	if err != nil {
		return tensor.Tensor{}, plan, err
	}
	plan.Notes = notes
	return v.Reshape(append([]int{1}, v.Shape...)...), plan, nil
}

// Encode returns the latents of a picture.
func (m *imageModel) Encode(ctx context.Context, it Item, opt EncodeOptions) (*Encoding, error) {
	x, plan, err := m.input(ctx, it)
	if err != nil {
		return nil, err
	}
	a, done := m.arena(nil)
	defer done()
	in, err := m.net.Rows(a, perceiver.Planes(x), nil)
	if err != nil {
		return nil, err
	}
	enc := &Encoding{Plan: plan, Notes: plan.Notes, Grid: m.grid(x.Dim(2), x.Dim(3))}
	return enc, m.encodeRows(ctx, m.net.Encoder, in[0], opt, enc)
}

// Predict returns the classes of a picture.
func (m *imageModel) Predict(ctx context.Context, it Item, opt PredictOptions) (*Prediction, error) {
	x, plan, err := m.input(ctx, it)
	if err != nil {
		return nil, err
	}
	a, done := m.arena(opt.Trace)
	defer done()
	logits, err := m.net.Forward(ctx, a, perceiver.Planes(x), nil)
	if err != nil {
		return nil, err
	}
	p := &Prediction{Task: m.info.Task, Plan: plan, Notes: plan.Notes, Logits: logits.At(0).Clone()}
	p.Classes = topClasses(p.Logits.Data, opt.top(), labeler(m.net.Config.Labels))
	return p, nil
}

// PlanDecode says what naming classes from latents costs.
func (m *imageModel) PlanDecode(_ context.Context, it Item, opt DecodeOptions) (Plan, error) {
	plan, _, err := m.planClasses(it, opt, m.net.Config)
	return plan, err
}

// Decode names classes from latents.
func (m *imageModel) Decode(ctx context.Context, it Item, opt DecodeOptions) (*Decoding, error) {
	return m.decodeClasses(ctx, it, opt, m.net.Config, classifier{m.net.Decoder(), m.net.Decode})
}

// picture decodes a part as an RGB picture, alpha dropped as the published processors do.
func (b *base) picture(ctx context.Context, p Part) (frame, error) {
	in := p.Input
	in.Limits = b.limits
	img, err := imagefile.Decode(ctx, in, imagefile.Options{})
	if err != nil {
		return frame{}, err
	}
	rgb := img.RGB(imagefile.DropAlpha)
	return frame{h: rgb.H, w: rgb.W, rgb: rgb.Pix}, nil
}
