package pipeline

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"sync"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// base is what every model here shares: its description, its limits and its scratch memory.
type base struct {
	info   Info
	limits media.Limits
	arenas sync.Pool // of *tensor.Arena
}

// Info describes the model.
func (b *base) Info() Info { return b.info }

// loaded notes what only the binding tells: name, arithmetic and sizes.
func (b *base) loaded(d *Dir, src weights.Source, dt kernel.DType) {
	b.info.DType = dt.String()
	b.info.Precision = precisionOf(b.info.Architecture, "", b.info.DType)
	if b.info.Name == "" {
		b.info.Name = filepath.Base(d.Path)
	}
	b.info.Parameters = countParameters(src)
	b.info.Bytes = weightBytes(b.info.Parameters, dt)
}

// weightBytes is what so many weights hold in an arithmetic.
func weightBytes(parameters int64, dt kernel.DType) int64 {
	switch dt {
	case kernel.F32:
		return 4 * parameters
	case kernel.Int8:
		return parameters
	}
	return 2 * parameters
}

// identify notes the digest of what was loaded.
func (b *base) identify(digest string) {
	b.info.Digest = digest
	b.info.Precision = precisionOf(b.info.Architecture, digest, b.info.DType)
}

// arena returns scratch for one pass, which begins, and what ends it and gives it back.
func (b *base) arena(trace func(string, tensor.Tensor)) (*tensor.Arena, func()) {
	a, ok := b.arenas.Get().(*tensor.Arena)
	if !ok {
		a = new(tensor.Arena)
	}
	a.Trace = trace
	mark := a.Mark()
	end := kernel.BeginPass()
	return a, func() {
		end()
		a.Release(mark)
		a.Trace = nil
		b.arenas.Put(a)
	}
}

// one returns the item's only part.
func one(it Item, want string) (Part, error) {
	if len(it.Parts) != 1 {
		return Part{}, fmt.Errorf("pipeline: %w: %d parts, want one %s", ErrInput, len(it.Parts), want)
	}
	return it.Parts[0], nil
}

// given reports whether a part's options say anything.
func given(options json.RawMessage) bool {
	said := strings.TrimSpace(string(options))
	return said != "" && said != "null" && said != "{}"
}

// plain refuses a part that brings options: a published model prepares its media in one way.
func (b *base) plain(p Part) error {
	if given(p.Options) {
		return media.Errorf(media.BadOptions, "pipeline: %s prepares its media as published; a part's options are not taken", b.info.Architecture)
	}
	return nil
}

// header looks at a part and refuses one that is not of the wanted medium, or not plain.
func (b *base) header(p Part, want string) (media.Header, error) {
	if err := b.plain(p); err != nil {
		return media.Header{}, err
	}
	in := p.Input
	in.Limits = b.limits
	h, err := in.Header()
	if err != nil {
		return h, err
	}
	name := p.Modality
	if name == "" {
		if name, _, err = modality.Detect(h); err != nil {
			return h, err
		}
	}
	if name != want {
		return h, media.Errorf(media.Mismatch, "pipeline: %s takes %s, the input is %s", b.info.Architecture, want, name)
	}
	return h, nil
}

// noTask is the answer of a model asked for what it does not do.
func (b *base) noTask(what string) error {
	return fmt.Errorf("pipeline: %s: %w: %s", b.info.Architecture, ErrNoTask, what)
}

// fill puts the tensors an encoding shares among models into enc: latents is N×D scratch.
func fill(enc *Encoding, opt EncodeOptions, latents tensor.Tensor) error {
	if !finite(latents) {
		return fmt.Errorf("pipeline: latents: %w", ErrNotFinite)
	}
	if opt.wants(OutputLatents) {
		enc.Latents = latents.Clone()
	}
	if opt.wants(OutputPooled) {
		enc.Pooled = pooled(latents)
	}
	return nil
}

// rows is perceiver.Rows, repeated here for the adapters' sake.
type rows interface {
	Dims() (m, c int)
	Read(dst tensor.Tensor, from, to int) error
}

// materialise reads all rows of a byte array, for a caller who asked to see it.
func materialise(ctx context.Context, r rows) (tensor.Tensor, error) {
	m, c := r.Dims()
	if int64(m)*int64(c) > maxArrayValues {
		return tensor.Tensor{}, media.Exceeds("pipeline: byte array: values", maxArrayValues, float64(m)*float64(c))
	}
	t := tensor.New(m, c)
	const block = 1024
	for from := 0; from < m; from += block {
		if err := ctx.Err(); err != nil {
			return t, err
		}
		to := min(from+block, m)
		if err := r.Read(t.Slice(from, to), from, to); err != nil {
			return t, err
		}
	}
	return t, nil
}

// maxArrayValues bounds a byte array that is handed out whole (1 GiB of float32).
const maxArrayValues = 1 << 28
