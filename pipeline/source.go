package pipeline

import (
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// randomSeed seeds the weights of Options.Random.
const randomSeed = 1

// source opens the directory's weights; the returned function closes them.
func (d *Dir) source(opt Options) (weights.Source, func(), error) {
	if opt.Random {
		return weights.Random(randomSeed), func() {}, nil
	}
	c, err := weights.Open(d.Path)
	if err != nil {
		return nil, nil, err
	}
	return c, func() { c.Close() }, nil
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
