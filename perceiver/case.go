package perceiver

import (
	"context"
	"fmt"

	"github.com/mmserve/mmserve/tensor"
)

// RunCase implements Network: arguments inputs (ids, B×n) and attention_mask.
func (m *MaskedLM) RunCase(ctx context.Context, a *tensor.Arena, in CaseInput) error {
	ids, err := in.tokens("inputs")
	if err != nil {
		return err
	}
	_, err = m.Forward(ctx, a, ids, in.mask("attention_mask"))
	return err
}

// RunCase implements Network: arguments inputs (ids, B×n) and attention_mask.
func (m *SequenceClassifier) RunCase(ctx context.Context, a *tensor.Arena, in CaseInput) error {
	ids, err := in.tokens("inputs")
	if err != nil {
		return err
	}
	_, err = m.Forward(ctx, a, ids, in.mask("attention_mask"))
	return err
}

// RunCase implements Network: arguments inputs or pixel_values (B×3×H×W) and attention_mask.
func (m *ImageClassifier) RunCase(ctx context.Context, a *tensor.Arena, in CaseInput) error {
	name := "inputs"
	if _, ok := in.Floats[name]; !ok {
		name = "pixel_values"
	}
	t, err := in.float(name, 4)
	if err != nil {
		return err
	}
	_, err = m.Forward(ctx, a, Planes(t), in.mask("attention_mask"))
	return err
}

// RunCase implements Network: arguments inputs (B×2×27×H×W) and attention_mask.
func (m *OpticalFlow) RunCase(ctx context.Context, a *tensor.Arena, in CaseInput) error {
	t, err := in.float("inputs", 5)
	if err != nil {
		return err
	}
	s := t.Shape
	_, err = m.Forward(ctx, a, Planes(t.Reshape(s[0], s[1]*s[2], s[3], s[4])), in.mask("attention_mask"))
	return err
}

// RunCase implements Network: arguments inputs.image (B×T×3×H×W), inputs.audio
// (B×samples×1), subsampled_output_points.image, subsampled_output_points.audio and
// attention_mask. Without points everything is decoded.
func (m *MultimodalAutoencoder) RunCase(ctx context.Context, a *tensor.Arena, in CaseInput) error {
	image, err := in.float("inputs.image", 5)
	if err != nil {
		return err
	}
	audio, err := in.float("inputs.audio", 3)
	if err != nil {
		return err
	}
	if image.Dim(0) != audio.Dim(0) {
		return fmt.Errorf("perceiver: case: %d films and %d sounds", image.Dim(0), audio.Dim(0))
	}
	clips := make([]Clip, image.Dim(0))
	for i := range clips {
		clips[i] = Clip{Film: Film(image.At(i)), Audio: audio.At(i).Data}
	}
	points := Points{
		Image: in.list("subsampled_output_points.image"),
		Audio: in.list("subsampled_output_points.audio"),
		Label: true,
	}
	if points.Image == nil && points.Audio == nil {
		points = m.AllPoints()
	}
	x, err := m.Encode(ctx, a, clips, in.mask("attention_mask"))
	if err != nil {
		return err
	}
	_, err = m.Decode(ctx, a, x, points)
	return err
}

// RunCase implements Network: arguments inputs (B×n×d_model) and attention_mask.
func (m *Model) RunCase(ctx context.Context, a *tensor.Arena, in CaseInput) error {
	t, err := in.float("inputs", 3)
	if err != nil {
		return err
	}
	_, err = m.Forward(ctx, a, Matrices(t), in.mask("attention_mask"))
	return err
}
