package pipeline

import (
	"fmt"
	"maps"
	"slices"
	"strings"
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
	for _, name := range slices.Sorted(maps.Keys(c.Modalities)) {
		m := c.Modalities[name]
		add("modality %s: adapter %s, %s × %d channels%s → rows of %d channels", name, m.Adapter,
			strings.Join(m.Input.Axes, "×"), m.Input.Channels, m.explain(), c.RowChannels)
	}
	add("encoder: %s", strings.Join(strings.Fields(string(c.Encoder)), " "))
	for _, name := range slices.Sorted(maps.Keys(c.Heads)) {
		h := c.Heads[name]
		add("head %s: %s of %s, %d values", name, h.Kind, strings.Join(h.Modalities, ", "), h.width())
	}
	if r := c.Resampler; r != nil {
		add("resampler: %s, %d soft tokens of %d channels, %d layers", r.Kind, r.Latents, r.Dim, r.Depth)
	}
	if len(c.Caption) > 0 {
		add("caption: a language model of its own writes captions")
	}
	return lines, nil
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
