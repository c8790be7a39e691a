package pipeline

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// nativeFormat is the "format" of the model.json that is read here.
const nativeFormat = "mmserve/1"

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
	Act      string `json:"hidden_act"`
	Residual bool   `json:"use_query_residual"`
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

// parseNative reads a model.json strictly; every fault is named in one error.
func parseNative(text []byte) (*nativeConfig, error) {
	var c nativeConfig
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return nil, err
	}
	var f nativeFaults
	if c.Format != nativeFormat {
		f.add("format: %q, want %q", c.Format, nativeFormat)
	}
	if c.RowChannels < 1 || c.RowChannels > maxNativeWidth {
		f.add("row_channels: %d, want 1 to %d", c.RowChannels, maxNativeWidth)
	}
	if len(c.Modalities) == 0 {
		f.add("modalities: empty")
	}
	for name, m := range c.Modalities {
		m.check(&f, "modalities."+name, c.RowChannels)
	}
	if len(c.Heads) > 0 && c.Decoder == nil {
		f.add("decoder: missing, and there are heads")
	}
	if d := c.Decoder; d != nil && (d.Heads < 1 || d.Widening < 1) {
		f.add("decoder: num_heads %d and widening_factor %d, want at least 1", d.Heads, d.Widening)
	}
	for name, h := range c.Heads {
		h.check(&f, "heads."+name, c.Modalities)
	}
	if r := c.Resampler; r != nil && r.Kind != "openflamingo" {
		f.add("resampler.kind: %q, want openflamingo", r.Kind)
	}
	return &c, f.err()
}

// maxNativeWidth bounds the widths of a model.json.
const maxNativeWidth = 1 << 16

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

func (m nativeModality) check(f *nativeFaults, at string, width int) {
	axes := len(m.Input.Axes)
	if axes < 1 || axes > 2 {
		f.add("%s.input.axes: %d, want 1 or 2", at, axes)
		return
	}
	if m.Input.Channels < 1 {
		f.add("%s.input.channels: %d", at, m.Input.Channels)
	}
	if e := m.Embedding; e != nil && (e.Rows < 1 || e.Channels < 1 || axes != 1 || m.Input.Channels != 1) {
		f.add("%s.embedding: wants rows, channels, and an input of one axis and one channel", at)
	}
	channels := m.Input.Channels
	if m.Embedding != nil {
		channels = m.Embedding.Channels
	}
	for i, l := range m.Stem {
		l.check(f, fmt.Sprintf("%s.stem[%d]", at, i), axes, channels)
		channels = l.Out
	}
	switch p := m.Position; p.Kind {
	case "none", "":
	case "learned":
		if p.Rows < 1 || p.Channels < 1 || axes != 1 {
			f.add("%s.position: learned wants rows, channels and an input of one axis", at)
		}
	case "fourier":
		if p.Bands < 1 || len(p.MaxRes) != axes {
			f.add("%s.position: fourier wants bands and %d max_resolution", at, axes)
		}
	default:
		f.add("%s.position.kind: %q, want fourier, learned or none", at, p.Kind)
	}
	if w := m.width(); w > width {
		f.add("%s: rows of %d channels, more than row_channels %d", at, w, width)
	}
}

func (l nativeConv) check(f *nativeFaults, at string, axes, in int) {
	if l.Out < 1 || l.Out > maxNativeWidth {
		f.add("%s.out: %d", at, l.Out)
	}
	for name, v := range map[string][]int{"kernel": l.Kernel, "stride": l.Stride, "padding": l.Padding} {
		if len(v) != axes {
			f.add("%s.%s: %d values, want %d", at, name, len(v), axes)
			return
		}
		for _, x := range v {
			if x < 0 || x > 1024 || x == 0 && name != "padding" {
				f.add("%s.%s: %d", at, name, x)
			}
		}
	}
	if l.MaxPool != nil && (len(l.MaxPool) != axes || slices.Min(l.MaxPool) < 1) {
		f.add("%s.max_pool: want %d values of at least 1", at, axes)
	}
	if !l.Residual {
		return
	}
	same := in == l.Out
	for i := range l.Kernel {
		same = same && l.Stride[i] == 1 && 2*l.Padding[i] == l.Kernel[i]-1
	}
	if !same {
		f.add("%s.residual: the layer changes its input's shape", at)
	}
}

func (h nativeHead) check(f *nativeFaults, at string, known map[string]nativeModality) {
	switch h.Kind {
	case headClasses, headEmbedding, headMaskedBytes:
	default:
		f.add("%s.kind: %q, want %s, %s or %s", at, h.Kind, headClasses, headEmbedding, headMaskedBytes)
		return
	}
	if h.width() < 1 {
		f.add("%s: gives no values (labels, dim or vocab_size)", at)
	}
	for _, m := range h.Modalities {
		if _, ok := known[m]; !ok {
			f.add("%s.modalities: %q is not among the modalities", at, m)
		}
	}
}
