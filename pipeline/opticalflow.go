package pipeline

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/perceiver"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

func init() { Register("PerceiverForOpticalFlow", openFlow) }

// flowModel answers optical flow between two pictures of any size that holds the tile.
type flowModel struct {
	base
	perceiverCase
	net   *perceiver.OpticalFlow
	tiles flowTiles
}

func openFlow(_ context.Context, d *Dir, s weights.Scope, opt Options) (Model, error) {
	net, err := perceiver.Load(d.Config, s, perceiver.Options{Plain: opt.Plain})
	if err != nil {
		return nil, err
	}
	flow := net.(*perceiver.OpticalFlow)
	size := flow.Config.TrainSize
	m := &flowModel{net: flow, perceiverCase: perceiverCase{net}}
	m.tiles = flowTiles{th: size[0], tw: size[1], overlap: min(flowOverlap, (min(size[0], size[1])-1)/2)}
	m.describe(d, flow.Config, opt)
	m.info.Task, m.info.Modalities = "optical_flow", []string{"image"}
	m.info.Decodes, m.info.QueryDim = []string{OutputFlow, OutputAnswers}, flow.Decoder.QueryDim()
	return m, nil
}

// frames decodes the two pictures of an item.
func (m *flowModel) frames(ctx context.Context, it Item) (a, b frame, err error) {
	if len(it.Parts) != 2 {
		return a, b, fmt.Errorf("pipeline: %w: %d parts, want two pictures", ErrInput, len(it.Parts))
	}
	out := [2]*frame{&a, &b}
	for i, p := range it.Parts {
		if _, err := m.header(p, "image"); err != nil {
			return a, b, err
		}
		if *out[i], err = m.picture(ctx, p); err != nil {
			return a, b, err
		}
	}
	return a, b, nil
}

// Plan says what a pair of pictures costs: the network once a tile.
func (m *flowModel) Plan(ctx context.Context, it Item) (Plan, error) {
	if len(it.Parts) != 2 {
		return Plan{}, fmt.Errorf("pipeline: %w: %d parts, want two pictures", ErrInput, len(it.Parts))
	}
	var p Plan
	for _, part := range it.Parts {
		cost, err := m.imageCost(ctx, part)
		if err != nil {
			return Plan{}, err
		}
		if p.Width > 0 && (p.Width != cost.Width || p.Height != cost.Height) {
			return Plan{}, fmt.Errorf("pipeline: %w: optical flow: frames differ in size: %d×%d and %d×%d", ErrInput, p.Width, p.Height, cost.Width, cost.Height)
		}
		cost.DecodedBytes += p.DecodedBytes
		cost.Decoding += p.Decoding
		p.Cost = cost
	}
	if p.Height < m.tiles.th || p.Width < m.tiles.tw {
		return Plan{}, m.tiles.tooSmall(p.Height, p.Width)
	}
	// The pictures, the field with its weights, and a tile of both.
	p.DecodedBytes += int64(6*p.Width*p.Height) + bytesOf(p.Width*p.Height, 3) + bytesOf(6*m.tiles.th, m.tiles.tw)
	p.Frames, p.Rows, p.RowChannels = 2, p.Width*p.Height, m.net.Encoder.Channels()
	n := distinct(tileCorners(p.Height, m.tiles.th, m.tiles.overlap)) * distinct(tileCorners(p.Width, m.tiles.tw, m.tiles.overlap))
	p.FLOPs = float64(n) * m.flops()
	return p, nil
}

// flops is one tile.
func (m *flowModel) flops() float64 {
	c := m.net.Config
	rows := c.TrainSize[0] * c.TrainSize[1]
	return encoderFLOPs(c, rows, m.net.Encoder.Channels()) + m.decoderFLOPs(rows)
}

// decoderFLOPs is the decoding of o queries.
func (m *flowModel) decoderFLOPs(o int) float64 {
	c, e := m.net.Config, m.net.Encoder.Channels()
	qk := c.LatentDim
	if c.CrossShape == "q" {
		qk = e
	}
	return decoderFLOPs(c, o, e, qk, qk, 2)
}

// Encode returns the latents of the first tile of a pair: flow has no single latent array for
// larger pictures, so those are refused.
func (m *flowModel) Encode(ctx context.Context, it Item, opt EncodeOptions) (*Encoding, error) {
	a, b, err := m.frames(ctx, it)
	if err != nil {
		return nil, err
	}
	for _, f := range []frame{a, b} {
		if err := m.oneTile(f.h, f.w); err != nil {
			return nil, err
		}
	}
	first, second := tensor.New(a.h, a.w, 3), tensor.New(a.h, a.w, 3)
	a.tile(first, 0, 0)
	b.tile(second, 0, 0)
	rows, err := m.net.Rows([]perceiver.Picture{perceiver.Frames(first, second)})
	if err != nil {
		return nil, err
	}
	enc := &Encoding{Grid: []int{a.h, a.w}}
	if enc.Plan, err = m.Plan(ctx, it); err != nil {
		return nil, err
	}
	return enc, m.encodeRows(ctx, m.net.Encoder, perceiver.Input{Rows: rows[0]}, opt, enc)
}

// oneTile refuses frames of another size than the network's own.
func (m *flowModel) oneTile(h, w int) error {
	if h == m.tiles.th && w == m.tiles.tw {
		return nil
	}
	return fmt.Errorf("pipeline: %w: latents of optical flow are of one tile: frames of %d×%d, want %d×%d (width×height)", ErrInput, w, h, m.tiles.tw, m.tiles.th)
}

// Predict returns the flow of a pair.
func (m *flowModel) Predict(ctx context.Context, it Item, opt PredictOptions) (*Prediction, error) {
	plan, err := m.Plan(ctx, it)
	if err != nil {
		return nil, err
	}
	first, second, err := m.frames(ctx, it)
	if err != nil {
		return nil, err
	}
	a, done := m.arena(opt.Trace)
	defer done()
	p := &Prediction{Task: m.info.Task, Plan: plan}
	p.Flow, err = m.flow(ctx, a, first, second, func(pair []perceiver.Picture) (tensor.Tensor, error) {
		return m.net.Forward(ctx, a, pair, nil)
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

// flow lays tiles over two frames and asks net (1×H×W×2, scratch of a) for each.
func (m *flowModel) flow(ctx context.Context, a *tensor.Arena, first, second frame, net func(pair []perceiver.Picture) (tensor.Tensor, error)) (*Flow, error) {
	field, err := m.tiles.run(ctx, first, second, func(one, two tensor.Tensor) (tensor.Tensor, error) {
		mark := a.Mark()
		defer a.Release(mark)
		t, err := net([]perceiver.Picture{perceiver.Frames(one, two)})
		if err != nil {
			return t, err
		}
		return t.At(0).Clone(), nil
	})
	if err != nil {
		return nil, err
	}
	return describeFlow(field), nil
}

// planDecode says what decoding costs, and the outputs that are asked for.
func (m *flowModel) planDecode(ctx context.Context, it Item, opt DecodeOptions) (plan Plan, outputs []string, err error) {
	if outputs, err = m.decodes(it, opt, OutputFlow); err != nil {
		return plan, nil, err
	}
	queries, held := 0, int64(0)
	if slices.Contains(outputs, OutputFlow) {
		if len(it.Parts) == 0 {
			return plan, nil, fmt.Errorf("pipeline: %w: flow: its queries are the pixels: give the two pictures as the item's content", ErrInput)
		}
		pair, err := m.Plan(ctx, it)
		if err != nil {
			return plan, nil, err
		}
		if err := m.oneTile(pair.Height, pair.Width); err != nil {
			return plan, nil, err
		}
		queries, held = pair.Width*pair.Height, pair.DecodedBytes
	} else if err := latentsAlone(it); err != nil {
		return plan, nil, err
	}
	if slices.Contains(outputs, OutputAnswers) {
		queries += opt.Queries.Dim(0)
	}
	plan, err = m.decodePlan(m.decoderFLOPs(queries), 2*queries)
	plan.DecodedBytes += held
	return plan, outputs, err
}

// PlanDecode says what the flow of latents costs.
func (m *flowModel) PlanDecode(ctx context.Context, it Item, opt DecodeOptions) (Plan, error) {
	plan, _, err := m.planDecode(ctx, it, opt)
	return plan, err
}

// Decode returns the flow of latents; the item's two pictures are the queries.
func (m *flowModel) Decode(ctx context.Context, it Item, opt DecodeOptions) (*Decoding, error) {
	plan, outputs, err := m.planDecode(ctx, it, opt)
	if err != nil {
		return nil, err
	}
	a, done := m.arena(opt.Trace)
	defer done()
	out := &Decoding{Prediction: &Prediction{Task: m.info.Task, Plan: plan}}
	if slices.Contains(outputs, OutputFlow) {
		first, second, err := m.frames(ctx, it)
		if err != nil {
			return nil, err
		}
		out.Prediction.Flow, err = m.flow(ctx, a, first, second, func(pair []perceiver.Picture) (tensor.Tensor, error) {
			return m.net.Decode(ctx, a, batched(it.Latents), pair)
		})
		if err != nil {
			return nil, err
		}
	}
	if slices.Contains(outputs, OutputAnswers) {
		out.Answers, err = answers(ctx, a, m.net.Decoder, it.Latents, opt.Queries)
	}
	return out, err
}

// describeFlow sums a field up for people.
func describeFlow(field tensor.Tensor) *Flow {
	f := &Flow{Width: field.Dim(1), Height: field.Dim(0), Field: field}
	n := float64(f.Width * f.Height)
	for i := 0; i < len(field.Data); i += 2 {
		x, y := float64(field.Data[i]), float64(field.Data[i+1])
		f.MeanX += x / n
		f.MeanY += y / n
		f.Longest = max(f.Longest, math.Hypot(x, y))
	}
	return f
}

// imageCost plans one picture by the image adapter's own header reading.
func (b *base) imageCost(ctx context.Context, p Part) (modality.Cost, error) {
	h, err := b.header(p, "image")
	if err != nil {
		return modality.Cost{}, err
	}
	a, err := modality.New("image", nil)
	if err != nil {
		return modality.Cost{}, err
	}
	cost, err := a.Plan(ctx, h)
	cost.Notes = nil // the adapter's own crop and size are not this model's
	return cost, err
}
