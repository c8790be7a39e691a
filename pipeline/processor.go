package pipeline

import (
	"context"
	"errors"

	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/tensor"
)

type imageProcessor struct{}

type pixels struct {
	values tensor.Tensor
	notes  []string
}

func readProcessor(d *Dir) (*imageProcessor, error)       { return nil, nil }
func defaultProcessor(side int) (*imageProcessor, error)  { return &imageProcessor{}, nil }
func (p *imageProcessor) size(h, w int) (int, int, error) { return h, w, nil }
func (p *imageProcessor) pixels(ctx context.Context, part Part, l media.Limits) (pixels, error) {
	return pixels{}, errors.New("later")
}

// Preprocess prepares
func Preprocess(ctx context.Context, config []byte, in media.Input) (tensor.Tensor, error) {
	return tensor.Tensor{}, errors.New("later")
}
