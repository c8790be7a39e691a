package client

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
)

// Request asks for work on one or more items.
type Request struct {
	Model      string   `json:"model,omitempty"` // name or name@digest; empty: the server's default
	Inputs     []Item   `json:"inputs"`
	Output     []string `json:"output,omitempty"`      // encode: "latents", "pooled", "byte_array", "soft_tokens", "attention"
	Top        int      `json:"top,omitempty"`         // predict: classes a list holds
	Caption    bool     `json:"caption,omitempty"`     // predict: also say it in words
	Latent     *int     `json:"latent,omitempty"`      // whose attention; nil: the mean
	DType      string   `json:"dtype,omitempty"`       // "f32" (default), "f16", "bf16" on the wire
	Normalize  bool     `json:"normalize,omitempty"`   // pooled vectors to unit length
	DeadlineMS int64    `json:"deadline_ms,omitempty"` // of the request
	Atomic     bool     `json:"atomic,omitempty"`      // one failed item fails the request
}

// Item is what one answer is about: one or more media.
type Item struct {
	ID      string `json:"id,omitempty"`
	Content []Part `json:"content"`
}

// Part is one medium: Text, Data or URL. Data travels as base64.
type Part struct {
	Type      string          `json:"type"` // "image", "audio", "point_cloud", "text", "video", …
	Text      string          `json:"text,omitempty"`
	Data      []byte          `json:"data,omitempty"`
	URL       string          `json:"url,omitempty"` // data:, or of a host that the server fetches from
	MediaType string          `json:"media_type,omitempty"`
	Name      string          `json:"name,omitempty"`
	Role      string          `json:"role,omitempty"`    // what the model calls it, where it takes several
	Options   json.RawMessage `json:"options,omitempty"` // the adapter's
}

// Text is an item of one text.
func Text(s string) Item { return Item{Content: []Part{{Type: "text", Text: s}}} }

// Media is an item of one encoded file.
func Media(modality string, data []byte) Item {
	return Item{Content: []Part{{Type: modality, Data: data}}}
}

// DecodeRequest asks for what a model's decoder makes of latents.
type DecodeRequest struct {
	Model       string           `json:"model,omitempty"`        // name or name@digest; empty: the server's default
	ModelDigest string           `json:"model_digest,omitempty"` // Document.Digest of the latents; another model is refused
	Inputs      []Kept           `json:"inputs"`
	Output      []string         `json:"output,omitempty"`    // of the model's "decodes"; empty: what Predict gives
	Modality    []string         `json:"modality,omitempty"`  // of the latents' media: a model of several answers for them alone
	Queries     *Tensor          `json:"queries,omitempty"`   // O×E of one's own; the answers are Result.Answers
	Positions   []int            `json:"positions,omitempty"` // tokens, of a fill-mask model
	Points      map[string][]int `json:"points,omitempty"`    // "image" and "audio", of an autoencoder
	Top         int              `json:"top,omitempty"`       // classes a list holds
	DType       string           `json:"dtype,omitempty"`     // "f32" (default), "f16", "bf16" on the wire
	Normalize   bool             `json:"normalize,omitempty"` // pooled vectors to unit length
	DeadlineMS  int64            `json:"deadline_ms,omitempty"`
	Atomic      bool             `json:"atomic,omitempty"` // one failed item fails the request
}

// Kept is an item whose latents were kept: Result.Latents, and the media that they are of where the
// decoder's queries are made of them (the pictures of optical flow, a text with masks).
type Kept struct {
	ID      string  `json:"id,omitempty"`
	Latents *Tensor `json:"latents"` // N×D
	Content []Part  `json:"content,omitempty"`
}

// Document is the answer to a Request or a DecodeRequest.
type Document struct {
	Model     string             `json:"model"`
	Digest    string             `json:"model_digest"` // "sha256:…" over configuration and weights
	RequestID string             `json:"request_id"`
	Data      []Result           `json:"data"`      // one an item, in order
	Errors    int                `json:"errors"`    // items that failed
	Timing    map[string]float64 `json:"timing_ms"` // milliseconds of each stage
}

// Result is the outcome of one item: Error, or the rest.
type Result struct {
	ID     string `json:"id"`
	Index  int    `json:"index"`
	Status string `json:"status"` // "ok" or "error"
	Error  *Error `json:"error"`
	Plan   Plan   `json:"plan"`
	// Plan's answer alone: milliseconds until the item would be done, with what the server has
	// admitted before it, and whether it would be admitted now.
	EstimatedMS float64     `json:"estimated_ms"`
	Admitted    bool        `json:"admitted"`
	Latents     *Tensor     `json:"latents"`     // N×D
	Pooled      *Tensor     `json:"pooled"`      // D, or the width of the embedding head
	ByteArray   *Tensor     `json:"byte_array"`  // M×C
	SoftTokens  *Tensor     `json:"soft_tokens"` // n×W
	Attention   *Tensor     `json:"attention"`   // M, sums to 1
	Grid        []int       `json:"grid"`        // of the rows: height×width, time, …
	Notes       []string    `json:"notes"`       // what was detected, cropped, resampled, dropped
	Prediction  *Prediction `json:"prediction"`
	Flow        *Tensor     `json:"flow"`    // H×W×2: x to the right, y down, in pixels
	Frames      *Tensor     `json:"frames"`  // reconstructed T×H×W×3, or points×3
	Audio       *Tensor     `json:"audio"`   // reconstructed samples
	Logits      *Tensor     `json:"logits"`  // decode: before the softmax
	Answers     *Tensor     `json:"answers"` // decode: O×F
}

// Plan is the cost of an item.
type Plan struct {
	Modality  string  `json:"modality"`
	MediaType string  `json:"media_type"`
	Rows      int     `json:"rows"`          // M
	Channels  int     `json:"row_channels"`  // C
	FLOPs     float64 `json:"flops"`         // multiply and add counted as two
	Bytes     int64   `json:"decoded_bytes"` // of the decoded medium at most
}

// Prediction is the answer of a task.
type Prediction struct {
	Task    string  `json:"task"`
	Classes []Class `json:"classes"`
	Heads   []Head  `json:"heads"`   // of a model with several tasks
	Masks   []Mask  `json:"masks"`   // fill_mask: one a masked byte
	Text    string  `json:"text"`    // fill_mask: the filled text
	Caption string  `json:"caption"` // a language model's words
}

// Head is the answer of one of several tasks.
type Head struct {
	Task    string  `json:"task"`
	Classes []Class `json:"classes"`
}

// Mask is the answer for one masked byte.
type Mask struct {
	Position   int     `json:"position"` // token index
	Candidates []Class `json:"candidates"`
}

// Class is a label with its probability.
type Class struct {
	Index int     `json:"index"`
	Label string  `json:"label"`
	Score float64 `json:"score"` // softmax over all classes
}

// Model is one model of the server.
type Model struct {
	ID      string          `json:"id"`
	State   string          `json:"state"` // "loaded", "loading", "unloaded" or "failed"
	Error   string          `json:"error"` // why the last load failed
	Default bool            `json:"default"`
	Info    json.RawMessage `json:"info"` // of a loaded one: digest, media, outputs, sizes
}

// Prompt asks a model with a language model for text. Media stand where "<image>" is in Text, in
// order; without marks they go first.
type Prompt struct {
	Model       string   `json:"model,omitempty"`
	Text        string   `json:"prompt"`
	Content     []Part   `json:"content,omitempty"`
	MaxTokens   int      `json:"max_tokens,omitempty"`  // zero means 64
	Temperature float64  `json:"temperature,omitempty"` // zero takes the likeliest token
	TopK        int      `json:"top_k,omitempty"`       // zero means all
	TopP        float64  `json:"top_p,omitempty"`       // zero means all
	Seed        uint64   `json:"seed,omitempty"`
	Stop        []string `json:"stop,omitempty"` // texts that end the answer
}

// Generation is the answer to a Prompt.
type Generation struct {
	Text         string `json:"text"`
	PromptTokens int    `json:"prompt_tokens"`
	Tokens       int    `json:"tokens"`
	Stop         string `json:"finish_reason"` // "stop" or "length"
}

// Tensor is an array, row-major.
type Tensor struct {
	Shape []int           `json:"shape"`
	DType string          `json:"dtype"` // "f32", "f16" or "bf16"
	Data  json.RawMessage `json:"data"`  // base64 text, or numbers
}

// NewTensor is a tensor of f32 values, row-major.
func NewTensor(values []float32, shape ...int) *Tensor {
	raw := make([]byte, 0, 4*len(values))
	for _, v := range values {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(v))
	}
	return &Tensor{Shape: shape, DType: "f32", Data: json.RawMessage(`"` + base64.StdEncoding.EncodeToString(raw) + `"`)}
}

// Float32s returns the values. It fails when they are not as many as the shape says, and for a
// tensor that is not in the answer: Request.Output names those that are.
func (t *Tensor) Float32s() ([]float32, error) {
	if t == nil {
		return nil, errors.New("client: the answer has no such tensor; Request.Output names what it holds")
	}
	want := 1
	for _, d := range t.Shape {
		want *= d
	}
	var out []float32
	if len(t.Data) > 0 && t.Data[0] == '"' {
		var text string
		if err := json.Unmarshal(t.Data, &text); err != nil {
			return nil, fmt.Errorf("client: tensor: %w", err)
		}
		raw, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, fmt.Errorf("client: tensor: %w", err)
		}
		if out, err = widen(raw, t.DType); err != nil {
			return nil, err
		}
	} else if err := json.Unmarshal(t.Data, &out); err != nil {
		return nil, fmt.Errorf("client: tensor: %w", err)
	}
	if len(out) != want {
		return nil, fmt.Errorf("client: tensor: %d values, shape %v", len(out), t.Shape)
	}
	return out, nil
}

// widen reads little-endian values of a type.
func widen(raw []byte, dtype string) ([]float32, error) {
	switch dtype {
	case "f32":
		out := make([]float32, len(raw)/4)
		for i := range out {
			out[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
		}
		return out, nil
	case "bf16":
		out := make([]float32, len(raw)/2)
		for i := range out {
			out[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(raw[2*i:])) << 16)
		}
		return out, nil
	case "f16":
		out := make([]float32, len(raw)/2)
		for i := range out {
			out[i] = half(binary.LittleEndian.Uint16(raw[2*i:]))
		}
		return out, nil
	}
	return nil, fmt.Errorf("client: tensor: unknown type %q", dtype)
}

// half widens an IEEE half-precision number.
func half(h uint16) float32 {
	sign, exp, frac := uint32(h>>15)<<31, uint32(h>>10)&31, uint32(h)&1023
	switch exp {
	case 0: // zero and subnormal: frac × 2⁻²⁴
		v := float32(frac) * (1.0 / (1 << 24))
		return math.Float32frombits(math.Float32bits(v) | sign)
	case 31:
		return math.Float32frombits(sign | 0x7f800000 | frac<<13)
	}
	return math.Float32frombits(sign | (exp+112)<<23 | frac<<13)
}
