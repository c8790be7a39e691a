package api_test

import (
	"strings"
	"testing"

	"github.com/mmserve/mmserve/api"
)

// Where "stream" is not said, Accept chooses between text as it comes and whole.
func TestGenerateAccepts(t *testing.T) {
	s := newSite(t, &api.Server{})
	const stream, whole = "text/event-stream", "application/json"
	for accept, want := range map[string]string{
		"": stream, "*/*": stream, stream: stream, "text/*": stream, "text/html, */*;q=0.1": stream,
		whole: whole, "application/*": whole, "application/problem+json": whole, "application/json, text/event-stream": whole,
		"application/json;q=0.2, text/event-stream": stream,
		"text/html": "", "application/x-npy": "", "*/*;q=0": "", "image/*": "",
	} {
		a := s.post("/v1/generate", `{"prompt":"a","max_tokens":1}`, "Accept", accept)
		if want == "" {
			if a.status != 406 || a.code(t) != "not_acceptable" {
				t.Errorf("Accept %q: %d %s", accept, a.status, a.body)
			}
			continue
		}
		if kind := s.want(a, 200).header.Get("Content-Type"); kind != want || (want == stream) != strings.HasPrefix(string(a.body), "data: ") {
			t.Errorf("Accept %q: %s: %s", accept, kind, a.body)
		}
	}
	a := s.want(s.post("/v1/generate", `{"prompt":"a","max_tokens":1,"stream":true}`, "Accept", "image/png"), 200) // the request's own word wins
	if a.header.Get("Content-Type") != stream {
		t.Errorf("%v", a.header)
	}
}

// Every answer of a model says in a header which it is of, whatever its form.
func TestModelDigestHeader(t *testing.T) {
	s := newSite(t, &api.Server{})
	want := s.want(s.post("/v1/encode", texts("", "a")), 200).json(t)["model_digest"]
	chat := `{"messages":[{"role":"user","content":"a"}],"max_tokens":1`
	for _, c := range []struct{ path, body, accept string }{
		{"/v1/encode", texts("", "a"), "application/x-ndjson"}, {"/v1/encode", texts("", "a"), "application/x-npy"},
		{"/v1/predict", texts("", "a"), ""}, {"/v1/predict", texts("", "a"), "application/x-ndjson"}, {"/v1/plan", texts("", "a"), ""},
		{"/v1/generate", `{"prompt":"a","max_tokens":1}`, ""}, {"/v1/generate", `{"prompt":"a","max_tokens":1}`, "application/json"},
		{"/v1/chat/completions", chat + `}`, ""}, {"/v1/chat/completions", chat + `,"stream":true}`, ""}, {"/v1/embeddings", `{"input":"a"}`, ""},
		{"/v2/models/default/infer", `{"inputs":[{"name":"text","datatype":"BYTES","shape":[1],"data":["a"]}]}`, ""},
	} {
		if a := s.want(s.post(c.path, c.body, "Accept", c.accept), 200); a.header.Get("X-Model-Digest") != want {
			t.Errorf("%s (%s): %v", c.path, c.accept, a.header)
		}
	}
	limits := s.want(s.do("GET", "/v1/models/default", nil), 200).json(t)["limits"].(map[string]any)
	for _, name := range []string{"max_items", "max_body_bytes", "max_answer_bytes", "max_deadline_ms", "max_tokens"} {
		if n, _ := limits[name].(float64); n < 1 {
			t.Errorf("limits %v lack %s", limits, name)
		}
	}
}
