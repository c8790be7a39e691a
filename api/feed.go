package api

import (
	"errors"
	"fmt"
	"io"

	"github.com/mmserve/mmserve/internal/feed"
	"github.com/mmserve/mmserve/pipeline"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// feedDocument writes soft tokens as a language model's server takes them. The request's
// target may name another consumer of package feed.
func feedDocument(consumer string) func(io.Writer, *Server, *job, []*result) error {
	return func(w io.Writer, _ *Server, j *job, results []*result) error {
		dt, err := dtypeOf(j.req.DType)
		if err != nil {
			return err
		}
		info := j.model.Info()
		target, name, extra := feed.Target{DType: dt}, consumer, feed.Extra{Text: feed.TextOf(info.Architecture)}
		if t := j.req.Target; t != nil {
			target.Name, target.Hidden, extra.Sizes = t.LLM, t.Hidden, t.Sizes
			if t.Text != "" {
				extra.Text = feed.Convention(t.Text)
			}
			if t.Format != "" {
				name = t.Format
			}
		}
		if _, ok := feed.Known(name); !ok {
			return fieldProblem("target.format", "is unknown: "+quote(name))
		}
		if err := feedError(feed.Check(name, info.SoftTokenKind, info.SoftTokenDim, target)); err != nil {
			return err
		}
		values, err := softTokens(results, info.SoftTokens)
		if err != nil {
			return err
		}
		return feedError(feed.Write(w, name, feed.Latents{Kind: info.SoftTokenKind, Data: values, Model: j.req.Model}, target, extra))
	}
}

// softTokens is the soft tokens of every picture of every item, pictures×n×W: an item whose
// file was divided has several. One failed item fails them all: a consumer could not tell whose
// are missing.
func softTokens(results []*result, n int) (tensor.Tensor, error) {
	var all []float32
	width := 0
	for _, r := range results {
		if r.err != nil {
			return tensor.Tensor{}, r.err
		}
		soft, ok := r.tensors()[pipeline.OutputSoftTokens]
		if !ok {
			return tensor.Tensor{}, fieldProblem("output", "must name "+pipeline.OutputSoftTokens+" for this format")
		}
		width = soft.Cols()
		all = append(all, soft.Data...)
	}
	if n < 1 || width < 1 || len(all)%(n*width) != 0 {
		return tensor.Tensor{}, fmt.Errorf("api: %d values of soft tokens, %d a picture of width %d", len(all), n, width)
	}
	return tensor.Of(all, len(all)/(n*width), n, width), nil
}

// feedError says which refusals are the request's fault.
func feedError(err error) error {
	if refusal := new(feed.Refusal); errors.As(err, &refusal) {
		p := problem(codeBadInput, refusal.Reason)
		p.Field = "target"
		return p
	}
	return err
}

// encodeTensor stores a tensor in a type; a value that is not finite there is an error.
func encodeTensor(t tensor.Tensor, dt weights.DType) (weights.Raw, error) {
	raw, err := weights.Encode(t, dt)
	if err != nil {
		return raw, err
	}
	if dt == weights.F32 {
		return raw, finite(t)
	}
	return raw, finite(raw.Tensor())
}

// finiteAs is an error when a value of a tensor is not finite in a type.
func finiteAs(t tensor.Tensor, dt weights.DType) error {
	if dt == weights.F32 {
		return finite(t)
	}
	_, err := encodeTensor(t, dt)
	return err
}

// finite is an error when a tensor holds a NaN or an infinity.
func finite(t tensor.Tensor) error {
	for _, v := range t.Data {
		if v-v != 0 {
			return pipeline.ErrNotFinite
		}
	}
	return nil
}
