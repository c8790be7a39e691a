package api_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/pipeline"
	"github.com/mmserve/mmserve/tensor"
)

// fake is a model whose texts say how it behaves: "block" waits until its context ends or the
// gate opens, "panic" panics, "nan" and "huge" answer bad values, "fail" fails, anything else
// is echoed.
type fake struct {
	cost    float64
	gate    chan struct{}
	started chan struct{} // one value a blocked pass
	ended   chan error    // one value a blocked pass that its context ended
	bytes   int64
	digest  string
	runs    atomic.Int64
	broken  atomic.Bool
}

func newFake(cost float64) *fake {
	return &fake{cost: cost, gate: make(chan struct{}), started: make(chan struct{}, 100), ended: make(chan error, 100), digest: "sha256:abcdef"}
}

func (f *fake) open(context.Context) (pipeline.Model, error) { return f, nil }

func (f *fake) store() *pipeline.Store {
	st := &pipeline.Store{}
	st.Add("fake", f.open)
	return st
}

func (f *fake) Info() pipeline.Info {
	return pipeline.Info{Name: "fake", Digest: f.digest, Bytes: f.bytes, Outputs: []string{"latents", "pooled"}, Latents: 1, LatentDim: 2}
}

func text(it pipeline.Item) string {
	b, _ := io.ReadAll(it.Parts[0].Input.Reader())
	return string(b)
}

func (f *fake) Plan(_ context.Context, it pipeline.Item) (pipeline.Plan, error) {
	var p pipeline.Plan
	p.Modality, p.Rows, p.FLOPs = "text", 1, f.cost
	if _, err := it.Parts[0].Input.Header(); err != nil {
		return p, err
	}
	switch w := text(it); {
	case w == "plan panic":
		panic("fake: plan")
	case strings.HasPrefix(w, "needs "):
		fmt.Sscan(w[6:], &p.DecodedBytes)
	case strings.HasPrefix(w, "code "):
		return p, media.Errorf(media.Code(w[5:]), "fake: as asked")
	}
	return p, nil
}

func (f *fake) Encode(ctx context.Context, it pipeline.Item, opt pipeline.EncodeOptions) (*pipeline.Encoding, error) {
	f.runs.Add(1)
	one := func(v ...float32) (*pipeline.Encoding, error) {
		if slices.Contains(opt.Outputs, "pooled") {
			return &pipeline.Encoding{Pooled: tensor.Of(v, len(v))}, nil
		}
		return &pipeline.Encoding{Latents: tensor.Of(v, 1, len(v))}, nil
	}
	if f.broken.Load() {
		return nil, errors.New("fake: broken")
	}
	switch w := text(it); w {
	case "block":
		f.started <- struct{}{}
		select {
		case <-ctx.Done():
			f.ended <- ctx.Err()
			return nil, ctx.Err()
		case <-f.gate:
			return one(1, 2)
		}
	case "panic":
		panic("fake: secret detail")
	case "nan":
		return one(float32(math.NaN()), 1)
	case "wide":
		return one(make([]float32, 1<<18-64)...)
	case "huge":
		return one(3e38, 1)
	case "fail":
		return nil, errors.New("fake: secret detail of the server")
	case "withheld":
		return nil, fmt.Errorf("fake: %w", pipeline.ErrNotFinite)
	default:
		return one(float32(len(w)), 1)
	}
}

func (f *fake) Predict(ctx context.Context, it pipeline.Item, _ pipeline.PredictOptions) (*pipeline.Prediction, error) {
	return nil, pipeline.ErrNoTask
}

// PlanDecode costs what Plan does.
func (f *fake) PlanDecode(_ context.Context, it pipeline.Item, _ pipeline.DecodeOptions) (pipeline.Plan, error) {
	if !slices.Equal(it.Latents.Shape, []int{1, 2}) {
		return pipeline.Plan{}, fmt.Errorf("fake: %w: latents %v", pipeline.ErrInput, it.Latents.Shape)
	}
	return pipeline.Plan{FLOPs: f.cost}, nil
}

// Decode blocks on latents that begin with -1 as Encode does on "block".
func (f *fake) Decode(ctx context.Context, it pipeline.Item, _ pipeline.DecodeOptions) (*pipeline.Decoding, error) {
	if it.Latents.Data[0] == -1 {
		f.started <- struct{}{}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-f.gate:
		}
	}
	return &pipeline.Decoding{Prediction: &pipeline.Prediction{Task: "fake"}}, nil
}

func (f *fake) Canary() pipeline.Item {
	return pipeline.Item{Parts: []pipeline.Part{pipeline.TextPart("canary")}}
}
