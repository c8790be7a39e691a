package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/modality/imagefile"
	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/tensor"
)

// readProcessor reads a directory's preprocessor_config.json; nil without one.
func readProcessor(d *Dir) (*modality.ImageProcessor, error) {
	text, err := d.File(preprocessorFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	p, err := modality.ParseImageProcessor(text)
	if err != nil {
		return nil, fmt.Errorf("pipeline: %s: %w", d.Path, err)
	}
	return p, nil
}

// defaultProcessor is the published processor of the image classifiers, for pictures of side
// pixels; the crop keeps the published ratio of 256 to 224.
func defaultProcessor(side int) (*modality.ImageProcessor, error) {
	return modality.ParseImageProcessor(mustJSON(map[string]any{
		"image_processor_type": "PerceiverImageProcessor",
		"size":                 map[string]int{"height": side, "width": side},
		"crop_size":            map[string]int{"height": side * 256 / 224, "width": side * 256 / 224},
	}))
}

// onePicture prepares a part as the single picture a classifier takes: 3×H×W.
func onePicture(ctx context.Context, p *modality.ImageProcessor, part Part, l media.Limits) (tensor.Tensor, []string, error) {
	in := part.Input
	in.Limits = l
	px, err := p.Pixels(ctx, in, imagefile.Options{})
	if err != nil {
		return tensor.Tensor{}, nil, err
	}
	return px.Values.At(0), px.Notes, nil
}

// Preprocess prepares a picture as a preprocessor_config.json says: pictures×3×H×W, exactly
// what the model would see.
func Preprocess(ctx context.Context, config []byte, in media.Input) (tensor.Tensor, error) {
	p, err := modality.ParseImageProcessor(config)
	if err != nil {
		return tensor.Tensor{}, err
	}
	px, err := p.Pixels(ctx, in, imagefile.Options{})
	if err != nil {
		return tensor.Tensor{}, err
	}
	return px.Values, nil
}
