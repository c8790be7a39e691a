package pipeline

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/mmserve/mmserve/perceiver"
	"github.com/mmserve/mmserve/weights"
)

// Explain says in lines for people what a model directory composes: of a native one its media,
// encoder, heads, resampler and caption; of a published one nothing, its architecture says it.
func (d *Dir) Explain() ([]string, error) {
	if !d.Native {
		return nil, nil
	}
	c, err := parseNative(d.Config)
	if err != nil {
		return nil, fmt.Errorf("pipeline: %s: %w", d.name(), err)
	}
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	if c.Name != "" || c.Description != "" {
		add("%s", strings.Trim(c.Name+": "+c.Description, ": "))
	}
	if c.DType != "" {
		add("arithmetic: %s unless --dtype says otherwise", c.DType)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Modalities)) {
		m := c.Modalities[name]
		add("modality %s: adapter %s, %s × %d channels%s → rows of %d channels", name, m.Adapter,
			strings.Join(m.Input.Axes, "×"), m.Input.Channels, m.explain(), c.RowChannels)
	}
	e, err := perceiver.ParseConfig(c.Encoder)
	if err != nil {
		return nil, fmt.Errorf("pipeline: %s: %w", d.name(), err) // parseNative took it
	}
	add("encoder: rows of %d channels → %d latents × %d; %d × (one cross-attention of %d heads, %d self-attention layers of %d heads)",
		c.RowChannels, e.NumLatents, e.LatentDim, e.NumBlocks, e.CrossHeads, e.SelfPerBlock, e.SelfHeads)
	if c.Decoder != nil {
		add("decoder: one cross-attention of %d heads, asked once by every head", c.Decoder.Heads)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Heads)) {
		h := c.Heads[name]
		add("head %s: %s of %s, %d values%s", name, h.Kind, strings.Join(h.Modalities, ", "), h.width(), someLabels(h.Labels))
	}
	if r := c.Resampler; r != nil {
		add("resampler: %s, %d soft tokens of %d channels, %d layers", r.Kind, r.Latents, r.Dim, r.Depth)
	}
	if len(c.Caption) > 0 {
		p, err := parseCaption(c.Caption)
		if err != nil {
			return nil, fmt.Errorf("pipeline: %s: %w", d.name(), err)
		}
		add("caption: %d layers × %d with gated cross-attention, vocabulary %d, at most %d bytes", p.lm.Layers, p.lm.Width, p.lm.Vocab, p.Max)
	}
	return lines, nil
}

// someLabels shows the first labels of a list.
func someLabels(labels []string) string {
	const shown = 4
	if len(labels) == 0 {
		return ""
	}
	s := ": " + strings.Join(labels[:min(shown, len(labels))], ", ")
	if len(labels) > shown {
		s += ", …"
	}
	return s
}

// Wanted lists the tensors, sorted by name, that a model directory asks its weight file for,
// whether or not there is one. A composition is sketched so: write model.json, then see what to
// train.
func (d *Dir) Wanted(ctx context.Context, opt Options) ([]weights.Spec, error) {
	asked := &recorder{shapes: map[string][]int{}}
	if _, err := bind(ctx, d, asked, opt); err != nil {
		return nil, err
	}
	var out []weights.Spec
	for _, name := range slices.Sorted(maps.Keys(asked.shapes)) {
		out = append(out, weights.Spec{Name: name, DType: weights.F32, Shape: asked.shapes[name]})
	}
	return out, nil
}

// recorder is a source of zeros that notes what it is asked for.
type recorder struct {
	weights.Memory
	mu     sync.Mutex
	shapes map[string][]int
}

// Strict implements weights.Generator.
func (r *recorder) Strict() bool { return false }

// Fill implements weights.Generator.
func (r *recorder) Fill(dst []float32, name string, shape []int, _ int) {
	clear(dst)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.shapes[name] = slices.Clone(shape)
}

// explain says what stands between the adapter's values and the rows.
func (m nativeModality) explain() string {
	s := ""
	if e := m.Embedding; e != nil {
		s += fmt.Sprintf(", embedded in a table of %d×%d", e.Rows, e.Channels)
	}
	if n := len(m.Stem); n > 0 {
		s += fmt.Sprintf(", %d convolutions to %d channels", n, m.Stem[n-1].Out)
	}
	switch m.Position.Kind {
	case "fourier":
		s += fmt.Sprintf(", Fourier positions of %d bands", m.Position.Bands)
	case "learned":
		s += fmt.Sprintf(", %d learned positions", m.Position.Rows)
	}
	return s
}
