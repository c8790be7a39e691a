package api_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"mime/multipart"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/api"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// only is the one item of an answer.
func only(t *testing.T, a answer) map[string]any {
	t.Helper()
	data := a.json(t)["data"].([]any)
	if len(data) != 1 {
		t.Fatalf("%d items", len(data))
	}
	return data[0].(map[string]any)
}

// words is a value as JSON.
func words(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// taskOf is the prediction without its plan and notes, which tell of the medium.
func taskOf(t *testing.T, item map[string]any) string {
	t.Helper()
	p := item["prediction"].(map[string]any)
	delete(p, "plan")
	delete(p, "notes")
	return words(t, p)
}

// Latents kept in any of our formats, sent in any form, decode to what predict gives of the
// medium, to the bit.
func TestDecodeEqualsPredict(t *testing.T) {
	s := newSite(t, &api.Server{})
	for _, c := range []struct{ file, modality string }{
		{"image/go-video-001.rgb.jpeg", "image"}, {"audio/fsdd-7_george_0.wav", "audio"}, {"pointcloud/pyntcloud-diamond.ply", "point_cloud"}, {"text/udhr_eng.txt", "text"},
	} {
		t.Run(c.file, func(t *testing.T) {
			body := readMedia(t, c.file)
			ask := func(path string, body []byte, headers ...string) answer {
				t.Helper()
				return s.want(s.do("POST", path, body, headers...), 200)
			}
			want := only(t, ask("/v1/predict?caption=true", body))
			var outputs []string
			for _, h := range want["prediction"].(map[string]any)["heads"].([]any) {
				outputs = append(outputs, h.(map[string]any)["task"].(string))
			}
			if want["prediction"].(map[string]any)["caption"] != nil {
				outputs = append(outputs, "caption")
			}
			task, list := taskOf(t, want), strings.Join(outputs, ",")
			same := func(form string, a answer) {
				t.Helper()
				got := only(t, a)
				if g := taskOf(t, got); g != task {
					t.Errorf("%s:\n%.300s\nwant\n%.300s", form, g, task)
				}
				if plan := got["plan"].(map[string]any); plan["modality"] != "latents" || plan["flops"].(float64) <= 0 {
					t.Errorf("%s: plan %v", form, plan)
				}
			}
			kept := only(t, ask("/v1/encode", body))["latents"]
			same("JSON", s.want(s.post("/v1/decode", fmt.Sprintf(`{"inputs":[{"latents":%s}],"output":%s}`, words(t, kept), words(t, outputs))), 200))
			floats := only(t, ask("/v1/encode?encoding=float", body))["latents"]
			same("numbers", s.want(s.post("/v1/decode", fmt.Sprintf(`{"inputs":[{"latents":%s}],"output":%s}`, words(t, floats), words(t, outputs))), 200))
			npy := ask("/v1/encode", body, "Accept", "application/x-npy").body
			same("npy", ask("/v1/decode?output="+list, npy, "Content-Type", "application/x-npy"))
			safe := ask("/v1/encode?output=all", body, "Accept", "application/vnd.safetensors").body
			same("safetensors", ask("/v1/decode?output="+list, safe, "Content-Type", "application/vnd.safetensors"))
			same("unnamed", ask("/v1/decode?output="+list, safe))
			heads := taskOf(t, only(t, ask("/v1/predict", body)))
			if got := taskOf(t, only(t, ask("/v1/decode?modality="+c.modality, safe))); got != heads {
				t.Errorf("of %s:\n%.300s\nwant\n%.300s", c.modality, got, heads)
			}
			same("multipart", s.multipart("/v1/decode?output="+list, "a", npy))
		})
	}
}

// multipart sends files as parts: name, content, ….
func (s *site) multipart(path string, parts ...any) answer {
	s.t.Helper()
	var form bytes.Buffer
	mw := multipart.NewWriter(&form)
	for i := 0; i < len(parts); i += 2 {
		w, err := mw.CreateFormFile(parts[i].(string), "file")
		if err != nil {
			s.t.Fatal(err)
		}
		w.Write(parts[i+1].([]byte))
	}
	mw.Close()
	return s.want(s.do("POST", path, form.Bytes(), "Content-Type", mw.FormDataContentType()), 200)
}

func npy(t *testing.T, dt weights.DType, values tensor.Tensor) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := weights.WriteNPY(&b, values, dt); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// small holds small numbers; b64 is them as a JSON tensor.
func small(shape ...int) tensor.Tensor {
	v := tensor.New(shape...)
	for i := range v.Data {
		v.Data[i] = float32(i%23)/16 - 0.5
	}
	return v
}

func b64(t *testing.T, v tensor.Tensor) string {
	t.Helper()
	raw, err := weights.Encode(v, weights.F32)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`{"shape":%s,"dtype":"f32","order":"row-major","endian":"little","data":%q}`, words(t, v.Shape), base64.StdEncoding.EncodeToString(raw.Data))
}

// Several latents of one file are several items; a bad one fails alone, in its place.
func TestDecodeBatches(t *testing.T) {
	s := newSite(t, &api.Server{})
	want := taskOf(t, only(t, s.want(s.do("POST", "/v1/decode?model=mlm&positions=3", npy(t, weights.F32, small(8, 32))), 200)))
	stack := tensor.New(3, 8, 32)
	for i := range 3 {
		copy(stack.At(i).Data, small(8, 32).Data)
	}
	all := s.want(s.do("POST", "/v1/decode?model=mlm&positions=3", npy(t, weights.F32, stack)), 200).json(t)["data"].([]any)
	if len(all) != 3 {
		t.Fatalf("%d items", len(all))
	}
	for i, got := range all {
		if taskOf(t, got.(map[string]any)) != want {
			t.Errorf("item %d: %v", i, got)
		}
	}
	good := `{"id":"g","latents":` + b64(t, small(8, 32)) + `}`
	poison := map[string]string{
		"missing":   `{}`,
		"shape":     `{"latents":{"shape":[8,-1],"data":"AAAA"}}`,
		"huge":      `{"latents":{"shape":[1048576,1048576,1048576,1048576],"data":"AAAA"}}`,
		"rank":      `{"latents":{"shape":[],"data":"AAAA"}}`,
		"dtype":     `{"latents":{"shape":[8,32],"dtype":"i8","data":"AAAA"}}`,
		"order":     `{"latents":{"shape":[1],"order":"column-major","data":"AAAA"}}`,
		"endian":    `{"latents":{"shape":[1],"endian":"big","data":"AAAA"}}`,
		"size":      `{"latents":{"shape":[8,32],"data":"AAAA"}}`,
		"base64":    `{"latents":{"shape":[8,32],"data":"!"}}`,
		"words":     `{"latents":{"shape":[2],"data":["a","b"]}}`,
		"count":     `{"latents":{"shape":[2],"data":[1]}}`,
		"overflow":  `{"latents":{"shape":[1],"data":[1e39]}}`,
		"not whole": `{"latents":` + b64(t, small(8, 31)) + `}`,
		"nan":       `{"latents":` + b64(t, constant(float32(math.NaN()), 8, 32)) + `}`,
		"infinite":  `{"latents":` + b64(t, constant(3e38, 8, 32)) + `}`,
		"content":   `{"latents":` + b64(t, small(8, 32)) + `,"content":[{"type":"image"}]}`,
	}
	for name, bad := range poison {
		t.Run(name, func(t *testing.T) {
			a := s.want(s.post("/v1/decode", `{"model":"mlm","positions":[3],"inputs":[`+good+`,`+bad+`,`+good+`]}`), 200).json(t)
			data := a["data"].([]any)
			if a["errors"] != 1.0 || len(data) != 3 {
				t.Fatalf("%v errors among %d", a["errors"], len(data))
			}
			failed := data[1].(map[string]any)["error"].(map[string]any)
			if status := failed["status"].(float64); status < 400 || status >= 500 {
				t.Errorf("%v", failed)
			}
			for _, i := range []int{0, 2} {
				got := data[i].(map[string]any)
				if got["id"] != "g" || taskOf(t, got) != want {
					t.Errorf("item %d: %v", i, got)
				}
			}
			alone := s.post("/v1/decode", `{"model":"mlm","positions":[3],"inputs":[`+bad+`]}`)
			if alone.status != int(failed["status"].(float64)) || alone.code(t) != failed["code"] {
				t.Errorf("alone %d %s, among others %v", alone.status, alone.body, failed)
			}
		})
	}
}

func constant(x float32, shape ...int) tensor.Tensor {
	v := tensor.New(shape...)
	for i := range v.Data {
		v.Data[i] = x
	}
	return v
}

// Queries of one's own come as JSON, as a file beside the latents, or within one safetensors file;
// the answers go out in every format.
func TestDecodeQueries(t *testing.T) {
	s := newSite(t, &api.Server{})
	info := s.want(s.do("GET", "/v1/models/mlm", nil), 200).json(t)
	if info["info"] == nil {
		s.want(s.post("/v1/encode", texts(`"model":"mlm",`, "a")), 200)
		info = s.want(s.do("GET", "/v1/models/mlm", nil), 200).json(t)
	}
	e := int(info["info"].(map[string]any)["query_dim"].(float64))
	latents, queries := small(8, 32), small(5, e)
	var both bytes.Buffer
	if err := weights.WriteSafetensors(&both, map[string]tensor.Tensor{"latents": latents, "queries": queries}, weights.F32, nil); err != nil {
		t.Fatal(err)
	}
	body := `{"model":"mlm","inputs":[{"latents":` + b64(t, latents) + `}],"queries":` + b64(t, queries) + `}`
	want := only(t, s.want(s.post("/v1/decode", body), 200))["answers"].(map[string]any)
	if shape := want["shape"].([]any); shape[0] != 5.0 {
		t.Errorf("answers %v", shape)
	}
	file := only(t, s.want(s.do("POST", "/v1/decode?model=mlm", both.Bytes()), 200))["answers"]
	parts := only(t, s.multipart("/v1/decode?model=mlm", "a", npy(t, weights.F32, latents), "queries", npy(t, weights.F32, queries)))["answers"]
	if words(t, file) != words(t, want) || words(t, parts) != words(t, want) {
		t.Error("the forms differ")
	}
	raw, _ := base64.StdEncoding.DecodeString(want["data"].(string))
	for _, format := range []string{"npy", "raw", "safetensors"} {
		if got := s.want(s.post("/v1/decode", `{"format":"`+format+`",`+body[1:]), 200).body; !bytes.Contains(got, raw) {
			t.Errorf("%s: other values", format)
		}
	}
}

// A text that goes along says where the masks are; lines come as items are done.
func TestDecodeContent(t *testing.T) {
	s := newSite(t, &api.Server{})
	const text = `"content":[{"type":"text","text":"a[MASK]c"}]`
	for _, model := range []string{"mlm", "default"} {
		head := `{"model":"` + model + `","inputs":[{`
		want := only(t, s.want(s.post("/v1/predict", head+text+`}]}`), 200))
		latents := words(t, only(t, s.want(s.post("/v1/encode", head+text+`}]}`), 200))["latents"])
		body := head + `"latents":` + latents + `,` + text + `}]}`
		if got := taskOf(t, only(t, s.want(s.post("/v1/decode", body), 200))); got != taskOf(t, want) || !strings.Contains(got, `"masks"`) {
			t.Errorf("%s: %.300s", model, got)
		}
		a := s.want(s.post("/v1/decode", body, "Accept", "application/x-ndjson"), 200)
		var line map[string]any
		if err := json.Unmarshal(a.body, &line); err != nil || taskOf(t, line) == "" || a.header.Get("X-Model-Digest") == "" {
			t.Errorf("%s: %v: %s", model, err, a.body)
		}
	}
	picture := base64.StdEncoding.EncodeToString(readMedia(t, "image/go-video-001.rgb.jpeg"))
	a := s.post("/v1/decode", `{"inputs":[{"latents":`+b64(t, small(16, 256))+`,"content":[{"type":"image","data":"`+picture+`"}]}]}`)
	if a.status != 422 || a.code(t) != "input_mismatch" || !strings.Contains(string(a.body), "only a text is read") {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// Files that hold no latents of this model are refused whole, by what they are.
func TestDecodeRefuses(t *testing.T) {
	s := newSite(t, &api.Server{})
	var foreign bytes.Buffer
	if err := weights.WriteSafetensors(&foreign, map[string]tensor.Tensor{"0.latents": small(8, 32)}, weights.F32, map[string]string{"model_digest": "sha256:0123"}); err != nil {
		t.Fatal(err)
	}
	good := npy(t, weights.F32, small(8, 32))
	for _, c := range []struct {
		name, path, kind string
		body             []byte
		status           int
		code, says       string
	}{
		{"another model's", "?model=mlm", "", foreign.Bytes(), 422, "input_mismatch", "sha256:0123"},
		{"another digest", "?model=mlm&positions=1&model_digest=sha256:77", "", good, 422, "input_mismatch", "sha256:77"},
		{"no decoder", "?model=bare", "", good, 422, "no_such_task", "bare"},
		{"no model", "?model=none", "", good, 404, "not_found", "none"},
		{"a picture", "?model=mlm", "image/jpeg", good, 415, "unsupported_media_type", "application/x-npy"},
		{"a form", "?model=mlm", "application/x-www-form-urlencoded", good, 415, "unsupported_media_type", "JSON"},
		{"text", "?model=mlm", "", []byte("hello, world"), 415, "unsupported", "neither"},
		{"nothing", "?model=mlm", "", []byte{}, 415, "unsupported", "neither"},
		{"cut npy", "?model=mlm", "", good[:200], 422, "malformed", "npy"},
		{"cut safetensors", "?model=mlm", "", foreign.Bytes()[:40], 422, "malformed", "safetensors"},
		{"no latents", "?model=mlm", "", func() []byte {
			var b bytes.Buffer
			weights.WriteSafetensors(&b, map[string]tensor.Tensor{"0.pooled": small(3)}, weights.F32, nil)
			return b.Bytes()
		}(), 400, "bad_request", "inputs"},
		{"integers", "?model=mlm", "", func() []byte {
			var b bytes.Buffer
			weights.WriteNPYRaw(&b, weights.Raw{DType: "U8", Shape: []int{8, 32}, Data: make([]byte, 256)})
			return b.Bytes()
		}(), 422, "mismatch", "floating point"},
		{"parameter", "?model=mlm&caption=true", "", good, 400, "bad_request", "caption"},
		{"positions", "?model=mlm&positions=a", "", good, 400, "bad_request", "positions"},
		{"modality", "?model=mlm&positions=1&modality=smell", "", good, 422, "input_mismatch", "want one of text"},
		{"output", "?model=mlm&output=flow", "", good, 422, "no_such_task", "masks, logits, answers"},
		{"format", "?model=mlm&positions=1&format=npy", "", good, 400, "bad_request", "0 tensors"},
		{"JSON", "", "application/json", []byte(`{"inputs":[{"latents":{"shape":[1],"data":[1]},"text":"a"}]}`), 400, "bad_request", "text"},
		{"no inputs", "", "application/json", []byte(`{}`), 400, "bad_request", "inputs"},
		{"queries", "", "application/json", []byte(`{"queries":{"shape":[1],"data":"?"},"inputs":[]}`), 400, "bad_request", "queries.data"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var headers []string
			if c.kind != "" {
				headers = []string{"Content-Type", c.kind}
			}
			a := s.do("POST", "/v1/decode"+c.path, c.body, headers...)
			if a.status != c.status || a.code(t) != c.code || !strings.Contains(string(a.body), c.says) {
				t.Errorf("%d %s, want %d %s with %q", a.status, a.body, c.status, c.code, c.says)
			}
		})
	}
	many := newSite(t, &api.Server{MaxItems: 2})
	if a := many.do("POST", "/v1/decode?model=mlm", npy(t, weights.F32, tensor.New(3, 8, 32))); a.status != 413 {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// Decoding waits its turn in the queue, and ends with its deadline.
func TestDecodeIsAdmitted(t *testing.T) {
	f := newFake(1e9)
	s := newSite(t, &api.Server{Store: f.store(), Slots: 1, Capacity: 1e9})
	block, quick := npy(t, weights.F32, constant(-1, 1, 2)), npy(t, weights.F32, constant(1, 1, 2))
	a := s.do("POST", "/v1/decode?deadline_ms=50", block)
	if a.status != 504 || a.code(t) != "deadline_exceeded" {
		t.Errorf("%d %s", a.status, a.body)
	}
	<-f.started
	go s.do("POST", "/v1/decode", block)
	<-f.started
	if a := s.do("POST", "/v1/decode", quick); a.status != 503 || a.header.Get("Retry-After") == "" {
		t.Errorf("%d %s", a.status, a.body)
	}
	close(f.gate)
}
