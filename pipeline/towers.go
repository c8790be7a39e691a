package pipeline

import (
	"context"
	"fmt"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/vision"
	"github.com/mmserve/mmserve/weights"
)

func init() {
	for arch, processor := range map[string]string{
		"CLIPVisionModel": "clip", "CLIPVisionModelWithProjection": "clip", "clip_vision_model": "clip",
		"open_clip_vision":  "openclip",
		"SiglipVisionModel": "siglip", "siglip_vision_model": "siglip",
	} {
		Register(arch, func(_ context.Context, d *Dir, s weights.Scope, opt Options) (Model, error) {
			return openTower(d, s, opt, processor)
		})
	}
	joined["open_clip_vision"] = func(d *Dir, _ Options) (weights.Source, func(), error) {
		c, err := d.checkpoint()
		if err != nil {
			return nil, nil, err
		}
		return vision.OpenCLIP(c), func() { c.Close() }, nil
	}
}

// towerModel answers a vision tower by itself: its latents are the tokens of one picture.
type towerModel struct {
	base
	tower     *vision.Tower
	processor *modality.ImageProcessor
}

func openTower(d *Dir, s weights.Scope, opt Options, processor string) (Model, error) {
	c, err := vision.ParseConfig(d.Config)
	if err != nil {
		return nil, err
	}
	m := &towerModel{}
	if m.tower, err = vision.New(s, c); err != nil {
		return nil, err
	}
	if m.processor, err = readProcessor(d); err != nil {
		return nil, err
	}
	if m.processor == nil {
		if m.processor, err = squareProcessor(processor, c.Image); err != nil {
			return nil, err
		}
	}
	m.limits = opt.Limits
	m.info = Info{
		Architecture: d.Arch, Task: "image_encoding", Modalities: []string{"image"}, Outputs: []string{OutputLatents, OutputPooled},
		Latents: c.Tokens(), LatentDim: c.Width, FLOPs: towerFLOPs(c),
	}
	return m, nil
}

// squareProcessor is a family's published preprocessing for a tower of side pixels.
func squareProcessor(kind string, side int) (*modality.ImageProcessor, error) {
	square := map[string]int{"height": side, "width": side}
	config := map[string]any{"image_processor_type": kind + "ImageProcessor", "size": square}
	if kind != "siglip" {
		config["size"], config["crop_size"] = map[string]int{"shortest_edge": side}, square
	}
	return modality.ParseImageProcessor(mustJSON(config))
}

// towerFLOPs is a vision transformer over one picture of its own size.
func towerFLOPs(c vision.Config) float64 {
	p, t, w, h := float64(c.Side()*c.Side()), float64(c.Tokens()), float64(c.Width), float64(c.Hidden)
	return 2*p*w*float64(c.Channels*c.Patch*c.Patch) + float64(c.Layers)*(2*t*w*(4*w+2*h)+4*t*t*w)
}

// Plan says what a picture costs.
func (m *towerModel) Plan(ctx context.Context, it Item) (Plan, error) {
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

func (m *towerModel) plan(cost modality.Cost) (Plan, error) {
	if err := m.processor.Check(cost.Width, cost.Height, m.limits); err != nil {
		return Plan{}, err
	}
	c := m.tower.Config
	cost.Rows, cost.RowChannels = c.Side()*c.Side(), c.Channels*c.Patch*c.Patch
	cost.DecodedBytes += int64(12 * c.Image * c.Image)
	return Plan{Cost: cost, FLOPs: m.info.FLOPs}, nil
}

// FLOPs is the network's work for an input of a cost.
func (m *towerModel) FLOPs(cost modality.Cost) (float64, error) {
	if cost.Modality != "image" {
		return 0, fmt.Errorf("pipeline: %w: %s takes image, not %s", ErrInput, m.info.Architecture, cost.Modality)
	}
	p, err := m.plan(cost)
	return p.FLOPs, err
}

// Encode returns the tokens of a picture, and what the tower pools of them.
func (m *towerModel) Encode(ctx context.Context, it Item, opt EncodeOptions) (*Encoding, error) {
	plan, err := m.Plan(ctx, it)
	if err != nil {
		return nil, err
	}
	v, notes, err := onePicture(ctx, m.processor, it.Parts[0], m.limits)
	if err != nil {
		return nil, err
	}
	a, done := m.arena(opt.Trace)
	defer done()
	x, err := m.tower.Forward(a, vision.Input{Pixels: vision.ChannelsLast(batch1(v))}, vision.Features{})
	if err != nil {
		return nil, fmt.Errorf("pipeline: %w: %w", ErrInput, err)
	}
	side := m.tower.Config.Side()
	plan.Notes = notes
	enc := &Encoding{Plan: plan, Notes: notes, Grid: []int{side, side}}
	if err := fill(enc, opt, x.At(0)); err != nil {
		return nil, err
	}
	if opt.wants(OutputPooled) && m.tower.PooledWidth() > 0 {
		enc.Pooled = m.tower.Pooled(a, x).At(0).Clone()
	}
	return enc, ctx.Err()
}

// Predict refuses: there is no head.
func (m *towerModel) Predict(context.Context, Item, PredictOptions) (*Prediction, error) {
	return nil, m.noTask("a vision tower has no head; use encode")
}

// Work implements Bencher: pictures of the tower's size.
func (m *towerModel) Work(batch int) (float64, func(context.Context) error, error) {
	px := noise(batch, m.tower.Config.Image, m.tower.Config.Image, m.tower.Config.Channels)
	return float64(batch) * m.info.FLOPs, func(context.Context) error {
		a, done := m.arena(nil)
		defer done()
		_, err := m.tower.Forward(a, vision.Input{Pixels: px}, vision.Features{})
		return err
	}, nil
}

var _ interface {
	Model
	Bencher
} = (*towerModel)(nil)

// batch1 is a tensor with a first axis of one.
func batch1(t tensor.Tensor) tensor.Tensor { return t.Reshape(append([]int{1}, t.Shape...)...) }
