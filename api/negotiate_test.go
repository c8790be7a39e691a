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
