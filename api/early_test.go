package api_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mmserve/mmserve/api"
)

// filled is a server with a queue that one request fills, reached over TCP; seen counts what reaches
// the handler.
type filled struct {
	*fake
	api  *api.Server
	addr string
	seen atomic.Int64
}

// newFilled serves with or without early refusals, its only slot taken until the gate opens.
func newFilled(t *testing.T, early bool, keys ...api.Key) *filled {
	t.Helper()
	f := &filled{fake: newFake(1e9)}
	s := &api.Server{Store: f.store(), Slots: 1, Capacity: 1.5e9, Keys: new(api.Keys)}
	f.api = s
	if err := s.Keys.Set(keys); err != nil {
		t.Fatal(err)
	}
	h := s.Handler()
	hs := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.seen.Add(1)
		h.ServeHTTP(w, r)
	}))
	if early {
		hs.Listener = s.Listener(hs.Listener)
	}
	hs.Start()
	t.Cleanup(hs.Close)
	f.addr = hs.Listener.Addr().String()
	block := f.dial(t)
	f.ask(t, block, post("/v1/encode", "X-API-Key: K\r\n", "block")) // without an answer yet
	<-f.started
	await(t, func() bool {
		other := f.dial(t)
		defer other.Close()
		status, _, _ := f.answer(t, f.ask(t, other, post("/v1/encode", "X-API-Key: K\r\n", "probe")))
		return status == 503
	})
	f.seen.Store(0)
	return f
}

func (f *filled) dial(t *testing.T) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// post is a request as a client writes it.
func post(path, header, body string) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n%sContent-Length: %d\r\n\r\n%s", path, header, len(body), body)
}

// ask sends a request and returns where its answer is read.
func (f *filled) ask(t *testing.T, c net.Conn, request string) *bufio.Reader {
	t.Helper()
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	return bufio.NewReader(c)
}

// answer reads an answer; what differs from request to request is taken out of it.
func (f *filled) answer(t *testing.T, r *bufio.Reader) (status int, header []string, body string) {
	t.Helper()
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	id := resp.Header.Get("X-Request-Id")
	if id == "" || resp.Header.Get("Date") == "" {
		t.Errorf("an answer without an id or a date: %v", resp.Header)
	}
	for _, varies := range []string{"Date", "Server-Timing", "X-Request-Id"} {
		resp.Header.Del(varies)
	}
	header = []string{fmt.Sprint(resp.Proto, " ", resp.Status, " ", resp.Close)}
	for _, name := range slices.Sorted(maps.Keys(resp.Header)) {
		header = append(header, name+": "+strings.Join(resp.Header[name], ", "))
	}
	return resp.StatusCode, header, strings.ReplaceAll(string(b), id, "ID")
}

// An early refusal is the refusal that the handler would have written, and only what would have
// been refused is.
func TestEarlyRefusalsAreTheHandlers(t *testing.T) {
	keys := []api.Key{
		{Name: "k", Hash: api.HashKey("K"), Scopes: []api.Scope{api.ScopeEncode}},
		{Name: "slow", Hash: api.HashKey("S"), Scopes: []api.Scope{api.ScopeEncode}, Rate: 1e-9},
		{Name: "none", Hash: api.HashKey("N")},
	}
	const key = "X-API-Key: K\r\n"
	open, withKeys := [2]*filled{newFilled(t, false), newFilled(t, true)}, [2]*filled{newFilled(t, false, keys...), newFilled(t, true, keys...)}
	for _, c := range []struct {
		name, request string
		early         bool
		status        int
		sites         [2]*filled
	}{
		{"a text", post("/v1/encode", "", "x"), true, 503, open},
		{"a query", post("/v1/encode?output=pooled", "", "x"), true, 503, open},
		{"another route", post("/v1/predict", "", "x"), true, 503, open},
		{"OpenAI's route", post("/v1/embeddings", "", "{}"), true, 503, open},
		{"no body", "POST /v1/plan HTTP/1.1\r\nHost: localhost\r\n\r\n", true, 503, open},
		{"an id", post("/v1/encode", "X-Request-Id: mine-1\r\n", "x"), true, 503, open},
		{"a body of many reads", post("/v1/encode", "", strings.Repeat("x", 100<<10)), true, 503, open},
		{"a protocol with names in its paths", post("/v2/models/fake/infer", "", "{}"), false, 503, open},
		{"a health check", "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", false, 200, open},
		{"no such path", post("/v1/nothing", "", "x"), false, 404, open},
		{"the wrong method", "GET /v1/encode HTTP/1.1\r\nHost: localhost\r\n\r\n", false, 405, open},
		{"another site's page", post("/v1/encode", "Origin: https://example.com\r\n", "x"), false, 403, open},
		{"another host's name", strings.Replace(post("/v1/encode", "", "x"), "localhost", "example.com", 1), false, 403, open},
		{"the last request of a connection", post("/v1/encode", "Connection: close\r\n", "x"), false, 503, open},
		{"a key", post("/v1/encode", key, "x"), true, 503, withKeys},
		{"a bearer's key", post("/v1/encode", "Authorization: Bearer K\r\n", "x"), true, 503, withKeys},
		{"no key", post("/v1/encode", "", "x"), false, 401, withKeys},
		{"a wrong key", post("/v1/encode", "X-API-Key: other\r\n", "x"), false, 401, withKeys},
		{"a key without scope", post("/v1/encode", "X-API-Key: N\r\n", "x"), false, 403, withKeys},
		{"a key's first", post("/v1/encode", "X-API-Key: S\r\n", "x"), true, 503, withKeys},
		{"a key over its rate", post("/v1/encode", "X-API-Key: S\r\n", "x"), false, 429, withKeys},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, late, words := c.sites[0].answer(t, c.sites[0].ask(t, c.sites[0].dial(t), c.request))
			before := c.sites[1].seen.Load()
			status, header, body := c.sites[1].answer(t, c.sites[1].ask(t, c.sites[1].dial(t), c.request))
			if status != c.status {
				t.Errorf("status %d, want %d: %s", status, c.status, body)
			}
			if !slices.Equal(header, late) || c.status != 429 && body != words { // a quota's wait varies
				t.Errorf("refused with\n%v\n%s\nthe handler says\n%v\n%s", header, body, late, words)
			}
			if early := c.sites[1].seen.Load() == before; early != c.early {
				t.Errorf("refused early: %t, want %t", early, c.early)
			}
		})
	}
}

// A connection goes on after early refusals: the next request is where it should be, whatever the
// last one held, and is served when there is room again.
func TestConnectionAfterEarlyRefusals(t *testing.T) {
	f := newFilled(t, true)
	c := f.dial(t)
	r := f.ask(t, c, "")
	next := func(request string, want int) {
		t.Helper()
		if _, err := io.WriteString(c, request); err != nil {
			t.Fatal(err)
		}
		if status, _, body := f.answer(t, r); status != want {
			t.Fatalf("%.40q: %d %s, want %d", request, status, body, want)
		}
	}
	smuggled := post("/v1/encode", "", post("/v1/encode", "", "x"))
	for range 3 {
		next(post("/v1/encode", "", "x"), 503)
		next(smuggled, 503)
		next("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 200)
		next(post("/v1/encode", "", strings.Repeat("x", 10000)), 503)
	}
	// The header alone is enough to be refused; the body is dropped as it comes.
	long := post("/v1/encode", "", strings.Repeat("x", 10000))
	at := strings.Index(long, "\r\n\r\n") + 4
	next(long[:at], 503)
	io.WriteString(c, long[at:])
	// Two at once, and one in two pieces, which net/http takes apart.
	io.WriteString(c, post("/v1/encode", "", "x")+post("/v1/predict", "", "x"))
	for range 2 {
		if status, _, body := f.answer(t, r); status != 503 {
			t.Fatalf("%d %s", status, body)
		}
	}
	next(post("/v1/encode", "", "x"), 503)
	close(f.gate)
	await(t, func() bool {
		io.WriteString(c, post("/v1/encode?output=pooled&encoding=float", "", "four"))
		status, _, body := f.answer(t, r)
		return status == 200 && strings.Contains(body, `"data":[4,1]`)
	})
}

// What net/http takes for no request is not refused early: a client, or a proxy before us, that reads
// its framing in another way must not have the connection go on.
func TestMalformedRequestsAreNetHTTPs(t *testing.T) {
	sites := [2]*filled{newFilled(t, false), newFilled(t, true)}
	for _, request := range []string{
		"POST /v1/encode HTTP/1.1\r\nHost: localhost\r\nContent-Length : 1\r\n\r\n",
		"POST /v1/encode HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding : chunked\r\n\r\n",
		"POST /v1/encode HTTP/1.1\r\nHost: localhost\r\nContent Length: 1\r\n\r\n",
		"POST /v1/encode HTTP/1.1\r\nHost: localhost\r\n: 1\r\n\r\n",
		"POST /v1/encode HTTP/1.1\r\n\r\n",
		"POST http://localhost/v1/encode HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
	} {
		var said [2]string
		for i, f := range sites {
			r := f.ask(t, f.dial(t), request)
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			said[i] = fmt.Sprint(resp.Status, resp.Close, string(body))
		}
		if said[0] != said[1] {
			t.Errorf("%q: %s\nnet/http says %s", request, said[1], said[0])
		}
	}
}

// A row of early refusals ends after a while: net/http sees the connection and renews its limits,
// so that a client that is refused for an hour is not cut off as idle. One that does not send the
// body it announced is.
func TestEarlyRowsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(1e9)
		s := &api.Server{Store: f.store(), Slots: 1, Capacity: 1.5e9, Deadline: time.Hour}
		seen := 0
		h := s.Handler()
		ln := &pipes{conns: make(chan net.Conn)}
		hs := &http.Server{ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			seen++
			h.ServeHTTP(w, r)
		})}
		end := make(chan error)
		go func() { end <- hs.Serve(s.Listener(ln)) }()
		dial := func() net.Conn {
			here, there := net.Pipe()
			ln.conns <- there
			return here
		}
		block := dial()
		io.WriteString(block, post("/v1/encode", "", "block"))
		<-f.started
		c := dial()
		r := bufio.NewReader(c)
		const minutes = 10
		for range minutes * 60 {
			go io.WriteString(c, post("/v1/encode", "", "x"))
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, resp.Body)
			if resp.StatusCode != 503 {
				t.Fatal(resp.Status)
			}
			time.Sleep(time.Second)
		}
		if seen < minutes*2 || seen > minutes*6 {
			t.Errorf("net/http saw %d of %d requests", seen, minutes*60)
		}
		whole := post("/v1/encode", "", "xx")
		go io.WriteString(c, whole[:len(whole)-1])
		if _, err := http.ReadResponse(r, nil); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		io.Copy(io.Discard, r)
		if took := time.Since(begin); took > 10*time.Second {
			t.Errorf("a body that does not come holds the connection for %s", took)
		}
		close(f.gate)
		http.ReadResponse(bufio.NewReader(block), nil)
		block.Close()
		hs.Close()
		<-end
	})
}

// pipes is a listener of connections made by a test.
type pipes struct{ conns chan net.Conn }

func (p *pipes) Accept() (net.Conn, error) {
	c, ok := <-p.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (p *pipes) Close() error   { close(p.conns); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// What requestSize says of a request's end is what net/http says, or nothing.
func FuzzRequestSize(f *testing.F) {
	for _, header := range []string{"", "Content-Length:1\r\n", "Transfer-Encoding: chunked\r\n", "Expect: 100-continue\r\n", " folded\r\n", "A\r\n"} {
		f.Add([]byte(post("/v1/encode", header, "body")))
	}
	f.Add([]byte(post("/v1/encode", "Content-Length : 9\r\n", "body")))
	f.Add([]byte("GET / HTTP/1.1\nHost: a\nContent-Length: 9\n\nx\r\n\r\n"))
	f.Add([]byte("GET / HTTP/1.0\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		size := api.RequestSize(b)
		if size < 0 {
			return
		}
		in := bytes.NewReader(b)
		buffered := bufio.NewReader(in)
		r, err := http.ReadRequest(buffered)
		if err != nil {
			return // net/http closes the connection
		}
		header := len(b) - in.Len() - buffered.Buffered()
		if r.ContentLength < 0 || size != int64(header)+r.ContentLength {
			t.Fatalf("%d bytes; net/http: %d and %d, of %q", size, header, r.ContentLength, b)
		}
	})
}

// The problem document of an early refusal is whole JSON.
func TestEarlyRefusalIsAProblem(t *testing.T) {
	f := newFilled(t, true)
	_, _, body := f.answer(t, f.ask(t, f.dial(t), post("/v1/encode", "", "x")))
	var p api.Problem
	if err := json.Unmarshal([]byte(body), &p); err != nil || p.Code != "saturated" || p.Instance != "/v1/encode" || p.RetryAfter < 1000 {
		t.Errorf("%v %s", err, body)
	}
}

// net/http may read the first byte of a request while it answers the one before. That request is
// its own, and the next one may be refused early again.
func TestEarlyAfterAByteAhead(t *testing.T) {
	f := newFilled(t, true)
	ln := &pipes{conns: make(chan net.Conn, 1)}
	here, there := net.Pipe()
	defer here.Close()
	ln.conns <- there
	here.SetDeadline(time.Now().Add(20 * time.Second))
	c, err := f.api.Listener(ln).Accept()
	if err != nil {
		t.Fatal(err)
	}
	request := post("/v1/encode", "", "x")
	go io.WriteString(here, request)
	got := make([]byte, len(request))
	for _, part := range [][]byte{got[:1], got[1:]} {
		if _, err := io.ReadFull(c, part); err != nil {
			t.Fatal(err)
		}
	}
	if string(got) != request {
		t.Errorf("%q", got)
	}
	go c.Read(make([]byte, 4096)) // as net/http waits for the next request
	if status, _, _ := f.answer(t, f.ask(t, here, request)); status != 503 {
		t.Errorf("status %d", status)
	}
}
