package pipeline

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/mmserve/mmserve/perceiver"
)

// nativeConfig is model.json: a composition written down (docs/model-json.md).
type nativeConfig struct {
	Format      string                    `json:"format"`
	ModelType   string                    `json:"model_type"`
	Name        string                    `json:"name"`
	Description string                    `json:"description"`
	DType       string                    `json:"dtype"` // arithmetic: f32, bf16, int8
	Modalities  map[string]nativeModality `json:"modalities"`
	RowChannels int                       `json:"row_channels"` // C, common to all modalities
	Encoder     json.RawMessage           `json:"encoder"`      // keys of a Perceiver config.json
	Decoder     *nativeDecoder            `json:"decoder"`
	Heads       map[string]nativeHead     `json:"heads"`
	Resampler   *nativeResampler          `json:"resampler"`
	Caption     json.RawMessage           `json:"caption"`
	Card        json.RawMessage           `json:"card"` // for people: data, numbers, limits
}

// nativeModality says how one medium becomes rows.
type nativeModality struct {
	Adapter   string          `json:"adapter"` // as registered
	Options   json.RawMessage `json:"options"` // the adapter's
	Input     nativeInput     `json:"input"`
	Embedding *nativeTable    `json:"embedding"` // the adapter's rows are ids into this table
	Stem      []nativeConv    `json:"stem"`
	Position  nativePosition  `json:"position"`
}

// nativeInput lays the adapter's rows out as a grid of one or two axes.
type nativeInput struct {
	Axes     []string `json:"axes"`
	Channels int      `json:"channels"` // of a cell; a row of more cells fills the second axis
	Peak     *float32 `json:"peak"`     // shift all values so that the largest is this
}

// nativeTable is a table of learned rows.
type nativeTable struct {
	Rows     int `json:"rows"`
	Channels int `json:"channels"`
}

// nativeConv is one layer of a stem: convolution, activation, residual, maximum.
type nativeConv struct {
	Out        int    `json:"out"`
	Kernel     []int  `json:"kernel"`
	Stride     []int  `json:"stride"`
	Padding    []int  `json:"padding"`
	Activation string `json:"activation"`
	Residual   bool   `json:"residual"`
	MaxPool    []int  `json:"max_pool"`
}

// nativePosition is the code appended to the stem's features.
type nativePosition struct {
	Kind     string    `json:"kind"` // "fourier", "learned" or "none"
	Bands    int       `json:"bands"`
	MaxRes   []float32 `json:"max_resolution"`
	Rows     int       `json:"rows"`
	Channels int       `json:"channels"`
}

// nativeDecoder is the one decoder that all heads query.
type nativeDecoder struct {
	Heads    int    `json:"num_heads"`
	QK       int    `json:"qk_channels"`
	V        int    `json:"v_channels"`
	Widening int    `json:"widening_factor"`
	Act      string `json:"hidden_act"`         // empty: gelu
	Residual *bool  `json:"use_query_residual"` // nil: true
}

// The kinds of nativeHead.
const (
	headClasses     = "classes"
	headEmbedding   = "embedding"
	headMaskedBytes = "masked_bytes"
)

// nativeHead is one output: a decoder query and a Linear.
type nativeHead struct {
	Kind       string   `json:"kind"`
	Modalities []string `json:"modalities"` // that it answers for
	Labels     []string `json:"labels"`
	Dim        int      `json:"dim"`
	VocabSize  int      `json:"vocab_size"`
}

// width is the number of values a head gives.
func (h nativeHead) width() int {
	switch h.Kind {
	case headEmbedding:
		return h.Dim
	case headMaskedBytes:
		return h.VocabSize
	}
	return len(h.Labels)
}

// nativeResampler is a resampler over the latents.
type nativeResampler struct {
	Kind    string `json:"kind"`
	Dim     int    `json:"dim"`
	Depth   int    `json:"depth"`
	Heads   int    `json:"heads"`
	DimHead int    `json:"dim_head"`
	Latents int    `json:"num_latents"`
	FFMult  int    `json:"ff_mult"`
}

// parseNative reads a model.json: first against the schema, which knows keys, types and
// bounds, then for what its parts ask of each other. Every fault is named in one error.
func parseNative(text []byte) (*nativeConfig, error) {
	value, err := decodeJSON(text)
	if err != nil {
		return nil, err
	}
	check := checker{root: nativeSchema()}
	check.check("", check.root, value)
	if err := check.faults.err(); err != nil {
		return nil, err
	}
	var c nativeConfig
	if err := json.Unmarshal(mustJSON(value), &c); err != nil {
		return nil, err // the schema lets through what the struct cannot hold: a fault of ours
	}
	var f nativeFaults
	for name, m := range c.Modalities {
		m.check(&f, "modalities."+name, c.RowChannels)
	}
	if len(c.Heads) > 0 && c.Decoder == nil {
		f.add("decoder: missing, and there are heads")
	}
	for name, h := range c.Heads {
		h.check(&f, "heads."+name, c.Modalities)
	}
	encoder, err := perceiver.ParseConfig(c.Encoder)
	if err != nil {
		f.add("encoder: %v", err)
		return &c, f.err()
	}
	if encoder.ModelDim != c.RowChannels {
		f.add("encoder.d_model: %d, row_channels is %d", encoder.ModelDim, c.RowChannels)
	}
	if r := c.Resampler; r != nil && r.Dim != encoder.LatentDim {
		f.add("resampler.dim: %d, the encoder's d_latents is %d", r.Dim, encoder.LatentDim)
	}
	return &c, f.err()
}

// nativeFaults collects what is wrong with a model.json.
type nativeFaults []string

func (f *nativeFaults) add(format string, args ...any) { *f = append(*f, fmt.Sprintf(format, args...)) }

func (f nativeFaults) err() error {
	if len(f) == 0 {
		return nil
	}
	slices.Sort(f)
	return fmt.Errorf("%s", strings.Join(f, "\n\t"))
}

// width is the channels of a modality's rows before padding.
func (m nativeModality) width() int {
	c := m.Input.Channels
	if m.Embedding != nil {
		c = m.Embedding.Channels
	}
	if n := len(m.Stem); n > 0 {
		c = m.Stem[n-1].Out
	}
	switch m.Position.Kind {
	case "fourier":
		c += len(m.Position.MaxRes) * (1 + 2*m.Position.Bands)
	case "learned":
		c += m.Position.Channels
	}
	return c
}

// check notes what of a modality does not fit together, or the width of the rows.
func (m nativeModality) check(f *nativeFaults, at string, width int) {
	axes := len(m.Input.Axes)
	if m.Embedding != nil && (axes != 1 || m.Input.Channels != 1) {
		f.add("%s.embedding: wants an input of one axis and one channel, got %d and %d", at, axes, m.Input.Channels)
	}
	channels := m.Input.Channels
	if m.Embedding != nil {
		channels = m.Embedding.Channels
	}
	for i, l := range m.Stem {
		l.check(f, fmt.Sprintf("%s.stem[%d]", at, i), axes, channels)
		channels = l.Out
	}
	switch p := m.Position; {
	case p.Kind == "learned" && axes != 1:
		f.add("%s.position: learned wants an input of one axis, got %d", at, axes)
	case p.Kind == "fourier" && len(p.MaxRes) != axes:
		f.add("%s.position.max_resolution: %d values, want one for each of %d axes", at, len(p.MaxRes), axes)
	}
	if w := m.width(); w > width {
		f.add("%s: rows of %d channels, more than row_channels %d", at, w, width)
	}
}

// check notes what of a stem layer does not fit its input.
func (l nativeConv) check(f *nativeFaults, at string, axes, in int) {
	for _, v := range []struct {
		name  string
		sizes []int
	}{{"kernel", l.Kernel}, {"stride", l.Stride}, {"padding", l.Padding}, {"max_pool", l.MaxPool}} {
		if len(v.sizes) != axes && !(v.name == "max_pool" && v.sizes == nil) {
			f.add("%s.%s: %d values, want %d, one an axis", at, v.name, len(v.sizes), axes)
			return
		}
	}
	if !l.Residual {
		return
	}
	same := in == l.Out
	for i := range l.Kernel {
		same = same && l.Stride[i] == 1 && 2*l.Padding[i] == l.Kernel[i]-1
	}
	if !same {
		f.add("%s.residual: the layer changes its input's shape (%d channels to %d; residual wants stride 1 and padding (kernel-1)/2)", at, in, l.Out)
	}
}

// check notes what of a head does not fit the modalities.
func (h nativeHead) check(f *nativeFaults, at string, known map[string]nativeModality) {
	seen := map[string]bool{}
	for _, l := range h.Labels {
		if seen[l] {
			f.add("%s.labels: %q stands twice", at, l)
		}
		seen[l] = true
	}
	for _, name := range h.Modalities {
		m, ok := known[name]
		switch {
		case !ok:
			f.add("%s.modalities: %q is not among the modalities", at, name)
		case h.Kind == headMaskedBytes && m.Adapter != "text":
			f.add("%s.modalities: %q is read by the adapter %s, masked_bytes wants text", at, name, m.Adapter)
		}
	}
}
