package pipeline

import (
	"context"
	"fmt"
	"io/fs"

	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// randomSeed seeds the weights of Options.Random.
const randomSeed = 1

// joined opens the weights of architectures whose parts lie in several files.
var joined = map[string]func(d *Dir, opt Options) (weights.Source, func(), error){}

// source opens the directory's weights; the returned function closes them.
func (d *Dir) source(opt Options) (weights.Source, func(), error) {
	if opt.Random {
		return weights.Random(randomSeed), func() {}, nil
	}
	if open, ok := joined[d.Arch]; ok {
		return open(d, opt)
	}
	c, err := d.checkpoint()
	if err != nil {
		return nil, nil, err
	}
	return c, func() { c.Close() }, nil
}

// checkpoint opens the weight file, mapped from disk or, for a directory that is not on one,
// read from its file system.
func (d *Dir) checkpoint() (*weights.Checkpoint, error) {
	if d.Path != "" {
		return weights.Open(d.Path)
	}
	b, err := fs.ReadFile(d.FS, weightsFile)
	if err != nil {
		return nil, fmt.Errorf("pipeline: %w", err)
	}
	return weights.Parse(weightsFile, b)
}

// OpenFS loads the model of a directory that is not on disk, such as an embedded one. It
// holds its weights in model.safetensors.
func OpenFS(ctx context.Context, fsys fs.FS, opt Options) (Model, error) {
	d, err := readDirFS("", fsys)
	if err != nil {
		return nil, err
	}
	return OpenDir(ctx, d, opt)
}

// countParameters sums the sizes of a source's float tensors.
func countParameters(src weights.Source) int64 {
	var n int64
	for name := range src.Names() {
		if dt, shape, ok := src.Stat(name); ok && dt.Float() {
			n += int64(tensor.Size(shape))
		}
	}
	return n
}
