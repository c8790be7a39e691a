package pipeline

import (
	"context"
	"fmt"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/perceiver"
	"github.com/mmserve/mmserve/weights"
)

func init() { Register("PerceiverModel", openBare) }

// bareModel answers PerceiverModel: it takes ready rows of d_model channels, an .npy array of
// M×C or B×M×C with B = 1, or any medium whose adapter gives rows of that width.
type bareModel struct {
	base
	perceiverCase
	net *perceiver.Model
}

func openBare(_ context.Context, d *Dir, s weights.Scope, opt Options) (Model, error) {
	net, err := perceiver.Load(d.Config, s, perceiver.Options{Plain: opt.Plain})
	if err != nil {
		return nil, err
	}
	m := &bareModel{net: net.(*perceiver.Model), perceiverCase: perceiverCase{net}}
	m.describe(d, m.net.Config, opt)
	m.info.Task, m.info.Modalities = "encode", append([]string{"array"}, modality.Names()...)
	return m, nil
}

// Plan says what an array costs.
func (m *bareModel) Plan(ctx context.Context, it Item) (Plan, error) {
	r, cost, done, err := m.rows(ctx, it)
	if err != nil {
		return Plan{}, err
	}
	defer done()
	n, c := r.Dims()
	return Plan{Cost: cost, FLOPs: encoderFLOPs(m.net.Config, n, c)}, nil
}

// rows opens the item as rows of the model's width.
func (m *bareModel) rows(ctx context.Context, it Item) (rows, modality.Cost, func(), error) {
	fail := func(err error) (rows, modality.Cost, func(), error) { return nil, modality.Cost{}, nil, err }
	p, err := one(it, "array")
	if err != nil {
		return fail(err)
	}
	in := p.Input
	in.Limits = m.limits
	h, err := in.Header()
	if err != nil {
		return fail(err)
	}
	want := m.net.Config.ModelDim
	if p.Modality == "" && h.Has(0, "\x93NUMPY") || p.Modality == "array" {
		t, err := readArray(ctx, in)
		if err != nil {
			return fail(err)
		}
		if len(t.Shape) == 3 && t.Dim(0) == 1 {
			t = t.At(0)
		}
		if len(t.Shape) != 2 || t.Dim(1) != want {
			return fail(fmt.Errorf("pipeline: %w: array %v, want M×%d", ErrInput, t.Shape, want))
		}
		cost := modality.Cost{Modality: "array", MediaType: "application/x-npy", Rows: t.Dim(0), RowChannels: want, DecodedBytes: int64(4 * len(t.Data))}
		return perceiver.Matrix(t), cost, func() {}, nil
	}
	name := p.Modality
	if name == "" {
		if name, _, err = modality.Detect(h); err != nil {
			return fail(err)
		}
	}
	ad, err := modality.New(name, p.Options)
	if err != nil {
		return fail(err)
	}
	arr, err := ad.Adapt(ctx, in)
	if err != nil {
		return fail(err)
	}
	if _, c := arr.Dims(); c != want {
		arr.Close()
		return fail(fmt.Errorf("pipeline: %w: %s rows of %d channels, want %d", ErrInput, name, c, want))
	}
	return arr, arr.Cost, func() { arr.Close() }, nil
}

// Encode returns the latents of an array.
func (m *bareModel) Encode(ctx context.Context, it Item, opt EncodeOptions) (*Encoding, error) {
	r, cost, done, err := m.rows(ctx, it)
	if err != nil {
		return nil, err
	}
	defer done()
	n, c := r.Dims()
	enc := &Encoding{Plan: Plan{Cost: cost, FLOPs: encoderFLOPs(m.net.Config, n, c)}, Notes: cost.Notes}
	return enc, m.encodeRows(ctx, m.net.Encoder, perceiver.Input{Rows: r}, opt, enc)
}

// Predict refuses: there is no head.
func (m *bareModel) Predict(context.Context, Item, PredictOptions) (*Prediction, error) {
	return nil, m.noTask("it has no decoder; use encode")
}
