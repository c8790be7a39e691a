package api_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mmserve/mmserve/api"
	"github.com/mmserve/mmserve/pipeline"
)

// untouched is a body that fails the test when it is read.
type untouched struct{ t *testing.T }

func (u untouched) Read([]byte) (int, error) {
	u.t.Error("the body of a request that is refused was read")
	return 0, io.EOF
}
func (u untouched) Close() error { return nil }

// A full queue refuses at once, before the body is read, with 503 and when to come again.
func TestShedBeforeTheBodyIsRead(t *testing.T) {
	f := newFake(1e9)
	s := newSite(t, &api.Server{Store: f.store(), Slots: 1, Capacity: 2e9})
	var wg sync.WaitGroup
	for range 2 { // one runs, one waits
		wg.Go(func() { s.want(s.post("/v1/encode", texts("", "block")), 200) })
	}
	<-f.started
	await(t, func() bool {
		return strings.Contains(string(s.do("GET", "/metrics", nil).body), "mmserve_queue_waiting 1")
	})
	r := httptest.NewRequest("POST", "/v1/encode", nil)
	r.Body, r.ContentLength = untouched{t}, 1000
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	s.api.Handler().ServeHTTP(w, r)
	if w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("%d, Retry-After %q: %s", w.Code, w.Header().Get("Retry-After"), w.Body)
	}
	var p api.Problem
	json.Unmarshal(w.Body.Bytes(), &p)
	if p.Code != "saturated" || p.RetryAfter < 1000 {
		t.Errorf("%+v", p)
	}
	if a := s.do("GET", "/healthz", nil); a.status != 200 {
		t.Errorf("health while saturated: %d", a.status)
	}
	close(f.gate)
	wg.Wait()
	s.want(s.post("/v1/encode", texts("", "again")), 200)
}

// await polls for a state that another goroutine is about to reach.
func await(t testing.TB, reached func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !reached(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("the state was not reached in 20 s")
		}
	}
}

// A key's own quota answers 429, and its neighbour's key still works.
func TestQuota(t *testing.T) {
	f := newFake(1)
	keys := new(api.Keys)
	if err := keys.Set([]api.Key{
		{Name: "a", Hash: api.HashKey("A"), Scopes: []api.Scope{api.ScopeEncode}, Rate: 0.001},
		{Name: "b", Hash: api.HashKey("B"), Scopes: []api.Scope{api.ScopeEncode}},
	}); err != nil {
		t.Fatal(err)
	}
	s := newSite(t, &api.Server{Store: f.store(), Keys: keys})
	s.want(s.post("/v1/encode", texts("", "x"), "Authorization", "Bearer A"), 200)
	a := s.want(s.post("/v1/encode", texts("", "x"), "X-API-Key", "A"), 429)
	if a.code(t) != "quota_exceeded" || a.header.Get("Retry-After") == "" {
		t.Errorf("%v %s", a.header, a.body)
	}
	s.want(s.post("/v1/encode", texts("", "x"), "Authorization", "Bearer B"), 200)
}

// A quota says when the next request is let in; then it is, however many were refused meanwhile.
func TestQuotaReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys := new(api.Keys)
		if err := keys.Set([]api.Key{{Name: "a", Hash: api.HashKey("A"), Scopes: []api.Scope{api.ScopeEncode}, Rate: 0.1}}); err != nil {
			t.Fatal(err)
		}
		s := &api.Server{Store: newFake(1).store(), Keys: keys}
		ask := func() *httptest.ResponseRecorder {
			r := httptest.NewRequest("GET", "/v1/models", nil)
			r.Header.Set("X-API-Key", "A")
			w := httptest.NewRecorder()
			s.Handler().ServeHTTP(w, r)
			return w
		}
		for range 2 {
			if w := ask(); w.Code != 200 {
				t.Fatalf("in its turn: %d %s", w.Code, w.Body)
			}
			time.Sleep(2500 * time.Millisecond)
			for range 100 {
				if w := ask(); w.Code != 429 || w.Header().Get("Retry-After") != "8" || !strings.Contains(w.Body.String(), `"retry_after_ms":7500`) {
					t.Fatalf("%d, Retry-After %q: %s", w.Code, w.Header().Get("Retry-After"), w.Body)
				}
			}
			time.Sleep(7500 * time.Millisecond)
		}
	})
}

// A deadline and a client's departure end the work itself.
func TestDeadlineAndDepartureStopWork(t *testing.T) {
	f := newFake(1)
	s := newSite(t, &api.Server{Store: f.store(), Slots: 4, Deadline: time.Hour})
	s.Client().Timeout = 20 * time.Second
	for name, send := range map[string]func() answer{
		"field":  func() answer { return s.post("/v1/encode", texts(`"deadline_ms":1,`, "block")) },
		"header": func() answer { return s.post("/v1/encode", texts("", "block"), "X-Request-Timeout-Ms", "1") },
		"oip": func() answer {
			return s.post("/v2/models/fake/infer", `{"parameters":{"timeout":1},"inputs":[{"name":"text","datatype":"BYTES","shape":[1],"data":["block"]}]}`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := s.want(send(), 504)
			if !strings.Contains(string(a.body), "deadline_exceeded") {
				t.Errorf("%s", a.body)
			}
		})
	}
	drain(f)
	ctx, cancel := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, "POST", s.URL+"/v1/encode", strings.NewReader(texts("", "block")))
	req.Header.Set("Content-Type", "application/json")
	go func() {
		<-f.started
		cancel()
	}()
	if _, err := s.Client().Do(req); err == nil {
		t.Error("a cancelled request was answered")
	}
	if err := <-f.ended; !errors.Is(err, context.Canceled) {
		t.Errorf("work ended by %v", err)
	}
	for _, ms := range []string{"9223372036854775807", "0", "-5", "x"} { // absurd deadlines are no deadlines
		s.want(s.post("/v1/encode", texts("", "x"), "X-Request-Timeout-Ms", ms), 200)
	}
	s.want(s.post("/v1/encode", texts(`"deadline_ms":9223372036854775807,`, "x")), 200)
}

func drain(f *fake) {
	for {
		select {
		case <-f.started:
		case <-f.ended:
		default:
			return
		}
	}
}

// One bad item never harms its neighbours, whatever it does and wherever it stands.
func TestPoison(t *testing.T) {
	f := newFake(1)
	s := newSite(t, &api.Server{Store: f.store()})
	for _, poison := range []string{"panic", "plan panic", "fail", "withheld", "nan", "code malformed", "code too_large"} {
		for at := range 3 {
			words := []string{"a", "bb", "ccc"}
			words[at] = poison
			a := s.want(s.post("/v1/encode", texts(`"encoding":"float",`, words...)), 200)
			if bytes.Contains(a.body, []byte("secret")) || bytes.Contains(a.body, []byte("NaN")) {
				t.Errorf("%s: the answer tells too much: %s", poison, a.body)
			}
			doc := a.json(t)
			if doc["errors"] != 1.0 {
				t.Fatalf("%s at %d: %s", poison, at, a.body)
			}
			for i, d := range doc["data"].([]any) {
				d := d.(map[string]any)
				if ok := d["status"] == "ok"; ok != (i != at) {
					t.Errorf("%s at %d: item %d is %v", poison, at, i, d["status"])
				}
				if i != at {
					if got := d["latents"].(map[string]any)["data"].([]any)[0]; got != float64(i+1) {
						t.Errorf("%s at %d: item %d is %v", poison, at, i, got)
					}
				} else if d["error"].(map[string]any)["item"] != float64(at) {
					t.Errorf("%s at %d: error %v", poison, at, d["error"])
				}
			}
			if a := s.post("/v1/encode", texts(`"atomic":true,`, words...)); a.status < 400 {
				t.Errorf("%s at %d, atomic: %d", poison, at, a.status)
			}
		}
	}
}

// Numbers that are not finite never leave, in any format or type.
func TestNotFinite(t *testing.T) {
	s := newSite(t, &api.Server{Store: newFake(1).store()})
	for _, format := range []string{"json", "ndjson", "npy", "safetensors", "pt", "raw", "oip"} {
		for _, c := range []struct{ word, dtype string }{{"nan", "f32"}, {"nan", "bf16"}, {"huge", "f16"}} {
			a := s.post("/v1/encode", texts(`"format":"`+format+`","dtype":"`+c.dtype+`",`, c.word))
			if a.status < 400 || !bytes.Contains(a.body, []byte("not_finite")) {
				t.Errorf("%s %s as %s: %d %.200q", format, c.word, c.dtype, a.status, a.body)
			}
		}
	}
	for _, encoding := range []string{"float", "base64"} {
		if a := s.post("/v1/embeddings", `{"input":["x","nan"],"encoding_format":"`+encoding+`"}`); a.status != 500 || !bytes.Contains(a.body, []byte("not_finite")) {
			t.Errorf("embedding as %s: %d %s", encoding, a.status, a.body)
		}
	}
	if a := s.post("/v2/models/fake/infer", `{"inputs":[{"name":"text","datatype":"BYTES","shape":[1],"data":["nan"]}],"parameters":{"binary_data_output":true}}`); a.status != 500 {
		t.Errorf("open inference: %d %s", a.status, a.body)
	}
}

// jumpy is a fake that panics wherever a handler asks it.
type jumpy struct{ *fake }

func (jumpy) Generate(context.Context, pipeline.Prompt, pipeline.GenerateOptions, func(string) error) (*pipeline.Generation, error) {
	panic("fake: secret detail")
}

func (jumpy) Plan(_ context.Context, it pipeline.Item) (pipeline.Plan, error) {
	if text(it) == "plan panic" {
		panic("fake: secret detail")
	}
	return pipeline.Plan{}, nil
}

// A panic is a 500 with an id that the log knows, and a number in the metrics, on whatever route; the
// process lives, and the connection too.
func TestPanic(t *testing.T) {
	st := &pipeline.Store{}
	st.Add("fake", func(context.Context) (pipeline.Model, error) { return jumpy{newFake(1)}, nil })
	s := newSite(t, &api.Server{Store: st})
	for i, c := range []struct{ path, body string }{
		{"/v1/encode", texts("", "panic")},
		{"/v1/encode", texts("", "plan panic")},
		{"/v1/plan", texts("", "plan panic")},
		{"/v1/embeddings", `{"input":"panic"}`},
		{"/v2/models/fake/infer", `{"inputs":[{"name":"text","datatype":"BYTES","shape":[1],"data":["panic"]}]}`},
		{"/v1/generate", `{"stream":false,"prompt":"x"}`},
		{"/v1/chat/completions", `{"messages":[{"role":"user","content":"x"}]}`},
	} {
		id := fmt.Sprint("find-me-", i)
		a := s.want(s.post(c.path, c.body, "X-Request-Id", id), 500)
		if a.header.Get("X-Request-Id") != id || bytes.Contains(a.body, []byte("secret")) || !bytes.Contains(a.body, []byte("internal")) {
			t.Errorf("%s: %s %s", c.path, a.header, a.body)
		}
		if log := s.log.String(); !strings.Contains(log, id) || strings.Count(log, "secret detail") != i+1 {
			t.Errorf("%s: the log does not tell of the panic", c.path)
		}
		if m := string(s.do("GET", "/metrics", nil).body); !strings.Contains(m, fmt.Sprintf("mmserve_problems_total{code=\"internal\"} %d\n", i+1)) {
			t.Errorf("%s: the metrics do not tell of the panic", c.path)
		}
	}
	s.want(s.post("/v1/encode", texts("", "x")), 200)
	if id := s.do("GET", "/healthz", nil, "X-Request-Id", "no good\"").header.Get("X-Request-Id"); strings.Contains(id, " ") {
		t.Errorf("a harmful id came back: %q", id)
	}
}

// publicPaths are the routes that ask for no key, on either listener.
var publicPaths = map[string]bool{
	"/healthz": true, "/readyz": true, "/openapi.json": true, "/ui/*": true, "/": true, "/v2/health/live": true, "/v2/health/ready": true,
}

// adminPath reports whether a path is for administrators only.
func adminPath(path string) bool {
	return path == "/metrics" || strings.HasPrefix(path, "/admin/") || strings.HasPrefix(path, "/debug/")
}

// Every route that either router knows wants a key unless it is declared public, and then the
// right scope; with a listener of their own, administration and metrics are not on the public one.
func TestEveryRouteIsGuarded(t *testing.T) {
	for _, apart := range []bool{false, true} {
		keys := new(api.Keys)
		if err := keys.Set([]api.Key{
			{Name: "encode", Hash: api.HashKey("E"), Scopes: []api.Scope{api.ScopeEncode}},
			{Name: "admin", Hash: api.HashKey("A"), Scopes: []api.Scope{api.ScopeAdmin}},
			{Name: "none", Hash: api.HashKey("N")},
		}); err != nil {
			t.Fatal(err)
		}
		srv := &api.Server{Store: newFake(1).store(), Keys: keys, AdminApart: apart, Pprof: true}
		seen := map[string]int{}
		for door, h := range map[string]http.Handler{"public": srv.Handler(), "admin": srv.AdminHandler()} {
			ask := func(method, path, key string) int {
				r := httptest.NewRequest(method, strings.NewReplacer("{id}", "fake", "{model}", "fake", "{version}", "1", "*", "").Replace(path), nil)
				if key != "" {
					r.Header.Set("Authorization", "Bearer "+key)
				}
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				return w.Code
			}
			err := api.Walk(h, func(method, path string) {
				seen[door]++
				if public := publicPaths[path]; public {
					for _, key := range []string{"", "wrong", "N"} {
						if st := ask(method, path, key); st == 401 || st == 403 {
							t.Errorf("%s: %s %s is public and answers %d", door, method, path, st)
						}
					}
					return
				}
				for key, want := range map[string]int{"": 401, "wrong": 401, "N": 403} {
					if st := ask(method, path, key); st != want {
						t.Errorf("%s: %s %s with key %q: %d, want %d", door, method, path, key, st, want)
					}
				}
				if st := ask(method, path, "E"); (st == 403) != adminPath(path) {
					t.Errorf("%s: %s %s with an encode key: %d", door, method, path, st)
				}
				if door == "public" && apart && adminPath(path) {
					t.Errorf("%s %s is on the public listener", method, path)
				}
				if door == "admin" && !adminPath(path) {
					t.Errorf("%s %s is on the admin listener", method, path)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			for _, path := range []string{"/metrics", "/admin/v1/models/fake/load", "/debug/pprof/"} {
				method := map[bool]string{true: "POST", false: "GET"}[strings.HasPrefix(path, "/admin/")]
				want := map[bool]int{true: 200, false: 404}[door == "admin" || !apart && path != "/debug/pprof/"]
				if st := ask(method, path, "A"); st != want {
					t.Errorf("apart %v, %s: %s %s: %d, want %d", apart, door, method, path, st, want)
				}
			}
			for _, path := range []string{"/healthz", "/readyz"} {
				if st := ask("GET", path, ""); st != 200 && st != 503 {
					t.Errorf("%s: %s: %d", door, path, st)
				}
			}
		}
		if seen["public"] < 20 || seen["admin"] < 6 {
			t.Errorf("routes walked: %v", seen)
		}
	}
}

// Keys that are not whole are refused by name, and the old ones stay.
func TestBadKeys(t *testing.T) {
	keys := new(api.Keys)
	if err := keys.Set([]api.Key{{Name: "e", Hash: api.HashKey("E"), Scopes: []api.Scope{api.ScopeEncode}}}); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []api.Key{{Name: "short", Hash: "ab"}, {Name: "scope", Hash: api.HashKey("x"), Scopes: []api.Scope{"root"}},
		{Name: "negative", Hash: api.HashKey("x"), Rate: -1}, {Name: "nan", Hash: api.HashKey("x"), Rate: math.NaN()},
		{Name: "endless", Hash: api.HashKey("x"), Rate: math.Inf(1)}, {Name: "burst", Hash: api.HashKey("x"), Rate: 1, Burst: -1}} {
		if err := keys.Set([]api.Key{bad}); err == nil || !strings.Contains(err.Error(), bad.Name) {
			t.Errorf("%s: %v", bad.Name, err)
		}
	}
	if err := keys.Set([]api.Key{{Name: "a", Hash: api.HashKey("x")}, {Name: "b", Hash: api.HashKey("x"), Scopes: []api.Scope{api.ScopeAdmin}}}); err == nil || !strings.Contains(err.Error(), `the same key as "a"`) {
		t.Errorf("one key twice: %v", err)
	}
	s := newSite(t, &api.Server{Store: newFake(1).store(), Keys: keys})
	s.want(s.post("/v1/encode", texts("", "x"), "Authorization", "Bearer E"), 200)
	s.want(s.post("/v1/encode", texts("", "x"), "Authorization", "Bearer ab"), 401)
}

// A body that stops coming is cut, and so is one over the limit.
func TestSlowAndLargeBodies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &api.Server{Store: newFake(1).store()}
		client, server := net.Pipe()
		hs := &http.Server{Handler: s.Handler()}
		go hs.Serve(&oneConn{conns: []net.Conn{server}, done: make(chan struct{})})
		begin := time.Now()
		go io.WriteString(client, "POST /v1/encode HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{")
		resp, err := http.ReadResponse(bufio.NewReader(client), nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != 408 {
			t.Errorf("status %d, want 408", resp.StatusCode)
		}
		if took := time.Since(begin); took < time.Second || took > 20*time.Second {
			t.Errorf("cut after %s", took)
		}
		client.Close()
		hs.Close()
	})
	synctest.Test(t, func(t *testing.T) { // a refusal that does not wait for the body is not held up by it
		s := &api.Server{Store: newFake(1).store()}
		client, server := net.Pipe()
		hs := &http.Server{Handler: s.Handler()}
		go hs.Serve(&oneConn{conns: []net.Conn{server}, done: make(chan struct{})})
		begin := time.Now()
		go io.WriteString(client, "POST /v1/encode HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 1000\r\n\r\nx")
		resp, err := http.ReadResponse(bufio.NewReader(client), nil)
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); resp.StatusCode != 415 || took > 10*time.Second {
			t.Errorf("status %d after %s", resp.StatusCode, took)
		}
		client.Close()
		hs.Close()
		time.Sleep(2 * time.Second)
	})
	synctest.Test(t, func(t *testing.T) { // much at first earns no long silence, and no rate a life without end
		for _, c := range []struct {
			every time.Duration // between further bytes; zero sends none
			least time.Duration
			most  time.Duration
		}{{0, 9 * time.Second, 15 * time.Second}, {time.Second, 28 * time.Second, 32 * time.Second}} {
			s := &api.Server{Store: newFake(1).store(), Deadline: 30 * time.Second}
			client, server := net.Pipe()
			hs := &http.Server{Handler: s.Handler()}
			go hs.Serve(&oneConn{conns: []net.Conn{server}, done: make(chan struct{})})
			begin := time.Now()
			go func() {
				io.WriteString(client, "POST /v1/encode HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 10000000\r\n\r\n\""+strings.Repeat("x", 1<<20))
				for c.every > 0 {
					time.Sleep(c.every)
					if _, err := io.WriteString(client, strings.Repeat("x", 8<<10)); err != nil {
						return
					}
				}
			}()
			resp, err := http.ReadResponse(bufio.NewReader(client), nil)
			if err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begin); resp.StatusCode != 408 || took < c.least || took > c.most {
				t.Errorf("more each %s: status %d after %s", c.every, resp.StatusCode, took)
			}
			client.Close()
			hs.Close()
			time.Sleep(2 * time.Second) // the bubble's: writer and server see the end
		}
	})
	s := newSite(t, &api.Server{Store: newFake(1).store(), MaxBody: 1000, MaxItems: 2})
	long := strings.Repeat("x", 2000)
	if a := s.post("/v1/encode", texts("", long)); a.status != 413 || a.json(t)["limit"] != 1000.0 {
		t.Errorf("%d %s", a.status, a.body)
	}
	r := httptest.NewRequest("POST", "/v1/encode", nil)
	r.Body, r.ContentLength = untouched{t}, 2000 // refused for what it says
	w := httptest.NewRecorder()
	s.api.Handler().ServeHTTP(w, r)
	if w.Code != 413 || !strings.Contains(w.Body.String(), `"actual":2000`) {
		t.Errorf("announced: %d %s", w.Code, w.Body)
	}
	req, _ := http.NewRequest("POST", s.URL+"/v1/encode", io.MultiReader(strings.NewReader(texts("", long)))) // no length
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.Client().Do(req)
	if err != nil || resp.StatusCode != 413 {
		t.Errorf("chunked: %v %v", resp, err)
	}
	s.want(s.post("/v1/encode", texts("", "a", "b", "c")), 413)
	s.want(s.post("/v1/encode", texts("", "a"), "Content-Encoding", "gzip"), 415)
	s.want(s.do("POST", "/v1/encode", []byte("a=b"), "Content-Type", "application/x-www-form-urlencoded"), 415)
}

// oneConn listens to connections that are there already.
type oneConn struct {
	mu    sync.Mutex
	conns []net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *oneConn) Accept() (net.Conn, error) {
	l.mu.Lock()
	if len(l.conns) > 0 {
		c := l.conns[0]
		l.conns = l.conns[1:]
		l.mu.Unlock()
		return c, nil
	}
	l.mu.Unlock()
	<-l.done
	return nil, net.ErrClosed
}
func (l *oneConn) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }

// The bytes of all bodies together are bounded.
func TestBodiesTogether(t *testing.T) {
	f := newFake(1)
	s := newSite(t, &api.Server{Store: f.store(), Slots: 8, Bodies: 1000})
	var wg sync.WaitGroup
	wg.Go(func() {
		s.want(s.post("/v1/encode", `{"user":"`+strings.Repeat("x", 800)+`","inputs":[{"content":[{"type":"text","text":"block"}]}]}`), 200)
	})
	<-f.started
	a := s.want(s.post("/v1/encode", texts(`"user":"`+strings.Repeat("x", 300)+`",`, "a")), 503)
	if a.code(t) != "saturated" {
		t.Errorf("%s", a.body)
	}
	s.want(s.post("/v1/encode", texts("", "a")), 200)
	close(f.gate)
	wg.Wait()
	s.want(s.post("/v1/encode", texts(`"user":"`+strings.Repeat("x", 2000)+`",`, "a")), 200) // alone, it may be larger
}

// /readyz follows the canary, and draining; the log says once why.
func TestReady(t *testing.T) {
	f := newFake(1)
	s := newSite(t, &api.Server{Store: f.store()})
	s.want(s.do("GET", "/readyz", nil), 503) // nothing has been tried yet
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { s.api.Watch(ctx) })
	await(t, func() bool { return s.do("GET", "/readyz", nil).status == 200 })
	s.want(s.do("GET", "/v2/health/ready", nil), 200)
	f.broken.Store(true)
	await(t, func() bool { return s.do("GET", "/readyz", nil).status == 503 })
	s.want(s.do("GET", "/healthz", nil), 200)
	f.broken.Store(false)
	await(t, func() bool { return s.do("GET", "/readyz", nil).status == 200 })
	s.api.Drain()
	s.want(s.do("GET", "/readyz", nil), 503)
	s.want(s.post("/v1/encode", texts("", "x")), 200) // what still comes is served
	w := httptest.NewRecorder()
	s.api.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/healthz", nil))
	if w.Header().Get("Connection") != "close" {
		t.Error("a client is not told to come on another connection")
	}
	cancel()
	wg.Wait()
	if log := s.log.String(); strings.Count(log, "not ready") != 1 || strings.Count(log, "ready again") != 1 {
		t.Errorf("the log does not say once that the server is not ready, once that it is again:\n%s", log)
	}
}

// Hostile and broken media, the whole set when MMSERVE_MEDIA names it, are refused with a problem that
// names the reason, by plans and by passes; nothing is large. What may be read either way never costs
// more than an error.
func TestHostileMedia(t *testing.T) {
	dir := mediaDir
	if d := os.Getenv("MMSERVE_MEDIA"); d != "" {
		dir = d
	}
	b, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	var manifest struct {
		Files []struct{ File, Kind, Validity string }
	}
	if err := json.Unmarshal(b, &manifest); err != nil {
		t.Fatal(err)
	}
	s := newSite(t, &api.Server{Slots: 2})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	malformed := 0
	for _, f := range manifest.Files {
		if f.Validity == "valid" || f.Kind != "image" && f.Kind != "audio" && f.Kind != "pointcloud" {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(f.File)))
		if err != nil {
			t.Fatal(err)
		}
		for _, route := range []string{"/v1/encode", "/v1/plan"} {
			a := s.do("POST", route+"?name="+filepath.Base(f.File), b)
			if a.status >= 500 || a.status >= 400 && (a.code(t) == "" || a.json(t)["detail"] == "") || f.Validity == "malformed" && route == "/v1/encode" && a.status < 400 {
				t.Errorf("%s of %s: %d %.200s", route, f.File, a.status, a.body)
			}
		}
		if f.Validity == "malformed" {
			malformed++
		}
	}
	runtime.ReadMemStats(&after)
	if malformed < 90 {
		t.Errorf("only %d malformed files", malformed)
	}
	if grown := after.Sys - before.Sys; grown > 256<<20 {
		t.Errorf("the process grew by %d MiB", grown>>20)
	}
}

// Reloading under load never fails a request, and a broken model leaves the old one live.
func TestReloadUnderLoad(t *testing.T) {
	f := newFake(1)
	st := &pipeline.Store{}
	var broken bool
	var mu sync.Mutex
	st.Add("fake", func(context.Context) (pipeline.Model, error) {
		mu.Lock()
		defer mu.Unlock()
		if broken {
			return nil, errors.New("fake: broken file")
		}
		return f, nil
	})
	s := newSite(t, &api.Server{Store: st, Slots: 4})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					s.want(s.post("/v1/encode", texts("", "x")), 200)
				}
			}
		})
	}
	for i := range 1000 {
		mu.Lock()
		broken = i%2 == 1
		mu.Unlock()
		if a := s.post("/admin/v1/models/fake/reload", ""); (a.status == 200) != (i%2 == 0) {
			t.Errorf("reload %d: %d %s", i, a.status, a.body)
		}
	}
	close(stop)
	wg.Wait()
}

// writer is a fake with a language model, which writes when its gate opens.
type writer struct{ *fake }

func (w writer) Info() pipeline.Info {
	info := w.fake.Info()
	info.Parameters = 1e9
	return info
}

func (w writer) Generate(ctx context.Context, _ pipeline.Prompt, _ pipeline.GenerateOptions, emit func(string) error) (*pipeline.Generation, error) {
	w.started <- struct{}{}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-w.gate:
		return &pipeline.Generation{Text: "done", Stop: "stop", Tokens: 1}, emit("done")
	}
}

// Text without media has its cost too: a server that is busy writing sheds what comes, instead of
// letting thousands wait.
func TestWritingIsShed(t *testing.T) {
	w := writer{newFake(1)}
	st := &pipeline.Store{}
	st.Add("m", func(context.Context) (pipeline.Model, error) { return w, nil })
	s := newSite(t, &api.Server{Store: st, Slots: 1})
	const ask = `{"messages":[{"role":"user","content":"write"}]}`
	statuses := make(chan int, 20)
	for range cap(statuses) {
		go func() { statuses <- s.post("/v1/chat/completions", ask).status }()
	}
	<-w.started
	shed := 0
	await(t, func() bool {
		select {
		case status := <-statuses:
			if status != 503 {
				t.Errorf("status %d while the first one writes", status)
			}
			shed++
		default:
		}
		return shed >= cap(statuses)-3 // one writes, and of a cost that was not known few came in
	})
	close(w.gate)
	for range cap(statuses) - shed {
		if status := <-statuses; status != 200 && status != 503 {
			t.Errorf("status %d of who waited", status)
		}
	}
	if shed == cap(statuses) {
		t.Error("nobody was let in")
	}
}
