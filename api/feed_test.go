package api_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/api"
	"github.com/mmserve/mmserve/internal/feed"
	"github.com/mmserve/mmserve/pipeline"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// towerTokens is a part of the tokens of n pictures for the MiniCPM-V resampler of the
// reference cases, which makes 9 soft tokens of width 32 of each.
func towerTokens(t *testing.T, n int) string {
	t.Helper()
	x := tensor.New(n, 16, 24)
	weights.Uniform(x.Data, "tokens", 0, 0, 1)
	var b bytes.Buffer
	if err := weights.WriteNPY(&b, x, weights.F32); err != nil {
		t.Fatal(err)
	}
	return `{"content":[{"type":"array","data":"` + base64.StdEncoding.EncodeToString(b.Bytes()) + `"}]}`
}

// torchOf reads the torch file inside a payload.
func torchOf(t *testing.T, data string) weights.Raw {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(data)
	if err != nil {
		t.Fatal(err)
	}
	src, err := weights.Parse("x.pt", b)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	for name := range src.Names() {
		raw, err := src.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	t.Fatal("an empty torch file")
	return weights.Raw{}
}

// Every consumer of soft tokens gets over HTTP the numbers that raw holds, items of one and of
// several pictures together.
func TestEveryConsumerOverHTTP(t *testing.T) {
	st := &pipeline.Store{}
	st.Add("minicpmv", reference("resampler/minicpmv-2.6"))
	s := newSite(t, &api.Server{Store: st})
	const head = `"model":"minicpmv","output":["soft_tokens"],`
	one, two := towerTokens(t, 1), towerTokens(t, 2)
	raw := s.want(s.post("/v1/encode", `{`+head+`"format":"raw","inputs":[`+one+`]}`), 200).body
	raw = append(raw, s.want(s.post("/v1/encode", `{`+head+`"format":"raw","inputs":[`+two+`]}`), 200).body...)
	if len(raw) != 4*3*9*32 {
		t.Fatalf("%d bytes", len(raw))
	}
	want := weights.Raw{DType: weights.F32, Shape: []int{3, 9, 32}, Data: raw}.Tensor()
	for _, consumer := range feed.Formats() {
		body := fmt.Sprintf(`{%s"format":"vllm","target":{"format":%q,"hidden_size":32,"image_sizes":[[56,56],[56,28],[28,28]]},"inputs":[%s,%s]}`, head, consumer, one, two)
		a := s.want(s.post("/v1/encode", body), 200)
		var tensors []weights.Raw
		ranks := 2
		switch consumer {
		case "llama.cpp":
			if !bytes.Equal(a.body, raw) {
				t.Errorf("%s: not the bytes of raw", consumer)
			}
			continue
		case "sglang":
			var v struct {
				Rows [][]float32 `json:"input_embeds"`
			}
			if err := json.Unmarshal(a.body, &v); err != nil || !slices.Equal(slices.Concat(v.Rows...), want.Data) || len(v.Rows) != 27 {
				t.Errorf("%s: %d rows, %v", consumer, len(v.Rows), err)
			}
			continue
		case "vllm-image-embeds":
			var v struct {
				Embeds map[string]string `json:"image_embeds"`
			}
			if err := json.Unmarshal(a.body, &v); err != nil {
				t.Fatal(err)
			}
			tensors, ranks = append(tensors, torchOf(t, v.Embeds["image_embeds"])), 3
			if sizes, err := torchOf(t, v.Embeds["image_sizes"]).Ints(); err != nil || !slices.Equal(sizes, []int{56, 56, 56, 28, 28, 28}) {
				t.Errorf("%s: sizes %v, %v", consumer, sizes, err)
			}
		default:
			var v map[string]string
			if err := json.Unmarshal(a.body, &v); err != nil {
				t.Fatal(err)
			}
			for key, field := range v {
				switch key {
				case "type":
				case "text":
					if strings.Count(field, "<unk>") != 27 || strings.Count(field, "<image>") != 3 {
						t.Errorf("%s: placeholders %q", consumer, field)
					}
					ranks = 3
				default:
					tensors = append(tensors, torchOf(t, field))
				}
			}
		}
		if len(tensors) != 1 {
			t.Fatalf("%s: %d tensors", consumer, len(tensors))
		}
		if got := tensors[0]; len(got.Shape) != ranks || !bytes.Equal(got.Data, raw) {
			t.Errorf("%s: %v %v, the same bytes: %v", consumer, got.DType, got.Shape, bytes.Equal(got.Data, raw))
		}
	}
	a := s.want(s.post("/v1/encode", `{`+head+`"dtype":"bf16","inputs":[`+one+`]}`, "Accept", "application/vnd.vllm+json"), 200)
	part, _ := a.json(t)["data"].(string)
	got := torchOf(t, part)
	if got.DType != weights.BF16 || a.header.Get("Content-Type") != "application/vnd.vllm+json" {
		t.Errorf("%v, %s", got.DType, a.header.Get("Content-Type"))
	}
	for i, x := range got.Tensor().Data {
		if y := math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:])); math.Abs(float64(x-y)) > math.Abs(float64(y))/128 {
			t.Fatalf("value %d: %v as bf16, %v", i, x, y)
		}
	}
	for target, want := range map[string]string{
		`{"hidden_size":64}`:      "width 32",
		`{"llm":"Qwen/Qwen2-7B"}`: "3584",
		`{"format":"ollama"}`:     "target.format",
		`{"format":"vllm-image-embeds","image_sizes":[[1,1],[2,2]]}`: "2 picture sizes for 1",
	} {
		a := s.post("/v1/encode", `{`+head+`"format":"vllm","target":`+target+`,"inputs":[`+one+`]}`)
		if a.status < 400 || a.status >= 500 || !strings.Contains(string(a.body), want) {
			t.Errorf("%s: %d %s", target, a.status, a.body)
		}
	}
}
