package perceiver

import (
	"context"
	"fmt"

	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// Model is the bare PerceiverModel: rows of d_model channels in, latents out. It adds no
// positions and has no decoder; its parameters have no "perceiver." prefix.
type Model struct {
	Config  Config
	Encoder *Encoder
}

func newModel(c Config, s weights.Scope, opt Options) (Network, error) {
	if err := c.checkCross(c.ModelDim); err != nil {
		return nil, err
	}
	return &Model{Config: c, Encoder: newEncoder(s, c, c.ModelDim, opt)}, nil
}

// Forward returns the latents of rows (M×d_model each) as scratch, B×N×D. mask, which may be
// nil, holds a value in [0,1] for each row of each input.
func (m *Model) Forward(ctx context.Context, a *tensor.Arena, rows []Rows, mask [][]float32) (tensor.Tensor, error) {
	if mask != nil && len(mask) != len(rows) {
		return tensor.Tensor{}, fmt.Errorf("perceiver: %d masks for a batch of %d", len(mask), len(rows))
	}
	in := make([]Input, len(rows))
	for i, r := range rows {
		in[i].Rows = r
		if mask != nil {
			in[i].Mask = mask[i]
		}
	}
	if len(in) == 0 {
		return tensor.Tensor{}, fmt.Errorf("perceiver: empty batch")
	}
	return m.Encoder.Encode(ctx, a, in)
}
