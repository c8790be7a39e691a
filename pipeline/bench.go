package pipeline

import (
	"context"
	"fmt"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/perceiver"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// Bencher is a Model whose forward pass can be measured on made-up input of typical size.
type Bencher interface {
	// Work returns what one forward over a batch costs (textbook FLOPs, multiply and add
	// counted as two) and a function that runs it, decoding of media left out.
	Work(batch int) (flops float64, run func(ctx context.Context) error, err error)
}

// noise fills a tensor with unit-variance values that depend on nothing but its size.
func noise(shape ...int) tensor.Tensor {
	t := tensor.New(shape...)
	weights.Uniform(t.Data, "input:bench", 0, 0, 1.7320508075688772)
	return t
}

// Work implements Bencher: texts of the model's full length.
func (m *textModel) Work(batch int) (float64, func(context.Context) error, error) {
	n := m.config.MaxPositions
	ids := make([][]int, batch)
	for b := range ids {
		ids[b] = make([]int, n)
		for i := range ids[b] {
			ids[b][i] = (i*31+b)%min(256, m.config.VocabSize-modality.ByteOffset) + modality.ByteOffset
		}
	}
	return float64(batch) * m.flops(n), func(ctx context.Context) error {
		a, done := m.arena(nil)
		defer done()
		switch n := m.net.(type) {
		case *perceiver.MaskedLM:
			_, err := n.Forward(ctx, a, ids, nil)
			return err
		case *perceiver.SequenceClassifier:
			_, err := n.Forward(ctx, a, ids, nil)
			return err
		}
		return nil
	}, nil
}

// Work implements Bencher: pictures of 224×224, or of image_size where positions are learned.
func (m *imageModel) Work(batch int) (float64, func(context.Context) error, error) {
	side := m.benchSide()
	pixels := noise(batch, 3, side, side)
	f, err := m.flops(side, side)
	if err != nil {
		return 0, nil, err
	}
	return float64(batch) * f, func(ctx context.Context) error {
		a, done := m.arena(nil)
		defer done()
		_, err := m.net.Forward(ctx, a, perceiver.Planes(pixels), nil)
		return err
	}, nil
}

// Work implements Bencher: one tile a pair.
func (m *flowModel) Work(batch int) (float64, func(context.Context) error, error) {
	in := make([]perceiver.Picture, batch)
	for i := range in {
		in[i] = perceiver.Frames(noise(m.tiles.th, m.tiles.tw, 3), noise(m.tiles.th, m.tiles.tw, 3))
	}
	return float64(batch) * m.flops(), func(ctx context.Context) error {
		a, done := m.arena(nil)
		defer done()
		_, err := m.net.Forward(ctx, a, in, nil)
		return err
	}, nil
}

// benchRows is the length of the array a bare model is measured on.
const benchRows = 2048

// Work implements Bencher: arrays of 2048 rows.
func (m *bareModel) Work(batch int) (float64, func(context.Context) error, error) {
	in := perceiver.Matrices(noise(batch, benchRows, m.net.Config.ModelDim))
	f := encoderFLOPs(m.net.Config, benchRows, m.net.Config.ModelDim)
	return float64(batch) * f, func(ctx context.Context) error {
		a, done := m.arena(nil)
		defer done()
		_, err := m.net.Forward(ctx, a, in, nil)
		return err
	}, nil
}

// AsBencher returns m's Bencher, or an error naming the architecture.
func AsBencher(m Model) (Bencher, error) {
	if b, ok := m.(Bencher); ok {
		return b, nil
	}
	return nil, fmt.Errorf("pipeline: %s cannot be measured on made-up input", m.Info().Architecture)
}
