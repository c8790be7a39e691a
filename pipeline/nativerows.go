package pipeline

import (
	"context"
	"encoding/json"
	"fmt"
	"math"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/internal/nn"
	"github.com/mmserve/mmserve/internal/position"
	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// nativeRows turns one medium of a composition into encoder rows: the adapter's rows as a
// grid, an embedding, a convolutional stem, a position code, the learned padding.
type nativeRows struct {
	config    nativeModality
	adapter   modality.Adapter
	embedding tensor.Tensor // rows×channels; empty for none
	stem      []stemLayer
	fourier   position.Fourier
	learned   tensor.Tensor // rows×channels; empty for none
	padding   []float32
	width     int
}

// stemLayer is conv + bias → activation → (+ input) → (maximum).
type stemLayer struct {
	nativeConv
	conv nn.Conv2D
	act  kernel.Act
}

// maxNativeValues bounds the values an adapter may hand to a stem, which holds them at once.
const maxNativeValues = 1 << 22

func newNativeRows(s weights.Scope, name string, c nativeModality, width int) (*nativeRows, error) {
	ad, err := modality.New(c.Adapter, c.Options)
	if err != nil {
		return nil, fmt.Errorf("modalities.%s: %w", name, err)
	}
	r := &nativeRows{config: c, adapter: ad, width: width}
	channels := c.Input.Channels
	if e := c.Embedding; e != nil {
		r.embedding = s.Tensor("embedding.weight", e.Rows, e.Channels)
		channels = e.Channels
	}
	for i, l := range c.Stem {
		act, err := nn.ParseAct(stemAct(l.Activation))
		if err != nil {
			return nil, fmt.Errorf("modalities.%s.stem[%d]: %w", name, i, err)
		}
		conv := nn.NewConv(s.At("stem").Index(i), channels, l.Out, l.Kernel, l.Stride, l.Padding, true)
		r.stem = append(r.stem, stemLayer{l, conv, act})
		channels = l.Out
	}
	switch p := c.Position; p.Kind {
	case "fourier":
		r.fourier = position.NewFourier(p.Bands, p.MaxRes...)
	case "learned":
		r.learned = s.Tensor("position.weight", p.Rows, p.Channels)
	}
	if pad := width - c.width(); pad > 0 {
		r.padding = s.Tensor("padding", 1, pad).Data
	}
	return r, nil
}

// with is the rows with a part's own options in place of the composition's.
func (r *nativeRows) with(options json.RawMessage) (*nativeRows, error) {
	if !given(options) {
		return r, nil
	}
	merged := map[string]json.RawMessage{}
	for _, o := range []json.RawMessage{r.config.Options, options} {
		if len(o) > 0 && json.Unmarshal(o, &merged) != nil {
			return nil, media.Errorf(media.BadOptions, "pipeline: options of %s are no JSON object", r.config.Adapter)
		}
	}
	ad, err := modality.New(r.config.Adapter, mustJSON(merged))
	if err != nil {
		return nil, err
	}
	own := *r
	own.adapter = ad
	return &own, nil
}

// stemAct maps the stem's own word for no activation.
func stemAct(name string) string {
	if name == "" || name == "identity" {
		return "linear"
	}
	return name
}

// grid is the layout of m adapter rows of c channels: H×W cells (W is 1 for one axis).
func (r *nativeRows) grid(m, c int) (h, w int, err error) {
	in := r.config.Input
	if len(in.Axes) == 1 {
		if c != in.Channels {
			return 0, 0, fmt.Errorf("pipeline: %w: %s rows of %d channels, want %d", ErrInput, r.config.Adapter, c, in.Channels)
		}
		return m, 1, nil
	}
	if c%in.Channels != 0 {
		return 0, 0, fmt.Errorf("pipeline: %w: %s rows of %d channels, want a multiple of %d", ErrInput, r.config.Adapter, c, in.Channels)
	}
	if across := c / in.Channels; across > 1 {
		return m, across, nil
	}
	side := int(math.Sqrt(float64(m)))
	if side*side != m {
		return 0, 0, fmt.Errorf("pipeline: %w: %d rows of %s do not make a square", ErrInput, m, r.config.Adapter)
	}
	return side, side, nil
}

// out is the grid of the rows that an h×w input becomes, what that costs, and the bytes that
// the embedding and the layers between hold.
func (r *nativeRows) out(h, w int) (oh, ow int, flops float64, held int64, err error) {
	if r.embedding.Data != nil {
		held += bytesOf(h*w, r.embedding.Cols())
	}
	for i, l := range r.stem {
		h, w = l.conv.Size(h, w)
		if h >= 1 && w >= 1 {
			flops += 2 * float64(h) * float64(w) * float64(l.conv.In*l.conv.Out*l.conv.K[0]*l.conv.K[1])
			held += bytesOf(h*w, l.conv.Out)
		}
		if p := l.MaxPool; p != nil {
			h /= p[0]
			if len(p) > 1 {
				w /= p[1]
			}
			held += bytesOf(h*w, l.conv.Out)
		}
		if h < 1 || w < 1 {
			return 0, 0, 0, 0, media.Errorf(media.TooSmall, "pipeline: %s: nothing is left after layer %d of the stem", r.config.Adapter, i)
		}
	}
	if n := r.learned.Rows(); r.learned.Data != nil && h > n {
		return 0, 0, 0, 0, media.Exceeds("pipeline: "+r.config.Adapter+": rows", float64(n), float64(h))
	}
	return h, w, flops, held, nil
}

// plan is the rows that an adapter's cost becomes, the stem's work, and the bytes held beside
// the adapter's own: its values, the stem's and the rows.
func (r *nativeRows) plan(c modality.Cost) (rows int, flops float64, held int64, err error) {
	if v := float64(c.Rows) * float64(c.RowChannels); v > maxNativeValues {
		return 0, 0, 0, media.Exceeds("pipeline: "+r.config.Adapter+": values", maxNativeValues, v)
	}
	h, w, err := r.grid(c.Rows, c.RowChannels)
	if err != nil {
		return 0, 0, 0, err
	}
	h, w, flops, held, err = r.out(h, w)
	return h * w, flops, held + bytesOf(c.Rows, c.RowChannels) + bytesOf(h*w, r.width), err
}

// bytesOf is what m×c float32 values hold.
func bytesOf(m, c int) int64 { return 4 * int64(m) * int64(c) }

// adapt opens an input and returns its rows, M×width scratch, the grid they lie on and what
// was found.
func (r *nativeRows) adapt(ctx context.Context, a *tensor.Arena, in media.Input) (rows tensor.Tensor, grid []int, found modality.Cost, err error) {
	arr, err := r.adapter.Adapt(ctx, in)
	if err != nil {
		return rows, nil, found, err
	}
	defer arr.Close()
	found = arr.Cost
	found.Notes = append(append([]string(nil), found.Notes...), arr.Notes...)
	m, c := arr.Dims()
	if m*c > maxNativeValues {
		return rows, nil, found, media.Exceeds("pipeline: "+r.config.Adapter+": values", maxNativeValues, float64(m)*float64(c))
	}
	values := a.New(m, c)
	if err := arr.Read(values, 0, m); err != nil {
		return rows, nil, found, err
	}
	rows, grid, err = r.rows(a, values)
	return rows, grid, found, err
}

// rows runs the modality's own layers over the adapter's values (m×c).
func (r *nativeRows) rows(a *tensor.Arena, values tensor.Tensor) (tensor.Tensor, []int, error) {
	h, w, err := r.grid(values.Dim(0), values.Dim(1))
	if err != nil {
		return values, nil, err
	}
	oh, ow, _, _, err := r.out(h, w)
	if err != nil {
		return values, nil, err
	}
	out := a.New(oh*ow, r.width)
	mark := a.Mark()
	defer a.Release(mark)
	if p := r.config.Input.Peak; p != nil {
		shiftPeak(values.Data, *p)
	}
	x := tensor.Of(values.Data, 1, h, w, r.config.Input.Channels)
	if r.embedding.Data != nil {
		if x, err = r.embed(a, values); err != nil {
			return out, nil, err
		}
	}
	for _, l := range r.stem {
		var residual tensor.Tensor
		if l.Residual {
			residual = x
		}
		x = l.conv.ForwardAdd(a, x, l.act, residual)
		if p := l.MaxPool; p != nil {
			k := [2]int{p[0], 1}
			if len(p) > 1 {
				k[1] = p[1]
			}
			x = nn.MaxPool2D(a, x, k, k)
		}
	}
	r.assemble(out, x.Data, oh, ow)
	return out, r.axes(oh, ow), nil
}

// axes is the grid of the rows, one or two axes as the input has.
func (r *nativeRows) axes(h, w int) []int {
	if len(r.config.Input.Axes) == 1 {
		return []int{h}
	}
	return []int{h, w}
}

// embed looks ids up: values is m×1.
func (r *nativeRows) embed(a *tensor.Arena, values tensor.Tensor) (tensor.Tensor, error) {
	n, c := r.embedding.Dim(0), r.embedding.Dim(1)
	x := a.New(1, values.Dim(0), 1, c)
	for i, v := range values.Data {
		id := int(v)
		if id < 0 || id >= n || float32(id) != v {
			return x, fmt.Errorf("pipeline: %w: row %d is %v, no index into a table of %d", ErrInput, i, v, n)
		}
		copy(x.Data[i*c:(i+1)*c], r.embedding.Row(id))
	}
	return x, nil
}

// assemble writes [features, position, padding] rows.
func (r *nativeRows) assemble(out tensor.Tensor, features []float32, h, w int) {
	m := h * w
	c := len(features) / m
	var code position.Code
	switch r.config.Position.Kind {
	case "fourier":
		code = position.NewGrid(r.fourier, r.axes(h, w)...)
	case "learned":
		code = &position.Learned{Table: r.learned.Data, Width: r.learned.Cols()}
	}
	pad := r.width - len(r.padding)
	for i := range m {
		row := out.Row(i)
		copy(row, features[i*c:(i+1)*c])
		copy(row[pad:], r.padding)
	}
	if code != nil {
		code.Fill(out.Data[c:], r.width, 0, m)
	}
}

// shiftPeak adds one number to all values so that the largest is peak.
func shiftPeak(x []float32, peak float32) {
	top := float32(math.Inf(-1))
	for _, v := range x {
		top = max(top, v)
	}
	if math.IsInf(float64(top), 0) {
		return
	}
	for i := range x {
		x[i] += peak - top
	}
}
