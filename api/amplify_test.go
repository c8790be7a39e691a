package api_test

import (
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/api"
)

// Requests that are small on the wire and name very much are refused before it is held.
func TestAmplification(t *testing.T) {
	const rest = 64 << 20 // what such a server works with at least, a quarter of it for bodies
	s := newSite(t, &api.Server{Store: newFake(1).store(), Memory: 1})
	const n = 1 << 19
	list := func(element string) string { return "[" + strings.Repeat(element+",", n) + element + "]" }
	parts := `{"inputs":[{"content":` + list("{}") + `}]}`
	empty := string(make([]byte, 4*n))
	head := `{"inputs":[{"name":"text","datatype":"BYTES","shape":[` + strconv.Itoa(n) + `],"parameters":{"binary_data_size":` + strconv.Itoa(len(empty)) + `}}]}`
	for _, c := range []struct{ name, path, kind, body string }{
		{"parts", "/v1/encode", "application/json", parts},
		{"numbers for parts", "/v1/encode", "application/json", `{"inputs":[{"content":` + list("0") + `}]}`},
		{"nothing for parts", "/v1/predict", "application/json", `{"inputs":[{"content":` + list("null") + `}]}`},
		{"parts of a part", "/v1/plan", "multipart/form-data; boundary=b", "--b\r\nContent-Disposition: form-data; name=\"request\"\r\n\r\n" + parts + "\r\n--b--\r\n"},
		{"items", "/v1/encode", "application/json", `{"inputs":` + list("{}") + `}`},
		{"outputs", "/v1/encode", "application/json", `{"output":` + list(`""`) + `}`},
		{"sizes", "/v1/encode", "application/json", `{"target":{"image_sizes":` + list("[]") + `}}`},
		{"latents", "/v1/decode", "application/json", `{"inputs":` + list("{}") + `}`},
		{"embeddings", "/v1/embeddings", "", `{"input":` + list("0") + `}`},
		{"parts to embed", "/v1/embeddings", "", `{"input":[` + list("{}") + `]}`},
		{"messages", "/v1/chat/completions", "", `{"messages":` + list("{}") + `}`},
		{"parts of messages", "/v1/chat/completions", "", `{"messages":[{"role":"user","content":` + list("{}") + `}]}`},
		{"parts of a prompt", "/v1/generate", "", `{"content":` + list("{}") + `}`},
		{"tensors", "/v2/models/fake/infer", "", `{"inputs":` + list("{}") + `}`},
		{"parameters", "/v2/models/fake/infer", "", `{"parameters":{"a":` + list(`{"":0}`) + `}}`},
		{"numbers for a voice", "/v1/chat/completions", "", `{"audio":` + list("1") + `}`},
		{"numbers for a choice", "/v1/chat/completions", "", `{"tool_choice":{"data":` + list("1") + `}}`},
		{"numbers for a parameter", "/v2/models/fake/infer", "", `{"parameters":{"data":` + list("1") + `}}`},
		{"its name otherwise", "/v2/models/fake/infer", "", `{"\u0050ARAMETERS":{"data":` + list("1") + `}}`},
		{"depth", "/v1/encode", "application/json", `{"user":` + strings.Repeat("[", n)},
		{"empty elements", "/v2/models/fake/infer", "", head + empty},
		{"empty strings", "/v2/models/fake/infer", "", `{"inputs":[{"name":"text","datatype":"BYTES","shape":[1],"data":` + list(`""`) + `}]}`},
		{"items of no rows", "/v2/models/fake/infer", "", `{"inputs":[{"name":"array","datatype":"FP32","shape":[1048576,0,5],"data":[]}]}`},
	} {
		r := httptest.NewRequest("POST", "http://localhost"+c.path, strings.NewReader(c.body))
		r.Header.Set("Content-Type", c.kind)
		if strings.HasSuffix(c.body, empty) {
			r.Header.Set("Inference-Header-Content-Length", strconv.Itoa(len(head)))
		}
		w := httptest.NewRecorder()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		s.api.Handler().ServeHTTP(w, r)
		runtime.ReadMemStats(&after)
		if w.Code < 400 || w.Code > 499 {
			t.Errorf("%s: %d %.200s", c.name, w.Code, w.Body)
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > rest/4 {
			t.Errorf("%s: %d bytes were allocated for a body of %d", c.name, got, len(c.body))
		}
	}
	if held := api.Held(s.api); held != 0 {
		t.Errorf("%d bytes are still held", held)
	}
	// Many numbers, and many small items, are what they look like.
	a := s.post("/v2/models/fake/infer", `{"inputs":[{"name":"array","datatype":"FP32","shape":[1,`+strconv.Itoa(n+1)+`,1],"data":`+list("0")+`}]}`)
	s.want(a, 200)
	var words [128]string
	s.want(s.post("/v1/encode", texts("", words[:]...)), 422) // read, and each empty
}
