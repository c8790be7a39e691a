package api_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/api"
)

// HEAD is answered where GET is, OPTIONS and 405 say what a path takes, and what no route takes
// is worded as the routes around it.
func TestMethodsAndWords(t *testing.T) {
	s := newSite(t, &api.Server{Store: newFake(1).store()})
	for _, path := range []string{"/healthz", "/v1/models", "/v1/models/fake", "/v2", "/openapi.json", "/ui/"} {
		if a := s.do("HEAD", path, nil); a.status != 200 || len(a.body) != 0 || a.header.Get("Content-Type") == "" {
			t.Errorf("HEAD %s: %d, %d bytes, %v", path, a.status, len(a.body), a.header)
		}
	}
	for _, c := range []struct {
		method, path string
		status       int
		allow        string
		has          string
	}{
		{"OPTIONS", "/v1/encode", 204, "OPTIONS, POST", ""},
		{"OPTIONS", "/v1/models", 204, "OPTIONS, GET, HEAD", ""},
		{"GET", "/v1/encode", 405, "OPTIONS, POST", `"code":"method_not_allowed"`},
		{"POST", "/v1/models/x", 405, "OPTIONS, GET, HEAD", "application/problem+json"},
		{"PUT", "/v1/embeddings", 405, "OPTIONS, POST", `{"error":{"code":"method_not_allowed"`},
		{"GET", "/v2/models/fake/infer", 405, "OPTIONS, POST", `{"error":"method_not_allowed: `},
		{"GET", "/v2/nothing", 404, "", `{"error":"not_found: `},
		{"GET", "/v1/chat/nothing", 404, "", `{"error":{"code":"not_found"`},
		{"GET", "/v1/nothing", 404, "", `"code":"not_found"`},
	} {
		a := s.do(c.method, c.path, nil)
		said := a.header.Get("Content-Type") + string(a.body)
		if a.status != c.status || a.header.Get("Allow") != c.allow || !strings.Contains(said, c.has) {
			t.Errorf("%s %s: %d, Allow %q, %s", c.method, c.path, a.status, a.header.Get("Allow"), said)
		}
	}
}

// Accept chooses the format it prefers, and one that names none of them is refused.
func TestAccept(t *testing.T) {
	s := newSite(t, &api.Server{Store: newFake(1).store()})
	for accept, want := range map[string]string{
		"": "application/json", "*/*": "application/json", "application/*": "application/json", "text/html, */*;q=0.8": "application/json",
		"application/x-npy;q=0.5, application/json": "application/json", "application/json;q=0.5, application/x-npy": "application/x-npy",
		"application/x-ndjson, application/json": "application/x-ndjson", "application/json; charset=utf-8": "application/json",
		"image/png": "", "application/json;q=0": "", "nonsense": "",
	} {
		a := s.post("/v1/encode", texts("", "a"), "Accept", accept)
		if want == "" {
			if a.status != 406 || a.code(t) != "not_acceptable" {
				t.Errorf("%q: %d %s", accept, a.status, a.body)
			}
			continue
		}
		if a.status != 200 || a.header.Get("Content-Type") != want {
			t.Errorf("%q: %d %s", accept, a.status, a.header.Get("Content-Type"))
		}
	}
	s.want(s.post("/v1/encode", texts(`"format":"npy",`, "a"), "Accept", "image/png"), 200) // the request's own word wins
}

// Items that cannot be read fail alone; when all fail, so does the request.
func TestItemsThatCannotBeRead(t *testing.T) {
	s := newSite(t, &api.Server{Store: newFake(1).store()})
	bad := []string{`{"content":[{"type":"image","data":"!!"}]}`, `{"content":[]}`, `{"content":[{"data":"AAAA"}]}`, `{"content":[{"type":"image","url":"data:x"}]}`, `{"content":[{"type":"image"}]}`}
	for _, b := range bad {
		doc := s.want(s.post("/v1/encode", `{"inputs":[`+b+`,{"content":[{"type":"text","text":"a"}]}]}`), 200).json(t)
		first := doc["data"].([]any)[0].(map[string]any)
		if doc["errors"] != 1.0 || first["status"] != "error" || !strings.HasPrefix(first["error"].(map[string]any)["field"].(string), "inputs[0]") {
			t.Errorf("%s: %v", b, doc)
		}
		s.want(s.post("/v1/encode", `{"inputs":[`+b+`]}`), 400)
	}
	a := s.want(s.post("/v1/encode", `{"inputs":[`+strings.Join(bad, ",")+`]}`), 400)
	if a.json(t)["item"] != 0.0 {
		t.Errorf("%s", a.body)
	}
}

// A name may carry a digest, whole or its beginning, wherever a model is named; metrics know the
// name alone.
func TestNamesWithDigests(t *testing.T) {
	f := newFake(1)
	s := newSite(t, &api.Server{Store: f.store()})
	for name, status := range map[string]int{"fake": 200, "fake@sha256:abcdef": 200, "fake@abc": 200, "fake@": 200, "fake@abd": 404, "none@abc": 404} {
		s.want(s.post("/v1/encode", texts(`"model":"`+name+`",`, "a")), status)
		s.want(s.do("GET", "/v1/models/"+name, nil), status)
	}
	if m := string(s.do("GET", "/metrics", nil).body); strings.Contains(m, "fake@") {
		t.Error("a digest that a request gave is a label of metrics")
	}
}

// A server without keys answers this machine alone: not the pages of other sites, not a name of
// theirs that leads here. With keys, the key decides.
func TestOtherSitesPages(t *testing.T) {
	keys := new(api.Keys)
	keys.Set([]api.Key{{Name: "k", Hash: api.HashKey("K"), Scopes: []api.Scope{api.ScopeEncode}}})
	open := newSite(t, &api.Server{Store: newFake(1).store()})
	keyed := newSite(t, &api.Server{Store: newFake(1).store(), Keys: keys})
	any := newSite(t, &api.Server{Store: newFake(1).store(), AnyOrigin: true})
	ask := func(s *site, host, name, value string) int {
		req, _ := http.NewRequest("POST", s.URL+"/v1/encode", strings.NewReader("a"))
		req.Header.Set("Content-Type", "text/plain")
		req.Header.Set("Authorization", "Bearer K")
		req.Header.Set(name, value)
		if host != "" {
			req.Host = host
		}
		resp, err := s.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	for _, c := range []struct {
		host, name, value string
		open              int
	}{
		{"", "X", "y", 200}, {"localhost:8080", "X", "y", 200}, {"[::1]:8080", "X", "y", 200}, {"127.0.0.1", "X", "y", 200},
		{"", "Sec-Fetch-Site", "same-origin", 200}, {"", "Sec-Fetch-Site", "none", 200},
		{"", "Sec-Fetch-Site", "cross-site", 403}, {"", "Origin", "https://evil.example", 403}, {"", "Origin", "null", 403},
		{"evil.example", "X", "y", 403}, {"evil.example:8080", "X", "y", 403}, {"localhost.evil.example", "X", "y", 403}, {"10.0.0.1:8080", "X", "y", 403},
	} {
		if st := ask(open, c.host, c.name, c.value); st != c.open {
			t.Errorf("without keys, host %q, %s %q: %d, want %d", c.host, c.name, c.value, st, c.open)
		}
		if st := ask(keyed, c.host, c.name, c.value); st != 200 {
			t.Errorf("with a key, host %q, %s %q: %d", c.host, c.name, c.value, st)
		}
		if st := ask(any, c.host, c.name, c.value); st != 200 {
			t.Errorf("for any origin, host %q, %s %q: %d", c.host, c.name, c.value, st)
		}
	}
}

// The built-in model's language model speaks through each of its routes, and greedily always the
// same; a stream is the whole in pieces.
func TestBuiltinSpeaks(t *testing.T) {
	s := newSite(t, &api.Server{})
	image := `{"type":"image","data":"` + base64.StdEncoding.EncodeToString(readMedia(t, "image/go-video-001.rgb.jpeg")) + `"}`
	pieces := func(a answer) (list []map[string]any) {
		t.Helper()
		s.want(a, 200)
		text, ended := strings.CutSuffix(string(a.body), "data: [DONE]\n\n")
		if a.header.Get("Content-Type") != "text/event-stream" || !ended {
			t.Fatalf("%v: no stream that ends: %q", a.header, a.body)
		}
		for piece := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
			var m map[string]any
			if err := json.Unmarshal([]byte(strings.TrimPrefix(piece, "data: ")), &m); err != nil {
				t.Fatalf("%v in %q", err, piece)
			}
			list = append(list, m)
		}
		return list
	}
	body := `"prompt":"<image>","max_tokens":6,"content":[` + image + `]}`
	whole := s.want(s.post("/v1/generate", `{"stream":false,`+body), 200).json(t)
	said := whole["text"].(string)
	if whole["tokens"].(float64) > 6 || whole["finish_reason"] == "" {
		t.Errorf("%v", whole)
	}
	if again := s.want(s.post("/v1/generate", `{"stream":false,`+body), 200).json(t); again["text"] != said {
		t.Errorf("%q, then %q", said, again["text"])
	}
	joined := ""
	list := pieces(s.post("/v1/generate", `{`+body))
	for _, p := range list[:len(list)-1] {
		joined += p["text"].(string)
	}
	if last := list[len(list)-1]; joined != said || last["text"] != said || last["finish_reason"] != whole["finish_reason"] {
		t.Errorf("streamed %q, last %v, whole %q", joined, last, said)
	}
	chat := `"temperature":0,"max_tokens":6,"messages":[{"role":"user","content":[` + image + `]}]}`
	c := s.want(s.post("/v1/chat/completions", `{`+chat), 200).json(t)
	choice := c["choices"].([]any)[0].(map[string]any)
	if got := choice["message"].(map[string]any)["content"]; got != said {
		t.Errorf("chat says %q, generate %q", got, said)
	}
	if u := c["usage"].(map[string]any); u["total_tokens"].(float64) != u["prompt_tokens"].(float64)+u["completion_tokens"].(float64) {
		t.Errorf("usage %v", u)
	}
	joined = ""
	list = pieces(s.post("/v1/chat/completions", `{"stream":true,"stream_options":{"include_usage":true},`+chat))
	for _, p := range list {
		for _, ch := range p["choices"].([]any) {
			text, _ := ch.(map[string]any)["delta"].(map[string]any)["content"].(string)
			joined += text
		}
	}
	if last := list[len(list)-1]; joined != said || fmt.Sprint(last["usage"]) != fmt.Sprint(c["usage"]) || len(last["choices"].([]any)) != 0 {
		t.Errorf("streamed %q, last %v", joined, last)
	}
	p := s.want(s.post("/v1/predict", `{"caption":true,"top":1,"inputs":[{"content":[`+image+`]}]}`), 200).json(t)
	if caption, _ := p["data"].([]any)[0].(map[string]any)["prediction"].(map[string]any)["caption"].(string); caption == "" {
		t.Errorf("no caption: %v", p)
	}
	if p := s.want(s.post("/v1/predict", `{"inputs":[{"content":[`+image+`]}]}`), 200); strings.Contains(string(p.body), `"caption"`) {
		t.Error("a caption nobody asked for")
	}
}
