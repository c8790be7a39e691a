package pipeline

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/mmserve/mmserve/perceiver"
	"github.com/mmserve/mmserve/resampler"
	"github.com/mmserve/mmserve/tensor"
)

// RunCase runs the inputs of a reference case of a composition: tensors "<modality>.<i>" as the
// adapters give them, and "masked.<i>" ids. Stages are named after their input.
func (m *nativeModel) RunCase(ctx context.Context, a *tensor.Arena, in perceiver.CaseInput) error {
	names := slices.Collect(maps.Keys(in.Floats))
	names = append(names, slices.Collect(maps.Keys(in.Ints))...)
	slices.Sort(names)
	emit := a.Trace
	defer func() { a.Trace = emit }()
	for _, name := range slices.Compact(names) {
		kind, number, ok := strings.Cut(name, ".")
		if !ok || strings.Contains(number, ".") || strings.ContainsAny(name, "[\"") {
			continue // what an adapter makes is kept beside what it reads
		}
		values := caseValues(in, name)
		mark := a.Mark()
		a.Trace = func(stage string, t tensor.Tensor) { emit(name+"."+stage, t) }
		var err error
		if kind == "masked" {
			err = m.maskedCase(ctx, a, values)
		} else if r, ok := m.media[kind]; ok {
			err = m.mediaCase(ctx, a, kind, r, values)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		a.Release(mark)
	}
	return nil
}

// caseValues is an input as m rows of c values.
func caseValues(in perceiver.CaseInput, name string) tensor.Tensor {
	t, ok := in.Floats[name]
	if !ok {
		ids := in.Ints[name]
		t = tensor.New(len(ids.Data), 1)
		for i, id := range ids.Data {
			t.Data[i] = float32(id)
		}
		return t
	}
	t = t.Clone()
	switch len(t.Shape) {
	case 1:
		return t.Reshape(t.Dim(0), 1)
	case 3: // a grid of one channel is rows of its second axis; of more, rows of channels
		if t.Dim(2) == 1 {
			return t.Reshape(t.Dim(0), t.Dim(1))
		}
		return t.Reshape(t.Dim(0)*t.Dim(1), t.Dim(2))
	}
	return t
}

func (m *nativeModel) encodeCase(ctx context.Context, a *tensor.Arena, r *nativeRows, values tensor.Tensor) (rows, latents tensor.Tensor, err error) {
	if rows, _, err = r.rows(a, values); err != nil {
		return
	}
	a.Emit("rows", rows)
	latents, err = m.encoder.Encode(ctx, a, []perceiver.Input{{Rows: perceiver.Matrix(rows)}})
	return
}

// mediaCase emits the stages of one medium.
func (m *nativeModel) mediaCase(ctx context.Context, a *tensor.Arena, kind string, r *nativeRows, values tensor.Tensor) error {
	_, x, err := m.encodeCase(ctx, a, r, values)
	if err != nil {
		return err
	}
	for _, name := range m.order {
		h := m.heads[name]
		if h.Kind == headMaskedBytes || !slices.Contains(h.Modalities, kind) {
			continue
		}
		y, err := m.answer(ctx, a, x, name)
		if err != nil {
			return err
		}
		a.Emit("heads."+name, tensor.Of(y.Data, y.Cols()))
	}
	if m.resampler == nil {
		return nil
	}
	soft, err := m.resampler.Forward(a, resampler.Input{X: x})
	if err != nil {
		return err
	}
	a.Emit("resampled", soft.At(0))
	if m.caption == nil {
		return nil
	}
	logits, err := m.caption.logits(a, soft, "dog")
	if err != nil {
		return err
	}
	a.Emit("caption_logits", logits)
	return nil
}

// maskedCase emits the logits of every row of a text.
func (m *nativeModel) maskedCase(ctx context.Context, a *tensor.Arena, values tensor.Tensor) error {
	i := slices.IndexFunc(m.info.Modalities, func(n string) bool { return m.reads(n, "text") })
	if i < 0 {
		return errors.New("no modality reads text")
	}
	rows, x, err := m.encodeCase(ctx, a, m.media[m.info.Modalities[i]], values)
	if err != nil {
		return err
	}
	for _, name := range m.order {
		if h := m.heads[name]; h.Kind == headMaskedBytes {
			y, err := m.query(ctx, a, x, h, h.rowsQuery.Forward(a, rows))
			if err != nil {
				return err
			}
			a.Emit("heads."+name, y)
		}
	}
	return nil
}
