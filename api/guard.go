package api

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// maxRequestID bounds a request id that a client brings along.
const maxRequestID = 64

// guard wraps a route in everything that holds for all of them: a request id, one log line,
// metrics, recovery, authorization, a deadline, and limits on the body's size and pace.
func (s *Server) guard(rt route) http.HandlerFunc {
	label := rt.path
	if label == "" {
		label = "unknown"
	}
	return func(w http.ResponseWriter, r *http.Request) {
		begin := time.Now()
		id := head(w, r)
		if s.draining.Load() {
			w.Header().Set("Connection", "close") // so that no client sends on a connection that is about to close
		}
		if r.Body != nil && r.Body != http.NoBody {
			// net/http reads the rest of a body before it sends an answer that did not wait for it.
			http.NewResponseController(w).SetReadDeadline(begin.Add(bodyGrace))
		}
		key, err := s.admit(r, rt.scope)
		var place *Place
		if err == nil && rt.admits() {
			var full *Saturated
			if place, err = s.queue.Reserve(); errors.As(err, &full) {
				s.shed(w, r, rt, id, full, begin)
				return
			}
			defer place.Close()
		}
		sw := &statusWriter{ResponseWriter: w}
		ctx, cancel := s.context(r, id)
		defer cancel()
		t := &timings{}
		ctx = context.WithValue(context.WithValue(ctx, timingsKey{}, t), placeKey{}, place)
		sw.before = func(h http.Header) { h.Set("Server-Timing", t.header(time.Since(begin))) }
		if err == nil {
			err = s.serve(sw, r.WithContext(ctx), rt)
		}
		took := time.Since(begin)
		cut := err != nil && !s.fail(sw, r, rt, id, err, ctx)
		s.metrics.request(label, r.Method, sw.status(), took)
		level := slog.LevelInfo
		if rt.scope == ScopePublic && sw.status() < 400 {
			level = slog.LevelDebug
		}
		attrs := []any{"id", id, "method", r.Method, "route", label, "status", sw.status(), "seconds", took.Seconds(), "bytes", sw.bytes, "key", key}
		if tp := r.Header.Get("Traceparent"); validTraceparent(tp) {
			attrs = append(attrs, "trace_id", tp[3:35])
		}
		s.Log.Log(ctx, level, "request", attrs...)
		if cut {
			panic(http.ErrAbortHandler)
		}
	}
}

// head sets what the header of every answer holds, and returns the request's id.
func head(w http.ResponseWriter, r *http.Request) (id string) {
	id = requestID(r)
	w.Header().Set("X-Request-Id", id)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	return id
}

// admit asks for a key. A server without keys trusts this machine alone, so a browser on it must
// not carry in what other sites' pages send, nor what a name of theirs that leads here asks.
func (s *Server) admit(r *http.Request, need Scope) (key string, err error) {
	if s.Keys.Any() || s.AnyOrigin {
		return s.Keys.authorize(r, need)
	}
	if err := crossOrigin.Check(r); err != nil {
		return "", problem(codeForbidden, "a page of another site may not use a server without keys")
	}
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok && local.IP.IsLoopback() && r.Host != "" && !loopbackName(r.Host) {
		return "", problem(codeForbidden, "the Host header names "+quote(r.Host)+"; a server without keys answers to localhost alone")
	}
	return "", nil
}

var crossOrigin = http.NewCrossOriginProtection()

// loopbackName reports whether a Host header means this machine.
func loopbackName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.Trim(host, "[]"), ".")
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

// serve runs one request; a panic becomes an error.
func (s *Server) serve(w *statusWriter, r *http.Request, rt route) (err error) {
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler {
				panic(p)
			}
			err = fmt.Errorf("api: panic: %v\n%s", p, debug.Stack())
		}
	}()
	l := &ledger{s: s}
	defer l.close()
	body, err := s.limitBody(w, r, rt, l)
	if err != nil {
		return err
	}
	if body != nil {
		r.Body = body
	}
	return rt.handle(w, r.WithContext(context.WithValue(r.Context(), ledgerKey{}, l)))
}

// limitBody refuses a body that is announced too large, and bounds the size and the pace of
// what arrives and the bytes of all bodies together.
func (s *Server) limitBody(w http.ResponseWriter, r *http.Request, rt route, l *ledger) (*pacedBody, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return nil, nil
	}
	if r.ContentLength > s.maxBody() {
		p := problem(codeBodyTooLarge, "the body passes the server's limit")
		p.Limit, p.Actual = float64(s.maxBody()), float64(r.ContentLength)
		return nil, p
	}
	if enc := r.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return nil, problem(codeMediaType, "compressed bodies are not taken")
	}
	if rt.admits() {
		if held := s.held.Load(); held > 0 && held+max(r.ContentLength, 0) > s.bodies() {
			return nil, &Saturated{RetryAfter: fullMemory}
		}
	}
	end, _ := r.Context().Deadline() // guard has set one
	return &pacedBody{
		end: end, ReadCloser: http.MaxBytesReader(w, r.Body, s.maxBody()),
		control: http.NewResponseController(w), rate: s.bodyRate(), ledger: l,
	}, nil
}

// shed answers a request that found the queue full, before its body is read and before anything
// is done for it: refusing must stay far cheaper than serving.
func (s *Server) shed(w http.ResponseWriter, r *http.Request, rt route, id string, full *Saturated, begin time.Time) {
	p := full.problem()
	p.Instance, p.RequestID = r.URL.Path, id
	s.metrics.problem(p.Code)
	s.shedding.note(s.Log, full)
	p.write(w, rt.errors)
	s.metrics.request(rt.path, r.Method, p.Status, time.Since(begin))
}

// shedLog writes one line a second for all requests that are shed.
type shedLog struct {
	since atomic.Int64 // nanoseconds: the last line
	count atomic.Int64 // requests shed since then
}

func (l *shedLog) note(log *slog.Logger, full *Saturated) {
	l.count.Add(1)
	now, since := time.Now().UnixNano(), l.since.Load()
	if now-since >= int64(time.Second) && l.since.CompareAndSwap(since, now) {
		log.Warn("shedding", "requests", l.count.Swap(0), "retry_after_s", full.RetryAfter.Seconds())
	}
}

// fail sends an error and reports true, unless the answer has begun; then the connection is
// to be cut, so that a client never takes a part for the whole.
func (s *Server) fail(w *statusWriter, r *http.Request, rt route, id string, err error, ctx context.Context) bool {
	p := asProblem(ctx, err)
	p.Instance, p.RequestID = r.URL.Path, id
	s.Log.Log(ctx, p.logLevel(), "problem", "id", id, "code", p.Code, "error", err.Error())
	s.metrics.problem(p.Code)
	if w.wrote != 0 {
		return false
	}
	p.write(w, rt.errors)
	return true
}

// context bounds a request: by its client, by the deadline its headers ask for, by ours.
func (s *Server) context(r *http.Request, id string) (context.Context, context.CancelFunc) {
	limit := s.deadline()
	if ms, err := strconv.ParseInt(r.Header.Get("X-Request-Timeout-Ms"), 10, 64); err == nil && ms > 0 {
		limit = shorter(limit, ms)
	}
	return context.WithTimeout(context.WithValue(r.Context(), requestIDKey{}, id), limit)
}

// shorter is the lesser of a limit and so many milliseconds.
func shorter(limit time.Duration, ms int64) time.Duration {
	return time.Duration(min(int64(limit/time.Millisecond), ms)) * time.Millisecond
}

type requestIDKey struct{}

// requestID is the client's id when it is harmless, else a fresh one.
func requestID(r *http.Request) string {
	id := r.Header.Get("X-Request-Id")
	ok := id != "" && len(id) <= maxRequestID && strings.IndexFunc(id, func(c rune) bool {
		return !(c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '-' || c == '_' || c == '.')
	}) < 0
	if ok {
		return id
	}
	return rand.Text()
}

// validTraceparent reports whether a W3C traceparent header has its form.
func validTraceparent(s string) bool {
	return len(s) == 55 && s[2] == '-' && s[35] == '-' && s[52] == '-' && strings.Trim(s[3:35], "0123456789abcdef") == ""
}

// statusWriter remembers what was sent.
type statusWriter struct {
	http.ResponseWriter
	before func(http.Header) // runs once, before the header goes out
	wrote  int
	bytes  int64
}

func (w *statusWriter) WriteHeader(code int) {
	if w.wrote == 0 {
		w.wrote = code
		w.before(w.Header())
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *statusWriter) Write(b []byte) (int, error) {
	if w.wrote == 0 {
		w.WriteHeader(http.StatusOK)
	}
	n, err := w.ResponseWriter.Write(b)
	w.bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *statusWriter) status() int {
	if w.wrote == 0 {
		return http.StatusOK
	}
	return w.wrote
}

// pacedBody is a body that must keep arriving: after a grace of five seconds, at the least
// rate on average, never silent for longer than a stall, and before the request's deadline. Each
// read moves the connection's deadline accordingly.
type pacedBody struct {
	io.ReadCloser
	control *http.ResponseController
	rate    int64
	end     time.Time // the request's deadline
	begin   time.Time
	read    int64
	ledger  *ledger
}

const (
	bodyGrace = 5 * time.Second  // that a body may take whatever its size
	bodyStall = 10 * time.Second // that it may be silent, however much came before
)

func (b *pacedBody) Read(p []byte) (int, error) {
	now := time.Now()
	if b.begin.IsZero() {
		b.begin = now
	}
	// Enough time for what has come so far and one more read at the least rate.
	due := b.begin.Add(bodyGrace + time.Duration(float64(b.read)/float64(b.rate)*float64(time.Second)))
	for _, sooner := range []time.Time{now.Add(bodyStall), b.end} {
		if sooner.Before(due) {
			due = sooner
		}
	}
	b.control.SetReadDeadline(due) // not every writer has deadlines; tests' recorders have none
	n, err := b.ReadCloser.Read(p)
	b.read += int64(n)
	if e := b.ledger.hold(int64(n)); e != nil {
		return n, e
	}
	switch {
	case err == nil || asType(err, new(*http.MaxBytesError)):
		return n, err
	case errors.Is(err, io.EOF):
		b.control.SetReadDeadline(time.Time{})
		return n, err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return n, problem(codeSlow, "the body came too slowly")
	}
	return n, fmt.Errorf("%w: %w", problem(codeBadRequest, "the body breaks off, or its chunks are malformed"), err)
}

// recovered turns a panic into an error.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("api: panic: %v\n%s", p, debug.Stack())
	}
}
