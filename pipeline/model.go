package pipeline

import (
	"context"
	"encoding/json"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/tensor"
)

// Model answers requests for one model directory. It never changes after Open and is safe
// for concurrent use.
type Model interface {
	// Info describes the model.
	Info() Info
	// Plan says what an item would cost, from its headers alone. A refusal is a *media.Error.
	Plan(ctx context.Context, it Item) (Plan, error)
	// Encode turns an item into latents and what EncodeOptions asks for besides.
	Encode(ctx context.Context, it Item, opt EncodeOptions) (*Encoding, error)
	// Predict runs the model's task on an item. A model without one answers ErrNoTask.
	Predict(ctx context.Context, it Item, opt PredictOptions) (*Prediction, error)
}

// Generator is a Model with a conditioned language model.
type Generator interface {
	Model
	// Generate continues a prompt given media, and emits text as it comes. An error of emit
	// ends the generation.
	Generate(ctx context.Context, p Prompt, opt GenerateOptions, emit func(text string) error) (*Generation, error)
}

// Options choose how a model is loaded. The zero value is the published model in float32.
type Options struct {
	// DType is the arithmetic of linear layers and attention: "f32", "bf16" or "int8"; or
	// "bf16w" and "f16w", float32 arithmetic over weights kept in 16 bits. Empty is what the
	// model's model.json says, else "f32".
	DType  string
	Plain  bool         // textbook formulation: no folded projections or separable positions
	Limits media.Limits // of the inputs; zero fields are the defaults
	// Random loads random weights (seeded) instead of reading a weight file, for measuring.
	Random bool
}

// Info describes a loaded model.
type Info struct {
	Name         string   `json:"name"`
	Digest       string   `json:"digest,omitempty"` // "sha256:…" over configuration and weights
	Architecture string   `json:"architecture"`
	Task         string   `json:"task"`       // "image_classification", "fill_mask", …
	Modalities   []string `json:"modalities"` // media it takes
	Outputs      []string `json:"outputs"`    // values of EncodeOptions.Outputs it can give
	Parameters   int64    `json:"parameters"`
	Bytes        int64    `json:"bytes"` // of the weights in memory
	DType        string   `json:"dtype"`
	// Latents and LatentDim are N and D; SoftTokens and SoftTokenDim n and W, zero without a
	// resampler.
	Latents      int `json:"latents,omitempty"`
	LatentDim    int `json:"latent_dim,omitempty"`
	SoftTokens   int `json:"soft_tokens,omitempty"`
	SoftTokenDim int `json:"soft_token_dim,omitempty"`
	// SoftTokenKind is "soft_tokens" or "cross_attention" (see resampler).
	SoftTokenKind string `json:"soft_token_kind,omitempty"`
	// Decodes are the values of DecodeOptions.Outputs that a LatentDecoder knows, and QueryDim the
	// width E of the queries that it answers, zero for none.
	Decodes  []string `json:"decodes,omitempty"`
	QueryDim int      `json:"query_dim,omitempty"`
	Labels   []string `json:"labels,omitempty"`
	FLOPs    float64  `json:"flops,omitempty"` // of one forward of typical size
	// Precision says how far DType's answers are from float32's, where that was measured.
	Precision string `json:"precision,omitempty"`
}

// Item is what one answer is about: one or more media parts.
type Item struct {
	ID    string
	Parts []Part
	// Latents, N×D, are what an encoder made of the item earlier; only LatentDecoder reads them.
	Latents tensor.Tensor
}

// Part is one medium of an item.
type Part struct {
	Input    media.Input     // the bytes, or nested parts (frames)
	Modality string          // adapter name; empty: detect
	Options  json.RawMessage // the adapter's options, may be nil; most published models take none
	Role     string          // what the model calls it ("image", "audio", "label"); may be empty
}

// TextPart is a part that holds a string.
func TextPart(s string) Part {
	return Part{Input: media.Bytes("", []byte(s)), Modality: "text"}
}

// Plan is the cost of one item: what its adapter says, and the network's work.
type Plan struct {
	modality.Cost
	FLOPs float64 `json:"flops"` // multiply and add counted as two
}

// The values of EncodeOptions.Outputs.
const (
	OutputLatents    = "latents"
	OutputPooled     = "pooled"
	OutputByteArray  = "byte_array"
	OutputSoftTokens = "soft_tokens"
	OutputAttention  = "attention"
	OutputHidden     = "hidden_states"
)

// EncodeOptions choose what Encode returns.
type EncodeOptions struct {
	Outputs []string // of the Output constants; empty: latents
	// Latent is the latent whose attention over the rows is asked for; negative: the mean
	// over all latents.
	Latent int
	Trace  func(name string, t tensor.Tensor) // sees every stage, may be nil
}

// wants reports whether an output is asked for.
func (o EncodeOptions) wants(name string) bool {
	if len(o.Outputs) == 0 {
		return name == OutputLatents
	}
	for _, w := range o.Outputs {
		if w == name || w == "all" && name != OutputAttention && name != OutputHidden {
			return true
		}
	}
	return false
}

// Encoding is what a model made of an item. Tensors that were not asked for are empty.
type Encoding struct {
	Latents    tensor.Tensor // N×D
	Pooled     tensor.Tensor // D: the mean of the latents, or the model's embedding head
	ByteArray  tensor.Tensor // M×C
	SoftTokens tensor.Tensor // n×W
	Attention  tensor.Tensor // M: attention of the asked latent over the rows
	Grid       []int         // the rows' grid (height×width, time, …) where they have one
	Notes      []string      // what was detected, cropped, resampled, dropped
	Plan       Plan          // what was really read
}

// PredictOptions choose how a task is answered.
type PredictOptions struct {
	Top     int                                // answers a class list holds; zero means 5
	Caption bool                               // also say it in words, where the model can
	Trace   func(name string, t tensor.Tensor) // sees every stage, may be nil
	// Points are output points of an autoencoder (flat indexes by modality); nil: all.
	Points map[string][]int
}

func (o PredictOptions) top() int {
	if o.Top <= 0 {
		return 5
	}
	return o.Top
}

// Prediction is the answer of a task. Only the fields of the task are set.
type Prediction struct {
	Task    string   `json:"task"`
	Classes []Class  `json:"classes,omitempty"`
	Heads   []Head   `json:"heads,omitempty"`   // tasks of a model that has several
	Masks   []Masked `json:"masks,omitempty"`   // fill-mask: one a masked position
	Text    string   `json:"text,omitempty"`    // fill-mask: the filled text
	Caption string   `json:"caption,omitempty"` // a conditioned language model's words
	Flow    *Flow    `json:"flow,omitempty"`
	// Reconstruction holds an autoencoder's outputs by modality.
	Reconstruction *Reconstruction `json:"reconstruction,omitempty"`
	Logits         tensor.Tensor   `json:"-"` // before the softmax: labels, positions×bytes or vocabulary
	Notes          []string        `json:"notes,omitempty"`
	Plan           Plan            `json:"plan"`
}

// Head is the answer of one task of a model that has several.
type Head struct {
	Task    string  `json:"task"`
	Classes []Class `json:"classes"`
}

// Class is a label with its probability.
type Class struct {
	Index int     `json:"index"`
	Label string  `json:"label"`
	Score float32 `json:"score"` // softmax over all classes
	Logit float32 `json:"logit"`
}

// Masked is the answer for one masked byte.
type Masked struct {
	Position   int     `json:"position"` // token index
	Candidates []Class `json:"candidates"`
}

// Flow is optical flow from the first of two frames to the second: lengths in pixels, x to the right, y down.
type Flow struct {
	Width   int           `json:"width"`
	Height  int           `json:"height"`
	MeanX   float64       `json:"mean_dx"`
	MeanY   float64       `json:"mean_dy"`
	Longest float64       `json:"max_length"`
	Field   tensor.Tensor `json:"-"` // H×W×2, pixels
}

// Reconstruction is an autoencoder's output.
type Reconstruction struct {
	Frames tensor.Tensor `json:"-"` // T×H×W×3, values about 0..1
	Audio  tensor.Tensor `json:"-"` // samples, −1..1
	// Sizes of the above, for people.
	FrameShape []int `json:"frames,omitempty"`
	Samples    int   `json:"samples,omitempty"`
}

// Prompt is what a conditioned language model is given: text with media between.
type Prompt struct {
	Text  string // "<image>" marks where the parts go, in order; without marks they go first
	Parts []Part
}

// GenerateOptions choose how text is drawn.
type GenerateOptions struct {
	MaxTokens   int      // zero means 64
	Temperature float64  // zero is greedy
	TopK        int      // zero: no limit
	TopP        float64  // zero: no limit
	Seed        uint64   // of the draw
	Stop        []string // ends the text where one appears
}

// Generation is what was generated.
type Generation struct {
	Text         string `json:"text"`
	PromptTokens int    `json:"prompt_tokens"`
	Tokens       int    `json:"tokens"`
	Stop         string `json:"finish_reason"` // "stop" or "length"
}

// Canary is a Model that knows a small input of its own, to be tried with now and then; an item
// without parts when it knows none after all.
type Canary interface {
	Model
	Canary() Item
}
