package modality

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/mmserve/mmserve/modality/media"
)

// Member is one array of a fusion.
type Member struct {
	Name    string
	Array   *Array
	Padding []float32 // the modality's learned padding: common width − C values; nil means zeros
}

// Fuse puts arrays one under the other as one array, so that one encoder serves all media. Rows
// are padded on the right to channels (0: the widest member) with their member's padding, as
// in the multimodal Perceiver. The order is the caller's and is remembered in Spans. A member
// wider than channels, or a padding of another length, is a BadOptions error. Closing the
// array closes its members.
func Fuse(channels int, members ...Member) (*Array, error) {
	if len(members) == 0 {
		return nil, media.Errorf(media.Empty, "fuse: no members")
	}
	f := &fused{width: channels}
	if f.width == 0 {
		for _, m := range members {
			_, c := m.Array.Dims()
			f.width = max(f.width, c)
		}
	}
	out := &Array{Content: f}
	for _, m := range members {
		rows, c := m.Array.Dims()
		if c > f.width {
			return nil, media.Errorf(media.BadOptions, "fuse: %s has %d channels, the common width is %d", m.Name, c, f.width)
		}
		if m.Padding != nil && len(m.Padding) != f.width-c {
			return nil, media.Errorf(media.BadOptions, "fuse: padding of %s: %d values, want %d", m.Name, len(m.Padding), f.width-c)
		}
		span := Span{Name: m.Name, From: f.rows, To: f.rows + rows}
		f.members, f.spans, f.rows = append(f.members, m), append(f.spans, span), span.To
		out.Forward = out.Forward || m.Array.Forward
		for _, n := range m.Array.Notes {
			out.Notes = append(out.Notes, m.Name+": "+n)
		}
		out.Cost.DecodedBytes += m.Array.Cost.DecodedBytes
		out.Cost.Decoding += m.Array.Cost.Decoding
		out.OnClose(m.Array.Close)
	}
	out.Spans = f.spans
	out.Cost.Modality, out.Cost.Rows, out.Cost.RowChannels, out.Cost.Notes = "fuse", f.rows, f.width, out.Notes
	return out, nil
}

// fused is content of several arrays.
type fused struct {
	members []Member
	spans   []Span
	rows    int
	width   int
}

// Dims implements Content.
func (f *fused) Dims() (m, c int) { return f.rows, f.width }

// Read implements Content.
func (f *fused) Read(dst []float32, ld, from, to int) error {
	for i, s := range f.spans {
		lo, hi := max(from, s.From), min(to, s.To)
		if lo >= hi {
			continue
		}
		m := f.members[i]
		rows, c := m.Array.Dims()
		out := dst[(lo-from)*ld:]
		if err := m.Array.read(out, ld, rows, lo-s.From, hi-s.From); err != nil {
			return fmt.Errorf("fuse: %s: %w", m.Name, err)
		}
		for r := range hi - lo {
			pad := out[r*ld+c : r*ld+f.width]
			if m.Padding == nil {
				clear(pad)
			} else {
				copy(pad, m.Padding)
			}
		}
	}
	return nil
}

// FuseOptions are the options of the fuse adapter.
type FuseOptions struct {
	Channels int        `json:"channels"` // common width; 0: the widest part
	Parts    []FusePart `json:"parts"`    // how each part of the input is read, in order; empty: by detection
}

// FusePart says how one part is read.
type FusePart struct {
	Modality string          `json:"modality"` // empty: detect
	Options  json.RawMessage `json:"options"`
	Padding  []float32       `json:"padding"` // learned padding; empty: zeros
}

var fuseSchema = json.RawMessage(`{
  "type": "object", "additionalProperties": false,
  "properties": {
    "channels": {"type": "integer", "minimum": 0, "maximum": 65536, "default": 0, "description": "common width of the rows; 0 for that of the widest part"},
    "parts": {"type": "array", "description": "how each part of the input is read, in order; without it by detection", "items": {
      "type": "object", "additionalProperties": false,
      "properties": {
        "modality": {"type": "string"},
        "options": {"type": "object"},
        "padding": {"type": "array", "items": {"type": "number"}}
      }}}
  }
}`)

// fuseAdapter reads an input of several parts as one array.
type fuseAdapter struct{ o FuseOptions }

// OpenFuse opens the fuse adapter.
func OpenFuse(options json.RawMessage) (Adapter, error) {
	var o FuseOptions
	if err := Options("fuse", options, &o); err != nil {
		return nil, err
	}
	if o.Channels < 0 || o.Channels > 1<<16 {
		return nil, BadOption("fuse", "channels %d: want 0 to 65536", o.Channels)
	}
	for i, p := range o.Parts {
		if p.Modality == "fuse" {
			return nil, BadOption("fuse", "part %d: a fusion inside a fusion", i)
		}
		if p.Modality != "" {
			if _, err := New(p.Modality, p.Options); err != nil {
				return nil, fmt.Errorf("fuse: part %d: %w", i, err)
			}
		}
	}
	return &fuseAdapter{o}, nil
}

// Info implements Adapter.
func (a *fuseAdapter) Info() Info {
	return Info{
		Name: "fuse", Doc: "several inputs as one array, padded to a common width",
		MediaTypes: []string{"multipart/related"},
		Options:    fuseSchema, Channels: a.o.Channels, Position: "none", Streams: true, Composite: true,
	}
}

// part opens the adapter of part i.
func (a *fuseAdapter) part(i int, h Header) (FusePart, Adapter, error) {
	var p FusePart
	if len(a.o.Parts) > 0 {
		p = a.o.Parts[i]
	}
	if p.Modality == "" {
		name, _, err := Detect(h)
		if err != nil {
			return p, nil, err
		}
		p.Modality = name
	}
	adapter, err := New(p.Modality, p.Options)
	return p, adapter, err
}

func (a *fuseAdapter) count(n int) error {
	if n == 0 {
		return media.Errorf(media.Empty, "fuse: an input without parts")
	}
	if len(a.o.Parts) > 0 && len(a.o.Parts) != n {
		return media.Errorf(media.BadOptions, "fuse: %d parts, the options describe %d", n, len(a.o.Parts))
	}
	return nil
}

// Plan implements Adapter: the sum of the parts' plans.
func (a *fuseAdapter) Plan(ctx context.Context, h Header) (Cost, error) {
	out := Cost{Modality: "fuse", MediaType: "multipart/mixed", RowChannels: a.o.Channels}
	if err := a.count(len(h.Parts)); err != nil {
		return out, err
	}
	for i, ph := range h.Parts {
		p, adapter, err := a.part(i, ph)
		if err != nil {
			return out, fmt.Errorf("fuse: part %d: %w", i, err)
		}
		c, err := adapter.Plan(ctx, ph)
		if err != nil {
			return out, fmt.Errorf("fuse: part %d: %w", i, err)
		}
		if a.o.Channels != 0 && c.RowChannels > a.o.Channels {
			return out, media.Errorf(media.BadOptions, "fuse: %s has %d channels, the common width is %d", p.Modality, c.RowChannels, a.o.Channels)
		}
		out.Rows += c.Rows
		out.RowChannels = max(out.RowChannels, c.RowChannels)
		out.DecodedBytes += c.DecodedBytes
		out.Decoding += c.Decoding
		out.Estimated = out.Estimated || c.Estimated
		for _, n := range c.Notes {
			out.Notes = append(out.Notes, p.Modality+": "+n)
		}
	}
	return out, media.Check("fuse: rows", h.Limits.WithDefaults().Rows, int64(out.Rows))
}

// Adapt implements Adapter.
func (a *fuseAdapter) Adapt(ctx context.Context, in Input) (array *Array, err error) {
	if err := a.count(len(in.Parts)); err != nil {
		return nil, err
	}
	var members []Member
	defer func() {
		if err != nil {
			for _, m := range members {
				m.Array.Close()
			}
		}
	}()
	for i, part := range in.Parts {
		part.Limits = in.Limits
		h, err := part.Header()
		if err != nil {
			return nil, fmt.Errorf("fuse: part %d: %w", i, err)
		}
		p, adapter, err := a.part(i, h)
		if err != nil {
			return nil, fmt.Errorf("fuse: part %d: %w", i, err)
		}
		array, err := adapter.Adapt(ctx, part)
		if err != nil {
			return nil, fmt.Errorf("fuse: part %d: %w", i, err)
		}
		members = append(members, Member{Name: p.Modality, Array: array, Padding: p.Padding})
	}
	if array, err = Fuse(a.o.Channels, members...); err != nil {
		return nil, err
	}
	array.Cost.MediaType = "multipart/mixed"
	return array, nil
}
