package modality

import (
	"context"
	"encoding/json"

	"github.com/mmserve/mmserve/modality/media"
)

// Facts are checks on a decoded input that a person can compare with another program.
type Facts struct {
	MeanRGB         []float64   `json:"mean_rgb,omitempty"`          // 0..255, upright, alpha ignored
	QuadrantMeanRGB [][]float64 `json:"quadrant_mean_rgb,omitempty"` // top left, top right, bottom left, bottom right
	RMS             *float64    `json:"rms,omitempty"`               // of the mono mix, samples in −1..1
	BBox            [][]float64 `json:"bbox,omitempty"`              // [[xmin ymin zmin] [xmax ymax zmax]] of the finite points
	FinitePoints    *int64      `json:"finite_points,omitempty"`
	ValidUTF8       *bool       `json:"valid_utf8,omitempty"`
	Runes           *int64      `json:"runes,omitempty"` // with each invalid byte counted as one
}

// Describer is an adapter that can decode an input and say what it really found: the cost's
// fields as found (they may correct the plan's) and the facts. It holds no more than Adapt.
type Describer interface {
	Describe(ctx context.Context, in Input) (Cost, Facts, error)
}

// Report is the answer of a probe: one JSON object of `mmserve plan`. Either Error is set or
// the cost is.
type Report struct {
	File string `json:"file"`
	*Cost
	Flops float64 `json:"flops,omitempty"` // of a model, where one was asked
	*Facts
	Error *Error `json:"error,omitempty"`
}

// Probing says how to probe.
type Probing struct {
	Adapter Adapter                    // nil: detect the medium and use its default options
	Options map[string]json.RawMessage // by medium, for a detected one; absent: the defaults
	Decode  bool                       // also decode and report what was really found
}

// Probe plans an input, and decodes it when asked to. Every failure is in the report.
func Probe(ctx context.Context, in Input, p Probing) Report {
	r := Report{File: in.Name}
	cost, facts, err := p.probe(ctx, in)
	if err != nil {
		r.Error = AsError(err)
		return r
	}
	r.Cost, r.Facts = &cost, facts
	return r
}

func (p Probing) probe(ctx context.Context, in Input) (Cost, *Facts, error) {
	h, err := in.Header()
	if err != nil {
		return Cost{}, nil, err
	}
	a := p.Adapter
	if a == nil {
		name, _, err := Detect(h)
		if err != nil {
			return Cost{}, nil, err
		}
		if a, err = New(name, p.Options[name]); err != nil {
			return Cost{}, nil, err
		}
	}
	cost, err := a.Plan(ctx, h)
	if err != nil || !p.Decode {
		return cost, nil, err
	}
	d, ok := a.(Describer)
	if !ok {
		return cost, nil, nil
	}
	found, facts, err := d.Describe(ctx, in)
	return found, &facts, err
}

// AsError turns any error into one with a code: see media.AsError.
func AsError(err error) *Error { return media.AsError(err) }
