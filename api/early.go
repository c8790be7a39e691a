package api

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Listener returns ln with connections that refuse early: while the queue is full, a request is
// answered before net/http sees it, with what the guards would answer, and its body is dropped.
// Under overload most requests are refused, and net/http's part of a refusal costs several times
// ours. What is out of the ordinary passes unchanged. A listener of TLS is not to be wrapped:
// net/http must see its connections as they are.
func (s *Server) Listener(ln net.Listener) net.Listener {
	s.prepare()
	return &earlyListener{ln, s}
}

type earlyListener struct {
	net.Listener
	s *Server
}

func (l *earlyListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &earlyConn{Conn: c, s: l.s}, nil
}

// earlyConn is a connection that knows where its requests begin. net/http reads one request at a
// time and the next only when it has answered: a read at the beginning of a request may be
// answered here.
type earlyConn struct {
	net.Conn
	s       *Server
	left    int64         // bytes of the request begun that are yet to be read; lost: the beginning of the next is not known
	refused time.Time     // when the row of requests refused here began; zero: the last one went to net/http
	due     time.Duration // net/http's limit of a read, from when it was set; zero: none
	ahead   []byte        // the first byte of the next request, which net/http read while it answered the last one
}

const (
	lost = -1

	// earlyRow is how long requests are refused here one after another. The next one goes to
	// net/http, which renews its time limits and looks whether the server is shutting down.
	earlyRow = 15 * time.Second

	// earlyBody is the rest of a body that is dropped here: net/http, too, reads so much of one to
	// keep the connection, and closes it rather than read more.
	earlyBody = 256 << 10
)

// Read hands on what arrives, but for requests that are refused here.
func (c *earlyConn) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		if n <= 0 || err != nil || c.left == lost {
			return n, err
		}
		if c.left > 0 {
			c.left -= int64(n)
		} else {
			if len(p) == 1 && c.ahead == nil {
				c.ahead = []byte{p[0]}
				return n, nil
			}
			begun := p[:n]
			if c.ahead != nil { // net/http has begun to read it: it is too late to refuse it here
				begun = append(c.ahead, begun...)
				c.ahead = nil
			}
			size := requestSize(begun)
			if rest := size - int64(n); len(begun) == n && rest >= 0 && rest <= earlyBody {
				switch refused, err := c.refuse(begun, rest); {
				case err != nil:
					return 0, err
				case refused:
					continue
				}
			}
			c.refused = time.Time{}
			c.left = size - int64(len(begun)) // negative when the size is lost, too
		}
		if c.left < 0 { // more than one request at once: net/http keeps them apart
			c.left = lost
		}
		return n, err
	}
}

// refuse answers a request, whose header and begin of a body are given, when the queue is full and
// the guards would let it come that far; then it drops the rest of the body. The error is the
// connection's.
func (c *earlyConn) refuse(begun []byte, rest int64) (refused bool, err error) {
	s := c.s
	full := s.queue.full()
	if full == nil || s.draining.Load() {
		return false, nil
	}
	begin := time.Now()
	if c.refused.IsZero() {
		c.refused = begin
	} else if begin.Sub(c.refused) > earlyRow {
		return false, nil
	}
	r, err := http.ReadRequest(bufio.NewReaderSize(bytes.NewReader(begun), len(begun)))
	if err != nil || r.Close {
		return false, nil
	}
	rt, ok := s.early[r.Method+" "+r.URL.EscapedPath()]
	if !ok {
		return false, nil
	}
	r = r.WithContext(context.WithValue(context.Background(), http.LocalAddrContextKey, c.LocalAddr()))
	if _, err := s.admit(r, rt.scope); err != nil {
		return false, nil
	}
	w := &wholeAnswer{header: http.Header{}}
	s.shed(w, r, rt, head(w, r), full, begin)
	// A client that leaves a socket's buffer full of answers unread, or that does not send the body
	// it announced, is not waited for. One that was answered has its time for the next request anew,
	// or a connection's first one would come too late for ever.
	c.Conn.SetDeadline(begin.Add(bodyGrace))
	defer func() {
		var due time.Time
		if c.due != 0 {
			due = time.Now().Add(c.due)
		}
		c.Conn.SetWriteDeadline(time.Time{})
		c.Conn.SetReadDeadline(due)
	}()
	if _, err := c.Conn.Write(w.bytes(begin)); err != nil {
		return true, err
	}
	_, err = io.CopyN(io.Discard, c.Conn, rest)
	return true, err
}

// SetReadDeadline keeps the limit, which a refusal changes for a while.
func (c *earlyConn) SetReadDeadline(t time.Time) error {
	c.limit(t)
	return c.Conn.SetReadDeadline(t)
}

// SetDeadline is SetReadDeadline, for writing too.
func (c *earlyConn) SetDeadline(t time.Time) error {
	c.limit(t)
	return c.Conn.SetDeadline(t)
}

func (c *earlyConn) limit(t time.Time) {
	if c.due = 0; !t.IsZero() {
		c.due = time.Until(t)
	}
}

// CloseWrite lets net/http end a connection without losing its last answer.
func (c *earlyConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// requestSize is the bytes of the HTTP/1.1 request that b begins with, lost when b does not hold
// its whole header or its size cannot be told from Content-Length alone. It is strict: whatever
// could be read in two ways, or net/http takes for no request, is lost.
func requestSize(b []byte) int64 {
	length, seen, host := int64(0), false, false
	for at, first := 0, true; ; first = false {
		end := bytes.IndexByte(b[at:], '\n')
		if end < 1 || b[at+end-1] != '\r' {
			return lost
		}
		line := b[at : at+end-1]
		at += end + 1
		if len(line) == 0 {
			if first || !host || length > math.MaxInt64-int64(at) {
				return lost
			}
			return int64(at) + length
		}
		if bytes.IndexByte(line, '\r') >= 0 {
			return lost
		}
		if first {
			if !bytes.HasSuffix(line, []byte(" HTTP/1.1")) {
				return lost
			}
			continue
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		switch {
		case !ok || !isName(name):
			return lost
		case bytes.EqualFold(name, []byte("Host")):
			host = true
		case bytes.EqualFold(name, []byte("Transfer-Encoding")), bytes.EqualFold(name, []byte("Expect")), bytes.EqualFold(name, []byte("Upgrade")):
			return lost
		case bytes.EqualFold(name, []byte("Content-Length")):
			n, err := strconv.ParseUint(string(bytes.Trim(value, " \t")), 10, 63)
			if err != nil || seen {
				return lost
			}
			length, seen = int64(n), true
		}
	}
}

// isName reports whether b is a header's name. Before all, a space before the colon makes it none: who
// overlooks it reads another framing.
func isName(b []byte) bool {
	for _, c := range b {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return len(b) > 0
}

// wholeAnswer is an answer in memory.
type wholeAnswer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *wholeAnswer) Header() http.Header         { return w.header }
func (w *wholeAnswer) WriteHeader(status int)      { w.status = status }
func (w *wholeAnswer) Write(b []byte) (int, error) { return w.body.Write(b) }

// bytes is the answer as HTTP/1.1 sends it.
func (w *wholeAnswer) bytes(now time.Time) []byte {
	b := append(make([]byte, 0, 1024), "HTTP/1.1 "...)
	b = append(append(strconv.AppendInt(b, int64(w.status), 10), ' '), http.StatusText(w.status)...)
	b = now.UTC().AppendFormat(append(b, "\r\nDate: "...), http.TimeFormat)
	b = strconv.AppendInt(append(b, "\r\nContent-Length: "...), int64(w.body.Len()), 10)
	for name, values := range w.header {
		for _, v := range values {
			b = append(append(append(append(b, "\r\n"...), name...), ": "...), v...)
		}
	}
	return append(append(b, "\r\n\r\n"...), w.body.Bytes()...)
}
