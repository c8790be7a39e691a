package pipeline

import (
	"context"
	"fmt"

	"github.com/mmserve/mmserve/perceiver"
	"github.com/mmserve/mmserve/tensor"
)

// describe fills what every Perceiver IO model says of itself.
func (b *base) describe(d *Dir, c perceiver.Config, opt Options) {
	b.limits = opt.Limits
	b.info.Architecture = d.Arch
	b.info.Latents, b.info.LatentDim = c.NumLatents, c.LatentDim
	b.info.Labels = c.Labels
	b.info.Outputs = []string{OutputLatents, OutputPooled, OutputByteArray, OutputAttention}
}

// attentionOf asks an encoder how a latent attends to the rows of one input: M values that sum
// to one. A negative latent is the mean over all of them.
func attentionOf(ctx context.Context, a *tensor.Arena, e *perceiver.Encoder, in perceiver.Input, latent int) (tensor.Tensor, error) {
	n, _ := e.Latents()
	if latent >= n {
		return tensor.Tensor{}, fmt.Errorf("pipeline: %w: latent %d of %d", ErrInput, latent, n)
	}
	m, _ := in.Rows.Dims()
	out := tensor.New(m)
	from, to := latent, latent+1
	if latent < 0 {
		from, to = 0, n
	}
	share := 1 / float32(to-from)
	const block = 64 // latents at a time: the map of all of them is as large as N×M
	for ; from < to; from += block {
		var some []int
		for l := from; l < min(from+block, to); l++ {
			some = append(some, l)
		}
		mark := a.Mark()
		t, err := e.Attention(ctx, a, in, some)
		if err != nil {
			return out, err
		}
		for l := range some {
			for i, x := range t.Row(l) {
				out.Data[i] += x * share
			}
		}
		a.Release(mark)
	}
	return out, nil
}

// encodeRows runs an encoder over the rows of one input and fills in what opt asks for.
func (b *base) encodeRows(ctx context.Context, e *perceiver.Encoder, in perceiver.Input, opt EncodeOptions, enc *Encoding) error {
	a, done := b.arena(opt.Trace)
	defer done()
	var err error
	if opt.wants(OutputByteArray) {
		if enc.ByteArray, err = materialise(ctx, in.Rows); err != nil {
			return err
		}
	}
	if opt.wants(OutputAttention) {
		if enc.Attention, err = attentionOf(ctx, a, e, in, opt.Latent); err != nil {
			return err
		}
	}
	if !opt.wants(OutputLatents) && !opt.wants(OutputPooled) {
		return nil
	}
	x, err := e.Encode(ctx, a, []perceiver.Input{in})
	if err != nil {
		return err
	}
	return fill(enc, opt, x.At(0))
}
