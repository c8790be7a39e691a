package feed

import (
	"encoding/json"
	"io"
	"strings"

	"github.com/mmserve/mmserve/weights"
)

// format is a consumer with a name, for requests and flags.
type format struct {
	names     []string // the first is the one listed
	mediaType string
	soft      bool // takes soft tokens alone
	write     func(w io.Writer, l Latents, to Target, x Extra) error
}

var formats = []format{
	{[]string{"vllm-chat", "vllm_prompt_embeds"}, "application/vnd.vllm+json", true, func(w io.Writer, l Latents, to Target, _ Extra) error {
		return text(w)(ChatPart(l, to, to.dtype()))
	}},
	{[]string{"vllm-image-embeds", "vllm_image_embeds"}, "application/vnd.vllm+json", true, func(w io.Writer, l Latents, to Target, x Extra) error {
		return text(w)(ImagePart(l, to, to.dtype(), x))
	}},
	{[]string{"vllm-completions", "vllm_completions"}, "application/vnd.vllm+json", true, func(w io.Writer, l Latents, to Target, _ Extra) error {
		rows, err := l.Rows(to)
		if err != nil {
			return err
		}
		return text(w)(Completion(rows, to, to.dtype()))
	}},
	{[]string{"sglang", "sglang_input_embeds"}, "application/json", true, func(w io.Writer, l Latents, to Target, _ Extra) error {
		rows, err := l.Rows(to)
		if err != nil {
			return err
		}
		return text(w)(InputEmbeds(rows, to))
	}},
	{[]string{"llama.cpp", "llama_cpp", "embd"}, "application/octet-stream", true, func(w io.Writer, l Latents, to Target, _ Extra) error {
		if dt := to.dtype(); dt != weights.F32 {
			return refuse("llama_batch.embd is F32, not %s", dt)
		}
		return LlamaCpp(w, l, to)
	}},
	{[]string{"hf", "transformers"}, "application/json", false, writeHF},
}

// text writes one line of a JSON payload.
func text(w io.Writer) func([]byte, error) error {
	return func(b []byte, err error) error {
		if err != nil {
			return err
		}
		_, err = w.Write(append(b, '\n'))
		return err
	}
}

// Formats lists the names that Write takes.
func Formats() []string {
	var out []string
	for _, f := range formats {
		out = append(out, f.names[0])
	}
	return out
}

// Known reports whether Write takes a name, and the type of what it then writes.
func Known(name string) (mediaType string, ok bool) {
	f, err := find(name)
	return f.mediaType, err == nil
}

func find(name string) (format, error) {
	for _, f := range formats {
		for _, n := range f.names {
			if n == name {
				return f, nil
			}
		}
	}
	return format{}, refuse("no consumer of latents is called %q (have %s)", name, strings.Join(Formats(), ", "))
}

// Check says, before anything is computed, whether latents of a kind and width can be written
// for a consumer and a target. Its error is a *Refusal.
func Check(name string, kind Kind, width int, to Target) error {
	f, err := find(name)
	if err != nil {
		return err
	}
	if kind != SoftTokens && kind != CrossAttention {
		return refuse("the model has no latents for language models")
	}
	if !f.soft && kind == CrossAttention {
		return nil
	}
	if err := to.consistent(); err != nil {
		return err
	}
	return sees(kind, width, f.names[0], "this model", to)
}

// Write writes latents for the consumer of that name (see Formats) in to.DType. Nothing is
// written unless every value is finite in that type.
func Write(w io.Writer, name string, l Latents, to Target, x Extra) error {
	f, err := find(name)
	if err != nil {
		return err
	}
	if err := to.consistent(); err != nil {
		return err
	}
	raw, err := weights.Encode(l.Data, to.dtype())
	if err != nil {
		return refuse("%v", err)
	}
	for _, v := range raw.Tensor().Data {
		if v-v != 0 {
			return refuse("a value is not finite as %s", to.dtype())
		}
	}
	return f.write(w, l, to, x)
}

// hfFields are the arguments in which the models of transformers take ready latents.
var hfFields = map[Convention]string{
	Idefics2Text: "image_hidden_states", IdeficsText: "perceiver_embeddings", OpenFlamingoText: "vision_x", MiniCPMVText: "vision_hidden_states",
}

// writeHF writes {"text": placeholders, FIELD: base64 of a torch file}; the text goes where the
// pictures stand in the prompt.
func writeHF(w io.Writer, l Latents, to Target, x Extra) error {
	c := x.Text
	if c == "" {
		c = Idefics2Text
		if l.Kind == CrossAttention {
			c = IdeficsText
		}
	}
	if len(l.Data.Shape) != 3 || len(l.Data.Data) == 0 {
		return refuse("latents of shape %v: want items×latents×width", l.Data.Shape)
	}
	marks, err := Placeholders(c, l.Data.Dim(0), l.Data.Dim(1))
	if err != nil {
		return err
	}
	field, ok := hfFields[c]
	if !ok {
		field = "inputs_embeds"
	}
	t := l.Data
	if l.Kind == CrossAttention { // batch first
		t = t.Reshape(append([]int{1}, t.Shape...)...)
	} else if err := l.check("transformers", to); err != nil {
		return err
	}
	data, err := torchOf(t, to.dtype())
	if err != nil {
		return err
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false) // the text is read by people too
	return enc.Encode(map[string]string{"text": marks, field: data})
}
