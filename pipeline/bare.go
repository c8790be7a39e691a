package pipeline

import (
	"context"
	"fmt"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/modality/media"
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

// Plan says what rows cost, from their header alone.
func (m *bareModel) Plan(ctx context.Context, it Item) (Plan, error) {
	src, err := m.source(it)
	if err != nil {
		return Plan{}, err
	}
	cost, err := src.plan(ctx, m.net.Config.ModelDim)
	if err != nil {
		return Plan{}, err
	}
	return Plan{Cost: cost, FLOPs: encoderFLOPs(m.net.Config, cost.Rows, cost.RowChannels)}, nil
}

// rowSource is an item that is to become rows: an array, or a medium with its adapter.
type rowSource struct {
	in      media.Input
	header  media.Header
	name    string           // of the medium
	adapter modality.Adapter // nil for an array
}

func (m *bareModel) source(it Item) (s rowSource, err error) {
	p, err := one(it, "array")
	if err != nil {
		return s, err
	}
	s.in = p.Input
	s.in.Limits = m.limits
	if s.header, err = s.in.Header(); err != nil || isArray(p, s.header) {
		return s, err
	}
	if s.name = p.Modality; s.name == "" {
		if s.name, _, err = modality.Detect(s.header); err != nil {
			return s, err
		}
	}
	s.adapter, err = modality.New(s.name, p.Options)
	return s, err
}

// plan refuses rows of another width than the network's.
func (s rowSource) plan(ctx context.Context, width int) (modality.Cost, error) {
	if s.adapter == nil {
		cost, _, err := arrayCost(s.header, matrixOf(width))
		return cost, err
	}
	cost, err := s.adapter.Plan(ctx, s.header)
	if err == nil && cost.RowChannels != width {
		err = s.refuse(cost.RowChannels, width)
	}
	return cost, err
}

func (s rowSource) refuse(got, want int) error {
	return fmt.Errorf("pipeline: %w: %s rows of %d channels, want %d", ErrInput, s.name, got, want)
}

// matrixOf accepts M×width and 1×M×width.
func matrixOf(width int) func([]int) error {
	return func(s []int) error {
		if n := len(s); n < 2 || n > 3 || n == 3 && s[0] != 1 || s[n-1] != width {
			return fmt.Errorf("pipeline: %w: array %v, want M×%d", ErrInput, s, width)
		}
		return nil
	}
}

// rows opens the item as rows of the model's width.
func (m *bareModel) rows(ctx context.Context, it Item) (rows, modality.Cost, func(), error) {
	fail := func(err error) (rows, modality.Cost, func(), error) { return nil, modality.Cost{}, nil, err }
	s, err := m.source(it)
	if err != nil {
		return fail(err)
	}
	want := m.net.Config.ModelDim
	if s.adapter == nil {
		cost, shape, err := arrayCost(s.header, matrixOf(want))
		if err != nil {
			return fail(err)
		}
		t, err := readArray(ctx, s.in, shape)
		if err != nil {
			return fail(err)
		}
		return perceiver.Matrix(t.Reshape(cost.Rows, want)), cost, func() {}, nil
	}
	arr, err := s.adapter.Adapt(ctx, s.in)
	if err != nil {
		return fail(err)
	}
	if _, c := arr.Dims(); c != want {
		arr.Close()
		return fail(s.refuse(c, want))
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
