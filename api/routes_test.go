package api_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"mime/multipart"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/api"
	"github.com/mmserve/mmserve/weights"
)

// The four media, each as a raw body, through the model in the binary.
func TestRawBodies(t *testing.T) {
	s := newSite(t, &api.Server{})
	for _, c := range []struct{ file, kind, modality string }{
		{"image/go-video-001.rgb.jpeg", "image/jpeg", "image"},
		{"audio/fsdd-7_george_0.wav", "audio/wav", "audio"},
		{"pointcloud/pyntcloud-diamond.ply", "application/x-ply", "pointcloud"},
		{"text/udhr_eng.txt", "text/plain", "text"},
	} {
		t.Run(c.modality, func(t *testing.T) {
			body := readMedia(t, c.file)
			a := s.want(s.do("POST", "/v1/encode?output=latents,pooled,attention,byte_array&latent=0&encoding=float", body, "Content-Type", c.kind), 200)
			item := a.json(t)["data"].([]any)[0].(map[string]any)
			plan := item["plan"].(map[string]any)
			if plan["modality"] != c.modality || plan["flops"].(float64) <= 0 {
				t.Errorf("plan %v", plan)
			}
			shape := func(name string) []any { return item[name].(map[string]any)["shape"].([]any) }
			rows := shape("byte_array")[0].(float64)
			if len(shape("latents")) != 2 || len(shape("pooled")) != 1 || shape("attention")[0] != rows {
				t.Errorf("shapes %v %v %v, rows %v", shape("latents"), shape("pooled"), shape("attention"), rows)
			}
			var sum float64
			for _, v := range item["attention"].(map[string]any)["data"].([]any) {
				sum += v.(float64)
			}
			if math.Abs(sum-1) > 1e-4 {
				t.Errorf("attention sums to %g", sum)
			}
			if a.header.Get("Server-Timing") == "" || a.header.Get("X-Request-Id") == "" {
				t.Error("no Server-Timing or X-Request-Id")
			}
			p := s.want(s.do("POST", "/v1/predict?top=2", body, "Content-Type", c.kind), 200).json(t)
			pred := p["data"].([]any)[0].(map[string]any)["prediction"].(map[string]any)
			if len(pred["heads"].([]any)) == 0 {
				t.Errorf("prediction %v", pred)
			}
			pl := s.want(s.do("POST", "/v1/plan", body), 200).json(t) // no type: recognised by its bytes
			if got := pl["data"].([]any)[0].(map[string]any)["plan"].(map[string]any)["modality"]; got != c.modality {
				t.Errorf("recognised as %v", got)
			}
		})
	}
}

// A reference model's task, by JSON.
func TestFillMask(t *testing.T) {
	s := newSite(t, &api.Server{})
	a := s.want(s.post("/v1/predict", texts(`"model":"mlm","top":3,`, "abc[MASK]def")), 200).json(t)
	p := a["data"].([]any)[0].(map[string]any)["prediction"].(map[string]any)
	masks := p["masks"].([]any)
	if len(masks) != 1 || len(masks[0].(map[string]any)["candidates"].([]any)) != 3 {
		t.Errorf("masks %v", masks)
	}
}

// One request in each of the three forms gives the same numbers.
func TestThreeForms(t *testing.T) {
	s := newSite(t, &api.Server{})
	wav := readMedia(t, "audio/fsdd-7_george_0.wav")
	latents := func(a answer) string {
		item := s.want(a, 200).json(t)["data"].([]any)[0].(map[string]any)
		return item["latents"].(map[string]any)["data"].(string)
	}
	raw := latents(s.do("POST", "/v1/encode", wav, "Content-Type", "audio/wav"))
	b64 := base64.StdEncoding.EncodeToString(wav)
	if got := latents(s.post("/v1/encode", `{"inputs":[{"content":[{"type":"audio","data":"`+b64+`"}]}]}`)); got != raw {
		t.Error("JSON differs from the raw body")
	}
	if got := latents(s.post("/v1/encode", `{"inputs":[{"content":[{"type":"input_audio","input_audio":{"data":"`+b64+`","format":"wav"}}]}]}`)); got != raw {
		t.Error("input_audio differs from the raw body")
	}
	var form bytes.Buffer
	mw := multipart.NewWriter(&form)
	mw.WriteField("request", `{"output":["latents"]}`)
	p, _ := mw.CreatePart(textproto.MIMEHeader{"Content-Disposition": {`form-data; name="a"; filename="x.wav"`}, "Content-Type": {"audio/wav"}})
	p.Write(wav)
	mw.Close()
	if got := latents(s.do("POST", "/v1/encode", form.Bytes(), "Content-Type", mw.FormDataContentType())); got != raw {
		t.Error("multipart differs from the raw body")
	}
}

// Every format holds the same latents.
func TestFormats(t *testing.T) {
	s := newSite(t, &api.Server{})
	body := texts("", "hello")
	base := s.want(s.post("/v1/encode", body, "Accept", "application/octet-stream"), 200).body
	js := s.want(s.post("/v1/encode", body), 200).json(t)
	data, _ := base64.StdEncoding.DecodeString(js["data"].([]any)[0].(map[string]any)["latents"].(map[string]any)["data"].(string))
	if !bytes.Equal(data, base) {
		t.Error("JSON differs from raw")
	}
	for accept, check := range map[string]func(answer) bool{
		"application/x-npy": func(a answer) bool {
			return bytes.HasSuffix(a.body, base) && bytes.HasPrefix(a.body, []byte("\x93NUMPY"))
		},
		"application/vnd.safetensors": func(a answer) bool {
			return bytes.Contains(a.body, base) && bytes.Contains(a.body, []byte(`"0.latents"`))
		},
		"application/vnd.pytorch": func(a answer) bool { return bytes.Contains(a.body, base) && bytes.HasPrefix(a.body, []byte("PK")) },
		"application/x-ndjson":    func(a answer) bool { return bytes.Count(a.body, []byte("\n")) == 1 && json.Valid(a.body) },
	} {
		a := s.want(s.post("/v1/encode", body, "Accept", accept), 200)
		if a.header.Get("Content-Type") != accept || !check(a) {
			t.Errorf("%s: %s, %.60q", accept, a.header.Get("Content-Type"), a.body)
		}
	}
	for _, dt := range []weights.DType{"f16", "bf16"} {
		a := s.want(s.post("/v1/encode", texts(`"format":"raw","dtype":"`+string(dt)+`",`, "hello")), 200)
		if len(a.body) != len(base)/2 {
			t.Errorf("%s: %d bytes, want %d", dt, len(a.body), len(base)/2)
		}
	}
	for extra, field := range map[string]string{
		`"format":"bmp",`: "format", `"dtype":"f8",`: "dtype", `"encoding":"hex",`: "encoding", `"output":["x"],`: "output", `"deadline_ms":-1,`: "deadline_ms",
	} {
		a := s.post("/v1/encode", texts(extra, "hello"))
		if a.status != 400 || a.json(t)["field"] != field {
			t.Errorf("%s: %d %s", extra, a.status, a.body)
		}
	}
	if a := s.post("/v1/encode", texts(`"format":"npy",`, "a", "b")); a.status != 400 {
		t.Errorf("two items as npy: %d", a.status)
	}
	if a := s.post("/v1/encode", texts(`"format":"vllm","output":["soft_tokens"],`, "a")); a.status != 422 || a.code(t) != "input_mismatch" {
		t.Errorf("cross-attention latents as vLLM parts: %d %s", a.status, a.body)
	}
}

// An answer in the form of the Open Inference Protocol holds what the same answer in safetensors does,
// with the items that failed.
func TestOpenInferenceFormat(t *testing.T) {
	s := newSite(t, &api.Server{})
	for _, dtype := range []string{"f32", "f16", "bf16"} {
		body := strings.Replace(texts(`"output":["latents","pooled"],"dtype":"`+dtype+`","format":"FORMAT",`, "one", "two", ""), `"text":""`, `"data":"!"`, 1)
		ask := func(format string) answer {
			return s.want(s.post("/v1/encode", strings.Replace(body, "FORMAT", format, 1)), 200)
		}
		file, err := weights.Parse("x.safetensors", ask("safetensors").body)
		if err != nil {
			t.Fatal(err)
		}
		a := ask("oip")
		n, err := strconv.Atoi(a.header.Get("Inference-Header-Content-Length"))
		if err != nil || a.header.Get("Content-Type") != "application/octet-stream" {
			t.Fatalf("%v %v", err, a.header)
		}
		var head struct {
			ID         string            `json:"id"`
			Model      string            `json:"model_name"`
			Parameters map[string]string `json:"parameters"`
			Outputs    []struct {
				Name, Datatype string
				Shape          []int
				Parameters     struct {
					Size int `json:"binary_data_size"`
				}
			}
		}
		if err := json.Unmarshal(a.body[:n], &head); err != nil {
			t.Fatal(err)
		}
		values := a.body[n:]
		for _, o := range head.Outputs {
			raw, err := file.Load(o.Name)
			if err != nil || o.Parameters.Size > len(values) {
				t.Fatalf("%+v: %v", o, err)
			}
			if o.Datatype != map[string]string{"f32": "FP32", "f16": "FP16", "bf16": "BF16"}[dtype] || !slices.Equal(o.Shape, raw.Shape) || !bytes.Equal(values[:o.Parameters.Size], raw.Data) {
				t.Errorf("%s: %+v differs from safetensors %v", dtype, o, raw.Shape)
			}
			values = values[o.Parameters.Size:]
		}
		if len(head.Outputs) != file.Len() || file.Len() != 4 || len(values) != 0 || head.ID == "" || head.Model == "" || head.Parameters["2.error"] == "" {
			t.Errorf("%s: %+v, %d bytes more", dtype, head, len(values))
		}
	}
}

func TestModelsAndModalities(t *testing.T) {
	s := newSite(t, &api.Server{})
	list := s.want(s.do("GET", "/v1/models", nil), 200).json(t)["data"].([]any)
	if len(list) != 3 {
		t.Errorf("%d models", len(list))
	}
	if a := s.do("GET", "/v1/models/none", nil); a.status != 404 {
		t.Errorf("unknown model: %d", a.status)
	}
	s.want(s.post("/admin/v1/models/mlm/load", ""), 200)
	one := s.want(s.do("GET", "/v1/models/mlm", nil), 200).json(t)
	if one["state"] != "loaded" {
		t.Errorf("state %v", one["state"])
	}
	digest := one["info"].(map[string]any)["digest"]
	if d, ok := digest.(string); ok && d != "" {
		s.want(s.post("/v1/encode", texts(`"model":"mlm@`+d+`",`, "abc")), 200)
	}
	s.want(s.post("/v1/encode", texts(`"model":"mlm@sha256:00",`, "abc")), 404)
	s.want(s.post("/admin/v1/models/mlm/reload", ""), 200)
	s.want(s.post("/admin/v1/models/mlm/unload", ""), 200)
	for _, m := range s.want(s.do("GET", "/v1/modalities", nil), 200).json(t)["data"].([]any) {
		if _, ok := m.(map[string]any)["options"]; !ok {
			t.Errorf("modality without options: %v", m)
		}
	}
}

func TestEmbeddings(t *testing.T) {
	s := newSite(t, &api.Server{})
	a := s.want(s.post("/v1/embeddings", `{"input":["hello","world"]}`), 200).json(t)
	data := a["data"].([]any)
	if len(data) != 2 {
		t.Fatalf("%d embeddings", len(data))
	}
	v := data[0].(map[string]any)["embedding"].([]any)
	var norm float64
	for _, x := range v {
		norm += x.(float64) * x.(float64)
	}
	if math.Abs(norm-1) > 1e-5 {
		t.Errorf("length² %g", norm)
	}
	b := s.want(s.post("/v1/embeddings", `{"input":"hello","encoding_format":"base64"}`), 200).json(t)
	raw, err := base64.StdEncoding.DecodeString(b["data"].([]any)[0].(map[string]any)["embedding"].(string))
	if err != nil || len(raw) != 4*len(v) {
		t.Fatalf("base64: %v, %d bytes", err, len(raw))
	}
	for i := range v {
		if f := math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:])); f != float32(v[i].(float64)) {
			t.Fatalf("value %d: %g, want %g", i, f, v[i])
		}
	}
	c := s.want(s.post("/v1/embeddings", `{"input":"hello","dimensions":8}`), 200).json(t)
	if n := len(c["data"].([]any)[0].(map[string]any)["embedding"].([]any)); n != 8 {
		t.Errorf("%d dimensions, want 8", n)
	}
	for _, bad := range []string{`{"input":[1,2]}`, `{"input":[]}`, `{}`, `{"input":"a","dimensions":-1}`, `{"input":"a","dimensions":1000000}`, `{"input":"a","encoding_format":"x"}`, `{"input":"a"} {}`, `{"input":"a","surprise":1}`} {
		a := s.want(s.post("/v1/embeddings", bad), 400).json(t)
		if e := a["error"].(map[string]any); e["message"] == "" || e["type"] != "invalid_request_error" {
			t.Errorf("%s: %v", bad, a)
		}
	}
}

func TestChatWithoutALanguageModel(t *testing.T) {
	s := newSite(t, &api.Server{})
	a := s.want(s.post("/v1/chat/completions", `{"model":"mlm","messages":[{"role":"user","content":"hi"}]}`), 422).json(t)
	if a["error"].(map[string]any)["code"] != "no_such_task" {
		t.Errorf("%v", a)
	}
	s.want(s.post("/v1/generate", `{"model":"mlm","prompt":"hi"}`), 422)
	s.want(s.post("/v1/generate", `{"prompt":"hi","max_tokens":100000}`), 400)
	s.want(s.post("/v1/chat/completions", `{"messages":[]}`), 400)
	s.want(s.post("/v1/chat/completions", `{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"http://127.0.0.1/x.png"}}]}]}`), 400)
}

func TestOpenInference(t *testing.T) {
	s := newSite(t, &api.Server{})
	s.want(s.do("GET", "/v2", nil), 200)
	s.want(s.do("GET", "/v2/health/live", nil), 200)
	meta := s.want(s.do("GET", "/v2/models/default", nil), 200).json(t)
	if meta["platform"] == "" {
		t.Errorf("metadata %v", meta)
	}
	s.want(s.do("GET", "/v2/models/default/ready", nil), 200)
	s.want(s.do("GET", "/v2/models/none/ready", nil), 404)
	version := meta["versions"].([]any)[0].(string)
	s.want(s.do("GET", "/v2/models/default/versions/"+version+"/ready", nil), 200)
	s.want(s.do("GET", "/v2/models/default/versions/0123/ready", nil), 404)
	js := s.want(s.post("/v2/models/default/infer", `{"id":"7","inputs":[{"name":"text","datatype":"BYTES","shape":[2],"data":["hello","worlds"]}],"outputs":[{"name":"pooled"}]}`), 200).json(t)
	if js["id"] != "7" || js["model_name"] != "default" || js["model_name"] != meta["name"] {
		t.Errorf("id %v, model_name %v of %v", js["id"], js["model_name"], meta["name"])
	}
	out := js["outputs"].([]any)[0].(map[string]any)
	want := out["data"].([]any)
	// The same in binary, both ways.
	var tail []byte
	for _, w := range []string{"hello", "worlds"} {
		tail = binary.LittleEndian.AppendUint32(tail, uint32(len(w)))
		tail = append(tail, w...)
	}
	head := fmt.Sprintf(`{"inputs":[{"name":"text","datatype":"BYTES","shape":[2],"parameters":{"binary_data_size":%d}}],"outputs":[{"name":"pooled","parameters":{"binary_data":true}}]}`, len(tail))
	a := s.want(s.do("POST", "/v2/models/default/infer", append([]byte(head), tail...), "Inference-Header-Content-Length", fmt.Sprint(len(head))), 200)
	var n int
	fmt.Sscan(a.header.Get("Inference-Header-Content-Length"), &n)
	bin := a.body[n:]
	if len(bin) != 4*len(want) {
		t.Fatalf("%d bytes for %d values", len(bin), len(want))
	}
	for i := range want {
		if f := math.Float32frombits(binary.LittleEndian.Uint32(bin[4*i:])); f != float32(want[i].(float64)) {
			t.Fatalf("value %d: %g, want %v", i, f, want[i])
		}
	}
	for _, bad := range []struct{ body, head string }{
		{`{`, ""}, {`{}`, ""}, {`{"inputs":[]}`, ""},
		{`{"inputs":[{"name":"text","datatype":"BYTES","shape":[3],"data":["a"]}]}`, ""},
		{`{"inputs":[{"name":"text","datatype":"BYTES","shape":[-1],"data":["a"]}]}`, ""},
		{`{"inputs":[{"name":"text","datatype":"BYTES","shape":[9223372036854775807,2],"data":["a"]}]}`, ""},
		{`{"inputs":[{"name":"text","datatype":"INT8","shape":[1],"data":["a"]}]}`, ""},
		{`{"inputs":[{"name":"array","datatype":"FP32","shape":[1,0,0],"data":[]}]}`, ""},
		{`{"inputs":[{"name":"array","datatype":"FP32","shape":[1,2147483648,0],"data":[]}]}`, ""},
		{`{"inputs":[{"name":"array","datatype":"FP32","shape":[2147483648,0,5],"data":[]}]}`, ""},
		{`{"inputs":[{"name":"array","datatype":"FP32","shape":[1,2,1],"data":[1,2,3]}]}`, ""},
		{`{"inputs":[{"name":"text","datatype":"BYTES","shape":[2],"data":["a\",\"b"]}]}`, ""},
		{`{}`, "9999999"}, {`{}`, "-1"}, {`{}`, "x"},
		{`{"inputs":[{"name":"text","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":1e18}}]}`, "97"},
		{head + "\xff\xff\xff\xff", fmt.Sprint(len(head))},
	} {
		a := s.do("POST", "/v2/models/default/infer", []byte(bad.body), "Inference-Header-Content-Length", bad.head)
		if a.status < 400 || a.status > 499 || !strings.Contains(string(a.body), `"error"`) {
			t.Errorf("%.80q: %d %s", bad.body, a.status, a.body)
		}
	}
}

func TestHealthMetricsAndUnknownPaths(t *testing.T) {
	s := newSite(t, &api.Server{})
	s.want(s.do("GET", "/healthz", nil), 200)
	s.want(s.post("/v1/encode", texts("", "hello")), 200)
	s.want(s.do("GET", "/nothing/here", nil), 404)
	s.want(s.do("DELETE", "/v1/models", nil), 405)
	m := string(s.want(s.do("GET", "/metrics", nil), 200).body)
	for _, line := range []string{
		`mmserve_requests_total{method="POST",route="/v1/encode",status="200"} 1`,
		`mmserve_items_total{modality="text",model="default"} 1`, "mmserve_encode_flops_total", "mmserve_rows_total",
		"mmserve_queue_admitted_flops 0", "mmserve_request_seconds_bucket", `mmserve_problems_total{code="not_found"} 1`,
	} {
		if !strings.Contains(m, line) {
			t.Errorf("metrics lack %s", line)
		}
	}
}

// A plan does not count itself: on an idle server whatever it says would be admitted is.
func TestPlanOfAnIdleServer(t *testing.T) {
	f := newFake(1e12) // half a minute of the assumed rate
	s := newSite(t, &api.Server{Store: f.store(), Slots: 1})
	for range 3 {
		item := s.want(s.post("/v1/plan", texts("", "x")), 200).json(t)["data"].([]any)[0].(map[string]any)
		if item["admitted"] != true {
			t.Errorf("%v", item)
		}
		s.want(s.post("/v1/encode", texts("", "x")), 200)
	}
}
