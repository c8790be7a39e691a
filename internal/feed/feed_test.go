package feed_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/internal/feed"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

var wire = filepath.Join("..", "..", "testdata", "reference", "flamingo", "wire-tensors")

func values(t *testing.T, name string) tensor.Tensor {
	t.Helper()
	src, err := weights.Open(filepath.Join(wire, "values.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	raw, err := src.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	return raw.Tensor()
}

// soft is the reference tensor as one item of five latents of width 8.
func soft(t *testing.T, name string) feed.Latents {
	return feed.Latents{Data: values(t, name).Reshape(1, 5, 8), Kind: feed.SoftTokens, Model: "idefics2-8b"}
}

// open reads the torch file inside a payload.
func open(t *testing.T, data string) weights.Raw {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(data)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "x.pt")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	src, err := weights.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	for name := range src.Names() {
		raw, err := src.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	t.Fatal("an empty file")
	return weights.Raw{}
}

// The payload differs from the reference only in the name of the folder inside the file.
func TestChatPartHoldsTheReferenceTensor(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(wire, "vllm-chat-request.json"))
	if err != nil {
		t.Fatal(err)
	}
	var want struct {
		Messages []struct {
			Content []struct{ Type, Data string }
		}
	}
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	part, err := feed.ChatPart(soft(t, "x_bf16"), feed.Target{Name: "mistral", Hidden: 8}, weights.BF16)
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ Type, Data string }
	if err := json.Unmarshal(part, &got); err != nil {
		t.Fatal(err)
	}
	ref := want.Messages[0].Content[0]
	if got.Type != ref.Type {
		t.Errorf("type %q, want %q", got.Type, ref.Type)
	}
	a, b := open(t, got.Data), open(t, ref.Data)
	if a.DType != b.DType || !slices.Equal(a.Shape, b.Shape) || !bytes.Equal(a.Data, b.Data) {
		t.Errorf("%v %v, want %v %v with the same bytes", a.DType, a.Shape, b.DType, b.Shape)
	}
}

func TestCompletionHoldsTheReferenceTensor(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(wire, "vllm-completions-request.json"))
	if err != nil {
		t.Fatal(err)
	}
	var want, got map[string]any
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	body, err := feed.Completion(values(t, "x_bf16"), feed.Target{}, weights.BF16)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatal(err)
	}
	a, b := open(t, got["prompt_embeds"].(string)), open(t, want["prompt_embeds"].(string))
	if a.DType != b.DType || !slices.Equal(a.Shape, b.Shape) || !bytes.Equal(a.Data, b.Data) {
		t.Errorf("%v %v, want %v %v with the same bytes", a.DType, a.Shape, b.DType, b.Shape)
	}
}

func TestImagePart(t *testing.T) {
	l := soft(t, "x_f16")
	part, err := feed.ImagePart(l, feed.Target{Hidden: 8}, weights.F16, feed.Extra{})
	if err != nil {
		t.Fatal(err)
	}
	var plain struct {
		Type   string
		Embeds string `json:"image_embeds"`
	}
	if err := json.Unmarshal(part, &plain); err != nil || plain.Type != "image_embeds" {
		t.Fatalf("%v: %s", err, part)
	}
	if raw := open(t, plain.Embeds); raw.DType != weights.F16 || !slices.Equal(raw.Shape, []int{1, 5, 8}) {
		t.Errorf("%v %v", raw.DType, raw.Shape)
	}
	part, err = feed.ImagePart(l, feed.Target{}, weights.F32, feed.Extra{Sizes: [][2]int{{640, 480}}, GridTHW: [][3]int{{1, 10, 2}}})
	if err != nil {
		t.Fatal(err)
	}
	var rich struct {
		Embeds map[string]string `json:"image_embeds"`
	}
	if err := json.Unmarshal(part, &rich); err != nil {
		t.Fatal(err)
	}
	sizes := open(t, rich.Embeds["image_sizes"])
	if ids, err := sizes.Ints(); err != nil || !slices.Equal(ids, []int{640, 480}) || sizes.DType != weights.I64 {
		t.Errorf("image_sizes %v %v %v", sizes.DType, ids, err)
	}
	grid := open(t, rich.Embeds["image_grid_thw"])
	if ids, _ := grid.Ints(); !slices.Equal(ids, []int{1, 10, 2}) || !slices.Equal(grid.Shape, []int{1, 3}) {
		t.Errorf("image_grid_thw %v %v", grid.Shape, ids)
	}
	if _, err := feed.ImagePart(l, feed.Target{}, weights.F32, feed.Extra{Sizes: make([][2]int, 2)}); err == nil {
		t.Error("two sizes for one item")
	}
}

func TestLlamaCppAndInputEmbedsKeepEveryBit(t *testing.T) {
	l := soft(t, "x_f32")
	var b bytes.Buffer
	if err := feed.LlamaCpp(&b, l, feed.Target{Hidden: 8}); err != nil {
		t.Fatal(err)
	}
	if b.Len() != 4*40 {
		t.Fatalf("%d bytes", b.Len())
	}
	for i, x := range l.Data.Data {
		if got := binary.LittleEndian.Uint32(b.Bytes()[4*i:]); got != math.Float32bits(x) {
			t.Fatalf("value %d differs", i)
		}
	}
	rows, err := l.Rows(feed.Target{})
	if err != nil {
		t.Fatal(err)
	}
	text, err := feed.Join(rows, rows)
	if err != nil {
		t.Fatal(err)
	}
	body, err := feed.InputEmbeds(text, feed.Target{Hidden: 8})
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		InputEmbeds [][]float32 `json:"input_embeds"`
	}
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.InputEmbeds) != 10 || !slices.Equal(slices.Concat(got.InputEmbeds[5:]...), l.Data.Data) {
		t.Error("numbers changed on the way through JSON")
	}
}

func TestRefusals(t *testing.T) {
	cross := soft(t, "x_f32")
	cross.Kind, cross.Model = feed.CrossAttention, "OpenFlamingo-9B"
	narrow := feed.Target{Name: "Mistral-7B", Hidden: 4096}
	for _, c := range []struct {
		name string
		err  error
		want []string
	}{
		{"chat of cross", second(feed.ChatPart(cross, feed.Target{}, weights.F32)), []string{"cross-attention memory", "OpenFlamingo-9B"}},
		{"image of cross", second(feed.ImagePart(cross, feed.Target{}, weights.F32, feed.Extra{})), []string{"cross-attention memory"}},
		{"llama.cpp of cross", feed.LlamaCpp(&bytes.Buffer{}, cross, feed.Target{}), []string{"llama_batch.embd", "cross-attention"}},
		{"rows of cross", second(cross.Rows(feed.Target{})), []string{"cross-attention"}},
		{"wrong hidden size", second(feed.ChatPart(soft(t, "x_f32"), narrow, weights.F32)), []string{"Mistral-7B", "4096", "width 8"}},
		{"wrong whole prompt", second(feed.InputEmbeds(values(t, "x_f32"), narrow)), []string{"4096", "width 8"}},
		{"mixed widths", second(feed.Join(tensor.New(1, 8), tensor.New(1, 9))), []string{"8", "9"}},
		{"unknown text", second(feed.Placeholders("blip", 1, 1)), []string{"blip"}},
	} {
		var r *feed.Refusal
		if !errors.As(c.err, &r) {
			t.Errorf("%s: %v is no refusal", c.name, c.err)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(r.Reason, w) {
				t.Errorf("%s: %q does not say %q", c.name, r.Reason, w)
			}
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestPlaceholders(t *testing.T) {
	for _, c := range []struct {
		c              feed.Convention
		items, latents int
		want           string
	}{
		{feed.Idefics2Text, 2, 3, "<fake_token_around_image><image><image><image><fake_token_around_image><image><image><image><fake_token_around_image>"},
		{feed.IdeficsText, 2, 64, "<fake_token_around_image><image><fake_token_around_image><image><fake_token_around_image>"},
		{feed.OpenFlamingoText, 1, 64, "<image>"},
		{feed.MiniCPMVText, 1, 2, "<image><unk><unk></image>"},
		{feed.Idefics2Text, 0, 64, ""},
	} {
		if got, err := feed.Placeholders(c.c, c.items, c.latents); err != nil || got != c.want {
			t.Errorf("%s: %q, %v", c.c, got, err)
		}
	}
}

func TestJSONRefusesWhatIsNoNumber(t *testing.T) {
	if _, err := feed.AppendJSON(nil, tensor.Of([]float32{1, float32(math.NaN())}, 2)); err == nil {
		t.Error("NaN passed")
	}
}
