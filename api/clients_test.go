package api_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/api"
)

// What OpenAI's clients ask under /v1 and get refused reads as theirs and as ours.
func TestSharedErrors(t *testing.T) {
	s := newSite(t, &api.Server{Store: newFake(1).store()})
	for _, path := range []string{"/v1/models/none", "/v1/responses", "/v1/encod"} {
		a := s.want(s.do("GET", path, nil), 404)
		p := a.json(t)
		e, _ := p["error"].(map[string]any)
		if a.header.Get("Content-Type") != "application/problem+json" || p["code"] != "not_found" || e["code"] != "not_found" || e["message"] != p["detail"] || e["message"] == "" {
			t.Errorf("%s: %s", path, a.body)
		}
	}
}

// A name in a path may be escaped, and may hold a slash that way; a path with a slash too many or
// too few leads to the one that was meant.
func TestPathsAsClientsWriteThem(t *testing.T) {
	f := newFake(1)
	st := f.store()
	st.Add("deepmind/perceiver", f.open)
	s := newSite(t, &api.Server{Store: st, Default: "fake"})
	s.want(s.post("/v1/encode", texts("", "a")), 200) // loads it, so that its digest is known
	for path, status := range map[string]int{
		"/v1/models/%66ake": 200, "/v1/models/fake%40sha256%3Aabcdef": 200, "/v1/models/fake%40abd": 404,
		"/v1/models/deepmind%2Fperceiver": 200, "/v2/models/deepmind%2Fperceiver": 200, "/v2/models/fake/versions/sha256%3Aabcdef": 200,
		"/v1/models/%00": 404, "/v1/models/..%2F": 404,
	} {
		s.want(s.do("GET", path, nil), status)
	}
	c := s.Client()
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	for path, to := range map[string]string{
		"/v1/models/": "/v1/models", "//v1/models": "/v1/models", "/v1//models/fake?a=b": "/v1/models/fake?a=b", "/ui": "/ui/", "/v2/": "/v2",
		"//": "/", "//evil.example/..": "/", "//evil.example": "", "/v1/nothing/": "",
	} {
		resp, err := c.Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if status := resp.StatusCode; resp.Header.Get("Location") != to || (to != "") != (status == 307) || (to == "") != (status == 404) {
			t.Errorf("%s: %d to %q, want %q", path, status, resp.Header.Get("Location"), to)
		}
	}
	if a := s.want(s.post("//v1/encode/", texts("", "a")), 404); !strings.Contains(string(a.body), "/v1/encode is one") {
		t.Errorf("%s", a.body)
	}
}

// The word before a key is written as clients like.
func TestBearerInAnyCase(t *testing.T) {
	keys := new(api.Keys)
	keys.Set([]api.Key{{Name: "k", Hash: api.HashKey("K"), Scopes: []api.Scope{api.ScopeEncode}}})
	s := newSite(t, &api.Server{Store: newFake(1).store(), Keys: keys})
	for header, status := range map[string]int{"Bearer K": 200, "bearer K": 200, "BEARER  K": 200, "Basic K": 401, "BearerK": 401, "K": 401} {
		s.want(s.do("GET", "/v1/models", nil, "Authorization", header), status)
	}
}

// raw sends bytes as they are, then a plain request on the same connection, and returns the
// statuses of the answers and whether the last one closed the connection.
func raw(t *testing.T, s *site, sent string) (statuses []int, closed bool) {
	t.Helper()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go io.WriteString(conn, sent+"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n") // a refusal may come before all is read
	r := bufio.NewReader(conn)
	for len(statuses) < 2 && !closed {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("%.60q: after %v: %v", sent, statuses, err)
		}
		io.Copy(io.Discard, resp.Body)
		statuses, closed = append(statuses, resp.StatusCode), resp.Close
	}
	return statuses, closed
}

// After a refusal the connection is as good as before, or says that it closes: what is left of a
// body is never taken for the next request.
func TestConnectionsAfterRefusals(t *testing.T) {
	s := newSite(t, &api.Server{Store: newFake(1).store(), MaxBody: 1 << 20})
	smuggled := "GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
	for _, c := range []struct {
		line, headers, body string
		status              int
		closes              bool
	}{
		{"POST /nope", "", smuggled, 404, false},
		{"PUT /v1/encode", "", smuggled, 405, false},
		{"GET /v1/models", "", smuggled, 200, false},
		{"POST /v1/embeddings", "", `{"surprise":1}` + strings.Repeat(" ", 5000), 400, false},
		{"POST /v1/embeddings", "", `{"input":"a"} ` + smuggled, 400, false},
		{"POST /v1/encode", "Content-Encoding: gzip\r\n", smuggled, 415, false},
		{"POST /v1/encode", "Sec-Fetch-Site: cross-site\r\n", smuggled, 403, false},
		{"POST /v1/encode", "Content-Type: application/x-www-form-urlencoded\r\n", "a=b", 415, false},
		{"POST /nope", "", strings.Repeat(smuggled, 10000), 404, true},
		{"POST /v1/encode", "", strings.Repeat(smuggled, 30000), 413, true},
	} {
		got, closed := raw(t, s, fmt.Sprintf("%s HTTP/1.1\r\nHost: localhost\r\n%sContent-Length: %d\r\n\r\n%s", c.line, c.headers, len(c.body), c.body))
		want := []int{c.status, 200}
		if c.closes {
			want = want[:1]
		}
		if fmt.Sprint(got) != fmt.Sprint(want) || closed != c.closes {
			t.Errorf("%s %s: %v, closed %v, want %v", c.line, c.headers, got, closed, want)
		}
	}
	chunked := "POST /v1/encode HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
	for sent, status := range map[string]int{
		chunked + "zz\r\n":                  400, // no length
		chunked + "5\r\nhello\r\n0\r\n\r\n": 200,
	} {
		if got, _ := raw(t, s, sent); got[0] != status {
			t.Errorf("%q: %v, want %d", sent, got, status)
		}
	}
	if got, _ := raw(t, s, "GET /healthz HTTP/1.0\r\n\r\n"); got[0] != 200 { // as balancers check
		t.Errorf("HTTP/1.0 without a Host: %v", got)
	}
}

// A client that asks before it sends a large body is told to go on, or refused with nothing sent.
func TestExpectContinue(t *testing.T) {
	s := newSite(t, &api.Server{Store: newFake(1).store(), MaxBody: 1 << 20})
	for _, c := range []struct {
		headers   string
		size      int
		goesOn    bool
		status    int
		keepsOpen bool
	}{
		{"", 500_000, true, 200, true},
		{"", 2 << 20, false, 413, false},
		{"Content-Encoding: gzip\r\n", 1000, false, 415, false},
		{"Sec-Fetch-Site: cross-site\r\n", 1000, false, 403, false},
	} {
		conn, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST /v1/encode HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nExpect: 100-continue\r\n%sContent-Length: %d\r\n\r\n", c.headers, c.size)
		r := bufio.NewReader(conn)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if goesOn := resp.StatusCode == http.StatusContinue; goesOn != c.goesOn {
			t.Errorf("%d bytes, %q: first %d", c.size, c.headers, resp.StatusCode)
		} else if goesOn {
			go io.WriteString(conn, strings.Repeat("x", c.size))
			if resp, err = http.ReadResponse(r, nil); err != nil {
				t.Fatal(err)
			}
		}
		if resp.StatusCode != c.status || resp.Close == c.keepsOpen {
			t.Errorf("%d bytes, %q: %d, closes %v, want %d", c.size, c.headers, resp.StatusCode, resp.Close, c.status)
		}
		conn.Close()
	}
}

// With HTTP/2 a refused body ends its own stream; the connection goes on.
func TestRefusalsOverHTTP2(t *testing.T) {
	s := &api.Server{Store: newFake(1).store(), MaxBody: 1 << 16, AnyOrigin: true}
	hs := httptest.NewUnstartedServer(s.Handler())
	dialled := 0
	hs.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			dialled++
		}
	}
	hs.EnableHTTP2, hs.TLS = true, &tls.Config{}
	hs.StartTLS()
	defer hs.Close()
	post := func(path, kind string, body io.Reader) int {
		resp, err := hs.Client().Post(hs.URL+path, kind, body)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		defer resp.Body.Close()
		io.Copy(io.Discard, resp.Body)
		if resp.ProtoMajor != 2 {
			t.Errorf("%s came over %s", path, resp.Proto)
		}
		return resp.StatusCode
	}
	large := strings.Repeat("x", 1<<20)
	for range 3 {
		for _, c := range []struct {
			path, kind string
			body       io.Reader
			status     int
		}{
			{"/v1/encode", "text/plain", strings.NewReader(large), 413},
			{"/v1/encode", "text/plain", io.MultiReader(strings.NewReader(large)), 413}, // its length unsaid
			{"/nope", "text/plain", strings.NewReader(large[:1<<15]), 404},
			{"/v1/embeddings", "application/json", strings.NewReader(`{"surprise":1}`), 400},
			{"/v1/encode", "text/plain", strings.NewReader("hello"), 200},
		} {
			if got := post(c.path, c.kind, c.body); got != c.status {
				t.Errorf("%s: %d, want %d", c.path, got, c.status)
			}
		}
	}
	hs.Close() // no state changes after this
	if dialled != 1 {
		t.Errorf("%d connections, want one", dialled)
	}
}

// The query is read as strictly as JSON is, and says what JSON does not.
func TestQueryIsStrict(t *testing.T) {
	s := newSite(t, &api.Server{})
	ask := func(query string) answer {
		return s.do("POST", "/v1/encode?"+query, []byte("hello"), "Content-Type", "text/plain")
	}
	js := s.want(s.post("/v1/encode?output=pooled&dtype=f16&model=none", texts(`"dtype":"f32","model":"default",`, "a")), 200).json(t)["data"].([]any)[0].(map[string]any)
	if pooled, _ := js["pooled"].(map[string]any); pooled["dtype"] != "f32" || js["latents"] != nil {
		t.Errorf("JSON with a query: %v", js)
	}
	two := s.want(ask("output=latents&output=pooled&encoding=float&normalize=1&top="), 200).json(t)["data"].([]any)[0].(map[string]any)
	if two["latents"] == nil || two["pooled"] == nil {
		t.Errorf("an output given twice: %v", two)
	}
	for query, field := range map[string]string{
		"ouput=pooled": "ouput", "normalize=yes": "normalize", "top=3.5": "top", "latent=first": "latent", "deadline_ms=1e3": "deadline_ms", "dtype=f8": "dtype", "a=%zz": "",
	} {
		if p := s.want(ask(query), 400).json(t); p["field"] != field && field != "" {
			t.Errorf("%s: %v", query, p)
		}
	}
}

// Tensors in JSON may be nested as their shape is, and an output may not ask for an extension that
// is not there.
func TestOpenInferenceAsClientsWriteIt(t *testing.T) {
	s := newSite(t, &api.Server{})
	infer := func(data, output string) answer {
		return s.post("/v2/models/default/infer", `{"inputs":[{"name":"text","datatype":"BYTES","shape":[2,1],"data":`+data+`}],"outputs":[{"name":"pooled"`+output+`}]}`)
	}
	want := s.want(infer(`["a]\"[,","b"]`, ""), 200).json(t)["outputs"]
	for _, nested := range []string{`[["a]\"[,"],["b"]]`, `[ [ "a]\"[," ] , [ "b" ] ]`} {
		if got := s.want(infer(nested, ""), 200).json(t)["outputs"]; jsonOf(t, got) != jsonOf(t, want) {
			t.Errorf("%s: another answer than flat", nested)
		}
	}
	s.want(infer(`[["a"],[]]`, ""), 400)
	s.want(infer(`["a","b"]`, `,"parameters":{"classification":0,"binary_data":false}`), 200)
	for _, p := range []string{`"classification":3`, `"shared_memory_region":"r"`} {
		if a := s.want(infer(`["a","b"]`, `,"parameters":{`+p+`}`), 400); !strings.Contains(string(a.body), "outputs.pooled.parameters.") {
			t.Errorf("%s: %s", p, a.body)
		}
	}
	rows := func(data string) answer {
		return s.post("/v2/models/bare/infer", `{"inputs":[{"name":"array","datatype":"FP32","shape":[1,2,2],"data":`+data+`}]}`)
	}
	if a, b := rows(`[1,2,3,4]`), rows(`[[[1,2],[3,4]]]`); a.status != b.status || a.status == 200 && jsonOf(t, a.json(t)["outputs"]) != jsonOf(t, b.json(t)["outputs"]) || strings.Contains(string(b.body), "flat") {
		t.Errorf("flat %d %s, nested %d %s", a.status, a.body, b.status, b.body)
	}
}

// What used to be taken in silence is refused by name.
func TestNothingIsHalfRead(t *testing.T) {
	s := newSite(t, &api.Server{})
	item := func(part string) string { return `{"inputs":[{"content":[` + part + `]}]}` }
	for _, c := range []struct{ path, body, field string }{
		{"/v1/predict", texts(`"top":-1,`, "a"), "top"},
		{"/v1/encode", texts(`"latent":-2,`, "a"), "latent"},
		{"/v1/encode", item(`{"type":"text","text":"a","data":"aGk="}`), "inputs[0].content[0]"},
		{"/v1/encode", item(`{"type":"image","url":"data:,","image_url":"data:,"}`), "inputs[0].content[0]"},
		{"/v1/encode", `{"inputs":["a"]}`, "inputs"},
		{"/v1/encode", `{"inputs":[{"content":"a"}]}`, "inputs.content"},
	} {
		if p := s.want(s.post(c.path, c.body), 400).json(t); p["field"] != c.field || strings.Contains(p["detail"].(string), "Go ") {
			t.Errorf("%s %s: %v", c.path, c.body, p)
		}
	}
	s.want(s.post("/v1/encode", item(`{"type":"text","text":"a","data":"","url":null}`)), 200)
	s.want(s.do("POST", "/v1/encode?options={nope", []byte("a"), "Content-Type", "text/plain"), 400)
	if a := s.want(s.post("/v2/models/default/infer", `{"id":7,"inputs":[]}`), 400); !strings.Contains(string(a.body), "id holds a JSON number") {
		t.Errorf("%s", a.body)
	}
	if a := s.want(s.do("POST", "/v1/encode", []byte("--q\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nhello"), "Content-Type", "multipart/form-data; boundary=q"), 400); strings.Contains(string(a.body), "JSON") {
		t.Errorf("%s", a.body)
	}
}
