package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// An answer is whole with its last byte and not before, however it is framed.
func TestParseAnswer(t *testing.T) {
	for _, c := range []struct {
		in, body string
		status   int
		last     bool
		after    string // of the connection, not of the answer
	}{
		{"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody", "body", 200, false, "HTTP"},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nbod\r\n1\r\ny\r\n0\r\n\r\n", "body", 200, false, "HTTP"},
		{"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", "", 503, true, "x"},
		{"HTTP/1.1 204 No Content\r\n\r\n", "", 204, false, "HTTP"},
		{"HTTP/1.0 200 OK\r\n\r\nto the end", "to the end", 200, false, ""},
	} {
		whole := []byte(c.in + c.after)
		for n := range whole {
			a, used, err := parseAnswer(whole[:n], false)
			if err != nil {
				t.Fatalf("%q after %d bytes: %v", c.in, n, err)
			}
			if used > 0 && n < len(c.in) {
				t.Errorf("%q is said to end after %d bytes: %+v", c.in, used, a)
			}
		}
		a, used, err := parseAnswer(whole, c.after == "")
		if err != nil || used != len(c.in) || string(a.body) != c.body || a.status != c.status || a.last != c.last {
			t.Errorf("%q: %+v, %d bytes, %v", c.in, a, used, err)
		}
	}
	for _, bad := range []string{"SSH-2.0\r\n\r\n", "HTTP/1.1 abc\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "HTTP\r\n\r\n"} {
		if a, n, err := parseAnswer([]byte(bad), false); err == nil {
			t.Errorf("%q: %+v, %d", bad, a, n)
		}
	}
}

// Every request that is started ends once, with its own answer or an error, on a wire and in a
// fleet, whatever the server does to its connections.
func TestEachRequestEndsOnce(t *testing.T) {
	hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		switch q := r.URL.RawQuery; q {
		case "last":
			w.Header().Set("Connection", "close")
		case "cut":
			panic(http.ErrAbortHandler)
		case "pieces":
			for i := range b {
				w.Write(b[i : i+1])
				http.NewResponseController(w).Flush()
			}
			return
		case "unread":
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.Write(b)
	}))
	defer hs.Close()
	w, err := newWire(t.Context(), hs.URL, "")
	if err != nil {
		t.Fatal(err)
	}
	type starter struct {
		name  string
		start func([]byte, func(int, []byte, error))
		rest  func()
	}
	starters := []starter{{"wire", w.start, func() {}}}
	if f := newFleet(t.Context(), w); f != nil {
		defer f.close()
		starters = append(starters, starter{"fleet", f.start, f.rest})
	}
	for _, s := range starters {
		t.Run(s.name, func(t *testing.T) {
			const rounds = 20
			ended := make(chan string, 1000)
			want := 0
			for round := range rounds {
				for _, kind := range []string{"plain", "last", "cut", "pieces", "unread", "large"} {
					body := []byte(fmt.Sprint(kind, round))
					if kind == "large" {
						body = bytes.Repeat([]byte("0123456789abcdef"), 1<<15+round)
					}
					want++
					s.start(w.request("POST", "/?"+kind, "", body), func(status int, answer []byte, err error) {
						switch {
						case kind == "cut" && err != nil, kind == "unread" && status == 503, err == nil && status == 200 && bytes.Equal(answer, body):
							ended <- ""
						default:
							ended <- fmt.Sprintf("%s: %d %v, %d bytes of %d", kind, status, err, len(answer), len(body))
						}
					})
				}
				if round%5 == 4 { // so that connections lie idle in between
					s.rest()
				}
			}
			s.rest()
			for range want {
				if fault := <-ended; fault != "" {
					t.Error(fault)
				}
			}
			if len(ended) != 0 {
				t.Error("a request ended twice")
			}
		})
	}
}

// A fleet whose context ends, or whose server is not there, fails what is under way.
func TestFleetWithoutAnswers(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	hs := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	}))
	t.Cleanup(hs.Close)
	w, err := newWire(t.Context(), hs.URL, "")
	if err != nil {
		t.Fatal(err)
	}
	f := newFleet(ctx, w)
	if f == nil {
		t.Skip("the generator polls its connections on Linux alone")
	}
	defer f.close()
	fails := func(of *fleet) (err error) {
		of.start(w.request("GET", "/", "", nil), func(_ int, _ []byte, e error) { err = e })
		of.rest()
		return err
	}
	if err := fails(f); err != context.Canceled {
		t.Errorf("a context that ended: %v", err)
	}
	gone, err := newWire(t.Context(), "http://127.0.0.1:1", "")
	if err != nil {
		t.Fatal(err)
	}
	g := newFleet(t.Context(), gone)
	defer g.close()
	if err := fails(g); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("no server: %v", err)
	}
}

// A request that takes a connection at the moment that its reader ends is sent on another one.
func TestWireConnectionEndsAsItIsTaken(t *testing.T) {
	hs := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer hs.Close()
	w, err := newWire(t.Context(), hs.URL, "")
	if err != nil {
		t.Fatal(err)
	}
	c, err := w.dial()
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	w.read(c)
	w.mu.Lock()
	w.idle = append(w.idle, c) // as when start was there before drop
	w.mu.Unlock()
	ended := make(chan int, 1)
	w.start(w.request("GET", "/", "", nil), func(status int, _ []byte, _ error) { ended <- status })
	select {
	case status := <-ended:
		if status != http.StatusOK {
			t.Errorf("status %d", status)
		}
	case <-time.After(10 * time.Second):
		t.Error("the request never ended")
	}
}
