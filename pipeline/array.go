package pipeline

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// isArray reports whether a part is an .npy array, or is called one.
func isArray(p Part, h media.Header) bool {
	return p.Modality == "array" || p.Modality == "" && h.Has(0, "\x93NUMPY")
}

// arrayCost says from the header of an .npy array what its rows, the last axis each, cost, and
// the shape. check, which may be nil, refuses a shape.
func arrayCost(h media.Header, check func(shape []int) error) (modality.Cost, []int, error) {
	_, shape, err := weights.StatNPY(bytes.NewReader(h.Head))
	if err != nil {
		return modality.Cost{}, nil, media.Wrap(err, media.Malformed, "pipeline: array")
	}
	n := tensor.Size(shape)
	if n > maxArrayValues {
		return modality.Cost{}, nil, media.Exceeds("pipeline: array: values", maxArrayValues, float64(n))
	}
	if len(shape) == 0 || n == 0 {
		return modality.Cost{}, nil, fmt.Errorf("pipeline: %w: array %v has no rows", ErrInput, shape)
	}
	if check != nil {
		if err := check(shape); err != nil {
			return modality.Cost{}, nil, err
		}
	}
	width := shape[len(shape)-1]
	return modality.Cost{Modality: "array", MediaType: "application/x-npy", Rows: n / width, RowChannels: width, DecodedBytes: int64(4 * n)}, shape, nil
}

// readArray reads an .npy input whose header arrayCost took.
func readArray(ctx context.Context, in media.Input, shape []int) (tensor.Tensor, error) {
	raw, err := weights.ReadNPY(media.NewReader(ctx, in.Reader(), in.Limits.WithDefaults().Bytes), 8*maxArrayValues)
	if err != nil {
		return tensor.Tensor{}, media.Wrap(err, media.Malformed, "pipeline: array")
	}
	t := raw.Tensor()
	if !slices.Equal(t.Shape, shape) {
		return t, media.Errorf(media.Malformed, "pipeline: array: shape %v, the header said %v", t.Shape, shape)
	}
	if !finite(t) {
		return t, media.Errorf(media.Malformed, "pipeline: array: a value is NaN or infinite")
	}
	return t, nil
}
