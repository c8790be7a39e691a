package pipeline

import (
	"context"
	"fmt"

	"github.com/mmserve/mmserve/modality"
)

// PlanPart says what one medium alone would cost a model: of a model that takes several
// together, the cost of an item whose other parts are alike.
func PlanPart(ctx context.Context, m Model, p Part) (Plan, error) {
	if pp, ok := m.(interface {
		planPart(ctx context.Context, p Part) (Plan, error)
	}); ok {
		return pp.planPart(ctx, p)
	}
	return m.Plan(ctx, Item{Parts: []Part{p}})
}

// planPart is the cost of a pair of pictures of this one's size.
func (m *flowModel) planPart(ctx context.Context, p Part) (Plan, error) {
	return m.Plan(ctx, Item{Parts: []Part{p, p}})
}

// planPart is the cost of a film with silence, or of a sound with some film: the network's work
// is the same for all of them.
func (m *multimodalModel) planPart(ctx context.Context, p Part) (Plan, error) {
	in := p.Input
	in.Limits = m.limits
	h, err := in.Header()
	if err != nil {
		return Plan{}, err
	}
	name := p.Modality
	if name == "" {
		if name, _, err = modality.Detect(h); err != nil {
			return Plan{}, err
		}
	}
	ad := m.video
	switch name {
	case "audio":
		ad = m.audio
	case "video", "image":
	default:
		return Plan{}, fmt.Errorf("pipeline: %w: %s takes video and audio, not %s", ErrInput, m.info.Architecture, name)
	}
	cost, err := ad.Plan(ctx, h)
	if err != nil {
		return Plan{}, err
	}
	cost.Rows, cost.RowChannels = m.rows(), m.net.Encoder.Channels()
	return Plan{Cost: cost, FLOPs: m.flops()}, nil
}
