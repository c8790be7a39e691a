package feed

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"

	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// Kind says what latents are to a language model.
type Kind = string

// The kinds.
const (
	SoftTokens     Kind = "soft_tokens"     // rows of the input sequence
	CrossAttention Kind = "cross_attention" // keys and values of gated layers
)

// Latents are what an encoder gave.
type Latents struct {
	Data  tensor.Tensor // items×latents×width
	Kind  Kind
	Model string // whose latents they are, for messages; may be empty
}

// Target names the language model that is to take latents.
type Target struct {
	Name   string // such as "mistralai/Mistral-7B-v0.1"; may be empty
	Hidden int    // its hidden size; 0 when not known, then the width is not checked
	// DType is what Write stores tensors in; empty is F32.
	DType weights.DType
}

// Refusal is why latents cannot be fed to a target: a fault of the request.
type Refusal struct{ Reason string }

// Error gives the reason.
func (r *Refusal) Error() string { return "feed: " + r.Reason }

func refuse(format string, args ...any) error { return &Refusal{fmt.Sprintf(format, args...)} }

// check refuses latents that do not fit a consumer of soft tokens.
func (l Latents) check(consumer string, to Target) error {
	if len(l.Data.Shape) != 3 || len(l.Data.Data) == 0 {
		return refuse("latents of shape %v: want items×latents×width", l.Data.Shape)
	}
	from := l.Model
	if from == "" {
		from = "this model"
	}
	return sees(l.Kind, l.Data.Cols(), consumer, from, to)
}

// sees refuses latents of a kind and width that a consumer of soft tokens cannot take.
func sees(kind Kind, width int, consumer, from string, to Target) error {
	if kind != SoftTokens {
		return refuse("%s takes soft tokens, and the latents of %s are cross-attention memory: they are keys and values of gated layers inside their own language model, and an input sequence cannot hold them", consumer, from)
	}
	if to.Hidden != 0 && to.Hidden != width {
		name := to.Name
		if name == "" {
			name = "the target"
		}
		return refuse("hidden size of %s is %d, the latents of %s have width %d", name, to.Hidden, from, width)
	}
	return nil
}

// rows sees the latents of all items as one list, (items·latents)×width.
func (l Latents) rows() tensor.Tensor { return l.Data.Reshape(l.Data.Rows(), l.Data.Cols()) }

// torch is the base64 of a torch file.
func torch(write func(io.Writer) error) (string, error) {
	var b bytes.Buffer
	if err := write(&b); err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(b.Bytes()), nil
}

func torchOf(t tensor.Tensor, dt weights.DType) (string, error) {
	return torch(func(w io.Writer) error { return weights.WriteTorch(w, t, dt) })
}

// ChatPart is a content part of vLLM's /v1/chat/completions (server flag
// --enable-prompt-embeds), to stand next to text parts. dt is F32, F16 or BF16.
func ChatPart(l Latents, to Target, dt weights.DType) ([]byte, error) {
	if err := l.check("a vLLM prompt_embeds part", to); err != nil {
		return nil, err
	}
	data, err := torchOf(l.rows(), dt)
	if err != nil {
		return nil, err
	}
	return json.Marshal(struct {
		Type string `json:"type"`
		Data string `json:"data"`
	}{"prompt_embeds", data})
}

// Completion is the prompt_embeds field of vLLM's /v1/completions. There the whole prompt must
// be embeddings: the latents with the text's around them, see Join.
func Completion(prompt tensor.Tensor, to Target, dt weights.DType) ([]byte, error) {
	if err := whole(prompt, to); err != nil {
		return nil, err
	}
	data, err := torchOf(prompt, dt)
	if err != nil {
		return nil, err
	}
	return json.Marshal(struct {
		PromptEmbeds string `json:"prompt_embeds"`
	}{data})
}

// whole checks a prompt made of embeddings, tokens×width.
func whole(prompt tensor.Tensor, to Target) error {
	return Latents{Data: tensor.Tensor{Data: prompt.Data, Shape: append([]int{1}, prompt.Shape...)}, Kind: SoftTokens, Model: "the prompt"}.check("a prompt of embeddings", to)
}

// Join makes one prompt of embeddings from parts in order, each rows×width: text from the
// language model's embedding table, and soft tokens (Latents.Rows).
func Join(parts ...tensor.Tensor) (tensor.Tensor, error) {
	var data []float32
	width := 0
	for _, p := range parts {
		if width == 0 {
			width = p.Cols()
		}
		if p.Cols() != width {
			return tensor.Tensor{}, refuse("a prompt of embeddings of width %d and of width %d", width, p.Cols())
		}
		data = append(data, p.Data...)
	}
	if len(data) == 0 {
		return tensor.Tensor{}, refuse("an empty prompt of embeddings")
	}
	return tensor.Of(data, len(data)/width, width), nil
}

// Rows returns soft tokens as one list, (items·latents)×width, for Join. Cross-attention
// latents are refused.
func (l Latents) Rows(to Target) (tensor.Tensor, error) {
	if err := l.check("a prompt of embeddings", to); err != nil {
		return tensor.Tensor{}, err
	}
	return l.rows(), nil
}

// Extra is what some multimodal models take besides the embeddings.
type Extra struct {
	GridTHW [][3]int // Qwen2-VL: frames, rows, columns of patches of each item
	Sizes   [][2]int // MiniCPM-V: width and height of each picture
	// Text is how transformers' placeholders are written; empty is Idefics2's, and Idefics's
	// for cross-attention memory.
	Text Convention
}

// ImagePart is an image_embeds content part of vLLM's chat (server flag --enable-mm-embeds)
// for a multimodal model whose own projector would give these latents.
func ImagePart(l Latents, to Target, dt weights.DType, x Extra) ([]byte, error) {
	if err := l.check("a vLLM image_embeds part", to); err != nil {
		return nil, err
	}
	for _, n := range []int{len(x.GridTHW), len(x.Sizes)} {
		if n != 0 && n != l.Data.Dim(0) {
			return nil, refuse("%d picture sizes for %d items", n, l.Data.Dim(0))
		}
	}
	part := struct {
		Type   string `json:"type"`
		Embeds any    `json:"image_embeds"`
	}{Type: "image_embeds"}
	data, err := torchOf(l.Data, dt)
	if err != nil {
		return nil, err
	}
	part.Embeds = data
	if len(x.GridTHW)+len(x.Sizes) > 0 {
		fields := map[string]string{"image_embeds": data}
		if len(x.GridTHW) > 0 {
			if fields["image_grid_thw"], err = intTensor(x.GridTHW); err != nil {
				return nil, err
			}
		}
		if len(x.Sizes) > 0 {
			if fields["image_sizes"], err = intTensor(x.Sizes); err != nil {
				return nil, err
			}
		}
		part.Embeds = fields
	}
	return json.Marshal(part)
}

// intTensor is the base64 of a torch file of int64 rows.
func intTensor[R [2]int | [3]int](rows []R) (string, error) {
	var width int
	var data []byte
	for _, row := range rows {
		switch r := any(row).(type) {
		case [2]int:
			width = 2
			data = appendInts(data, r[:])
		case [3]int:
			width = 3
			data = appendInts(data, r[:])
		}
	}
	raw := weights.Raw{DType: weights.I64, Shape: []int{len(rows), width}, Data: data}
	return torch(func(w io.Writer) error { return weights.WriteTorchRaw(w, raw) })
}

func appendInts(b []byte, v []int) []byte {
	for _, i := range v {
		b = binary.LittleEndian.AppendUint64(b, uint64(i))
	}
	return b
}

// InputEmbeds is the input_embeds field of SGLang's /generate (server flag
// --disable-radix-cache): the whole prompt as nested lists of numbers, see Join.
func InputEmbeds(prompt tensor.Tensor, to Target) ([]byte, error) {
	if err := whole(prompt, to); err != nil {
		return nil, err
	}
	b := []byte(`{"input_embeds":`)
	b, err := AppendJSON(b, prompt)
	if err != nil {
		return nil, err
	}
	return append(b, '}'), nil
}

// AppendJSON writes t as nested lists of numbers, each the shortest that reads back as the
// same float32.
func AppendJSON(b []byte, t tensor.Tensor) ([]byte, error) {
	if len(t.Shape) == 0 {
		return appendNumber(b, t.Data[0])
	}
	b = append(b, '[')
	for i := range t.Shape[0] {
		if i > 0 {
			b = append(b, ',')
		}
		var err error
		if len(t.Shape) == 1 {
			b, err = appendNumber(b, t.Data[i])
		} else {
			b, err = AppendJSON(b, t.At(i))
		}
		if err != nil {
			return nil, err
		}
	}
	return append(b, ']'), nil
}

func appendNumber(b []byte, x float32) ([]byte, error) {
	if f := float64(x); math.IsNaN(f) || math.IsInf(f, 0) {
		return nil, fmt.Errorf("feed: a value is %v", x)
	}
	return strconv.AppendFloat(b, float64(x), 'g', -1, 32), nil
}

// LlamaCpp writes what llama_batch.embd points at: n_tokens·n_embd float32, little-endian, one
// row after the other. n_tokens is items·latents; positions and sequence ids are the caller's.
func LlamaCpp(w io.Writer, l Latents, to Target) error {
	if err := l.check("llama_batch.embd", to); err != nil {
		return err
	}
	return weights.WriteRaw(w, l.rows())
}
