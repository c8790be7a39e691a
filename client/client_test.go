package client_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/mmserve/mmserve/api"
	"github.com/mmserve/mmserve/client"
	"github.com/mmserve/mmserve/models"
	"github.com/mmserve/mmserve/pipeline"
)

// server serves the model in the binary.
func server() *httptest.Server {
	st := &pipeline.Store{}
	st.Add("default", func(ctx context.Context) (pipeline.Model, error) {
		return pipeline.OpenFS(ctx, models.Default(), pipeline.Options{})
	})
	return httptest.NewServer((&api.Server{Store: st}).Handler())
}

func Example() {
	s := server()
	defer s.Close()
	c := client.Client{URL: s.URL}
	picture, err := os.ReadFile("../testdata/media/image/go-video-001.rgb.jpeg")
	if err != nil {
		fmt.Println(err)
		return
	}
	doc, err := c.Encode(context.Background(), client.Request{
		Inputs: []client.Item{client.Media("image", picture), client.Text("a stage with two people")},
		Output: []string{"latents", "pooled"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, r := range doc.Data {
		values, err := r.Latents.Float32s()
		fmt.Println(r.Plan.Modality, r.Status, len(values) == r.Latents.Shape[0]*r.Latents.Shape[1], err)
	}
	// Output:
	// image ok true <nil>
	// text ok true <nil>
}

func ExampleClient_Decode() {
	s := server()
	defer s.Close()
	c := client.Client{URL: s.URL}
	ctx := context.Background()
	encoded, err := c.Encode(ctx, client.Request{Inputs: []client.Item{client.Text("play some jazz")}})
	if err != nil {
		fmt.Println(err)
		return
	}
	kept := encoded.Data[0].Latents // as long as one likes; the text is not needed any more
	doc, err := c.Decode(ctx, client.DecodeRequest{
		ModelDigest: encoded.Digest, Inputs: []client.Kept{{Latents: kept}}, Output: []string{"snips"}, Top: 1,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, head := range doc.Data[0].Prediction.Heads {
		fmt.Println(head.Task, head.Classes[0].Label)
	}
	// Output:
	// snips PlayMusic
}

// Queries of one's own are answered one row each, the same by themselves.
func TestDecodeQueries(t *testing.T) {
	s := server()
	defer s.Close()
	c := client.Client{URL: s.URL}
	encoded, err := c.Encode(t.Context(), client.Request{Inputs: []client.Item{client.Text("hello")}})
	if err != nil {
		t.Fatal(err)
	}
	latents := encoded.Data[0].Latents
	width := latents.Shape[1]
	ask := func(queries []float32) []float32 {
		t.Helper()
		doc, err := c.Decode(t.Context(), client.DecodeRequest{
			Inputs: []client.Kept{{Latents: latents}}, Queries: client.NewTensor(queries, len(queries)/width, width),
		})
		if err != nil {
			t.Fatal(err)
		}
		values, err := doc.Data[0].Answers.Float32s()
		if err != nil {
			t.Fatal(err)
		}
		return values
	}
	queries := make([]float32, 2*width)
	for i := range queries {
		queries[i] = float32(i%7) - 3
	}
	both := ask(queries)
	if first, second := ask(queries[:width]), ask(queries[width:]); !slices.Equal(both, slices.Concat(first, second)) {
		t.Error("two queries answer otherwise than each by itself")
	}
}

func ExampleClient_Do() {
	s := server()
	defer s.Close()
	c := client.Client{URL: s.URL}
	npy, err := c.Do(context.Background(), "/v1/encode", "text/plain", []byte("hello"), url.Values{"format": {"npy"}, "dtype": {"f16"}})
	fmt.Printf("%q %v\n", npy[:6], err)
	// Output: "\x93NUMPY" <nil>
}

func TestClient(t *testing.T) {
	s := server()
	defer s.Close()
	c := client.Client{URL: s.URL + "/"}
	ctx := t.Context()
	list, err := c.Models(ctx)
	if err != nil || len(list) != 1 || list[0].ID != "default" {
		t.Errorf("models %v, %v", list, err)
	}
	plan, err := c.Plan(ctx, client.Request{Inputs: []client.Item{client.Text("hello")}})
	if err != nil || plan.Data[0].Plan.FLOPs <= 0 || plan.Data[0].EstimatedMS <= 0 || !plan.Data[0].Admitted {
		t.Errorf("plan %+v, %v", plan, err)
	}
	p, err := c.Predict(ctx, client.Request{Inputs: []client.Item{client.Text("hello")}, Top: 2})
	if err != nil || len(p.Data[0].Prediction.Heads) == 0 {
		t.Errorf("predict: %v", err)
	}
	bad, err := c.Encode(ctx, client.Request{Inputs: []client.Item{client.Text("hello"), client.Media("image", []byte("no image"))}})
	if err != nil || bad.Errors != 1 || bad.Data[1].Error == nil || bad.Data[1].Error.Code == "" {
		t.Errorf("a bad item: %+v, %v", bad, err)
	}
	var e *client.Error
	if _, err := c.Encode(ctx, client.Request{Model: "none"}); !errors.As(err, &e) || e.Status != 400 && e.Status != 404 {
		t.Errorf("%v", err)
	}
	want, err := c.Encode(ctx, client.Request{Inputs: []client.Item{client.Text("hello")}})
	if err != nil {
		t.Fatal(err)
	}
	full, err := want.Data[0].Latents.Float32s()
	if err != nil {
		t.Fatal(err)
	}
	for dtype, tolerance := range map[string]float64{"f16": 1e-3, "bf16": 1e-2} {
		got, err := c.Encode(ctx, client.Request{Inputs: []client.Item{client.Text("hello")}, DType: dtype})
		if err != nil {
			t.Fatal(err)
		}
		values, err := got.Data[0].Latents.Float32s()
		if err != nil {
			t.Fatal(err)
		}
		for i := range full {
			if d := math.Abs(float64(values[i] - full[i])); d > tolerance*(1+math.Abs(float64(full[i]))) {
				t.Fatalf("%s: value %d is %g, want %g", dtype, i, values[i], full[i])
			}
		}
	}
}

func TestGenerate(t *testing.T) {
	s := server()
	defer s.Close()
	c := client.Client{URL: s.URL}
	drawing := client.Part{Type: "image", Data: read(t, "../testdata/samples/emoji-1f475.png")}
	g, err := c.Generate(t.Context(), client.Prompt{Content: []client.Part{drawing}, MaxTokens: 5})
	if err != nil || g.Text == "" || g.Tokens < 1 || g.Tokens > 5 || g.Stop == "" {
		t.Errorf("%+v, %v", g, err)
	}
	p, err := c.Predict(t.Context(), client.Request{Inputs: []client.Item{{Content: []client.Part{drawing}}}, Caption: true})
	if err != nil || p.Data[0].Prediction.Caption == "" {
		t.Errorf("caption: %+v, %v", p, err)
	}
	drawing.Data, drawing.URL = nil, "data:image/png;base64,"+base64.StdEncoding.EncodeToString(drawing.Data)
	same, err := c.Generate(t.Context(), client.Prompt{Content: []client.Part{drawing}, MaxTokens: 5})
	if err != nil || *same != *g {
		t.Errorf("by URL %+v, %v; want %+v", same, err, g)
	}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRetries(t *testing.T) {
	var n atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if n.Add(1) < 3 {
			w.WriteHeader(503)
			json.NewEncoder(w).Encode(client.Error{Code: "saturated", RetryAfter: 1})
			return
		}
		fmt.Fprint(w, `{}`)
	}))
	defer s.Close()
	if err := (&client.Client{URL: s.URL, Retries: 1}).Ready(t.Context()); err == nil {
		t.Error("one retry was enough for two refusals")
	}
	n.Store(0)
	if err := (&client.Client{URL: s.URL, Retries: 2}).Ready(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestTensorsThatLie(t *testing.T) {
	if _, err := (*client.Tensor)(nil).Float32s(); err == nil {
		t.Error("a tensor that is not there has values")
	}
	for _, text := range []string{
		`{"shape":[2],"dtype":"f32","data":"AAAA"}`, `{"shape":[1],"dtype":"f9","data":"AAAAAA=="}`,
		`{"shape":[1],"dtype":"f32","data":"??"}`, `{"shape":[1],"dtype":"f32","data":{}}`, `{"shape":[1],"dtype":"f32"}`,
	} {
		var tn client.Tensor
		if err := json.Unmarshal([]byte(text), &tn); err != nil {
			t.Fatal(err)
		}
		if v, err := tn.Float32s(); err == nil {
			t.Errorf("%s gave %v", text, v)
		}
	}
}
