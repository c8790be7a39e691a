package api_test

import (
	"bytes"
	"encoding/json"
	"net/http/httptest"
	"testing"

	"github.com/mmserve/mmserve/api"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// commands reports whether a body may tell the fake model to misbehave: by a word of its own,
// or by base64 and escapes that may hold one.
func commands(body []byte) bool {
	for _, word := range []string{"block", "panic", "nan", "huge", "fail", "withheld", "code ", `\u`, `"data"`} {
		if bytes.Contains(body, []byte(word)) {
			return true
		}
	}
	return false
}

// fuzzRoute gives a body to a route without a network; the fake model reads no media, so a 5xx is
// always the API's own fault.
func fuzzRoute(t *testing.T, h *api.Server, path, kind, size string, body []byte) {
	t.Helper()
	r := httptest.NewRequest("POST", path, bytes.NewReader(body))
	r.Header.Set("Content-Type", kind)
	if size != "" {
		r.Header.Set("Inference-Header-Content-Length", size)
	}
	w := httptest.NewRecorder()
	h.Handler().ServeHTTP(w, r)
	if w.Code >= 500 && w.Code != 503 {
		t.Fatalf("%s: %d: %s", path, w.Code, w.Body)
	}
	if w.Code != 200 && !json.Valid(w.Body.Bytes()) {
		t.Fatalf("%s: %d with %q", path, w.Code, w.Body)
	}
}

func FuzzJSONBodies(f *testing.F) {
	f.Add([]byte(texts("", "x")))
	f.Add([]byte(`{"input":["x",[{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]],"dimensions":1}`))
	f.Add([]byte(`{"inputs":[{"name":"array","datatype":"FP32","shape":[1,1,2],"data":[1,2]}],"parameters":{"timeout":1e300}}`))
	f.Add([]byte(`{"messages":[{"role":"user","content":[{"type":"text","text":"<image>"}]}],"n":1}`))
	f.Add([]byte(`{"prompt":"<image>","content":[{"type":"input_audio","input_audio":{"data":"AA"}}]}`))
	f.Add([]byte(`{"inputs":[{"id":"a","latents":{"shape":[1,2],"dtype":"f32","data":[1,2]}}],"queries":{"shape":[1],"data":[1]},"positions":[1]}`))
	s := &api.Server{Store: newFake(1).store()}
	f.Fuzz(func(t *testing.T, body []byte) {
		if commands(body) {
			return
		}
		for _, path := range []string{"/v1/encode", "/v1/decode", "/v1/predict", "/v1/plan", "/v1/embeddings", "/v1/chat/completions", "/v1/generate", "/v2/models/fake/infer"} {
			fuzzRoute(t, s, path, "application/json", "", body)
		}
	})
}

func FuzzBinaryTensors(f *testing.F) {
	head := `{"inputs":[{"name":"text","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":5}}]}`
	f.Add([]byte(head+"\x01\x00\x00\x00x"), len(head))
	f.Add([]byte(head+"\xff\xff\xff\xffx"), len(head))
	f.Add([]byte(`{"inputs":[{"name":"array","datatype":"FP32","shape":[1,1,1],"parameters":{"binary_data_size":4}}]}`+"\x00\x00\xc0\x7f"), 102)
	s := &api.Server{Store: newFake(1).store()}
	f.Fuzz(func(t *testing.T, body []byte, n int) {
		size, _ := json.Marshal(n)
		if commands(body) {
			return
		}
		fuzzRoute(t, s, "/v2/models/fake/infer", "application/octet-stream", string(size), body)
	})
}

func FuzzMultipart(f *testing.F) {
	f.Add([]byte("--b\r\nContent-Disposition: form-data; name=\"a\"; filename=\"x\"\r\n\r\nx\r\n--b--\r\n"))
	f.Add([]byte("--b\r\nContent-Disposition: form-data; name=\"request\"\r\n\r\n{\"top\":1}\r\n--b--\r\ntail"))
	s := &api.Server{Store: newFake(1).store()}
	f.Fuzz(func(t *testing.T, body []byte) {
		if commands(body) {
			return
		}
		fuzzRoute(t, s, "/v1/encode", "multipart/form-data; boundary=b", "", body)
		fuzzRoute(t, s, "/v1/decode", "multipart/form-data; boundary=b", "", body)
	})
}

func FuzzLatentFiles(f *testing.F) {
	var npy, safe bytes.Buffer
	latents := tensor.Of([]float32{1, 2}, 1, 2)
	if err := weights.WriteNPY(&npy, latents, weights.F16); err != nil {
		f.Fatal(err)
	}
	if err := weights.WriteSafetensors(&safe, map[string]tensor.Tensor{"3.latents": latents, "queries": latents}, weights.BF16, map[string]string{"model_digest": "sha256:abcdef"}); err != nil {
		f.Fatal(err)
	}
	f.Add(npy.Bytes())
	f.Add(safe.Bytes())
	s := &api.Server{Store: newFake(1).store()}
	f.Fuzz(func(t *testing.T, body []byte) {
		fuzzRoute(t, s, "/v1/decode", "application/octet-stream", "", body)
	})
}
