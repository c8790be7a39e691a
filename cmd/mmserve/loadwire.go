package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"
)

// wire speaks HTTP/1.1 to one server over connections it keeps, one request at a time on each.
// It is far cheaper a request than net/http's client, so that a generator on the server's own
// machine leaves it the cores: who asks writes, and the connection's goroutine reads.
type wire struct {
	host   string // with port
	secure bool
	header string // lines sent with every request

	mu     sync.Mutex
	idle   []*wireConn
	open   map[*wireConn]struct{}
	closed bool
}

// wireConn is one connection. Its reader owns buf.
type wireConn struct {
	net.Conn
	buf  []byte // what came
	used int    // bytes of buf that the last answer took

	mu      sync.Mutex
	pending *exchange // nil while the connection is idle
	ended   bool      // nobody reads any more
}

// exchange is a request under way.
type exchange struct {
	request []byte
	done    func(status int, answer []byte, err error)
	fresh   bool // its connection was dialled for it
}

const (
	answerLimit = time.Minute // for an answer to come
	inlineWrite = 32 << 10    // bytes of a request that fit a socket's buffer: written without waiting
)

// newWire prepares to talk to the server at a URL until ctx ends.
func newWire(ctx context.Context, server, key string) (*wire, error) {
	u, err := url.Parse(server)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, usagef("--url %q: want http://HOST:PORT or https://HOST:PORT", server)
	}
	w := &wire{host: u.Host, secure: u.Scheme == "https", header: "Host: " + u.Host + "\r\n", open: map[*wireConn]struct{}{}}
	if u.Port() == "" {
		w.host = net.JoinHostPort(u.Hostname(), map[bool]string{false: "80", true: "443"}[w.secure])
	}
	if key != "" {
		w.header += "Authorization: Bearer " + key + "\r\n"
	}
	context.AfterFunc(ctx, w.close)
	return w, nil
}

// request is the bytes of a request.
func (w *wire) request(method, path, contentType string, body []byte) []byte {
	b := append(make([]byte, 0, 256+len(body)), method...)
	b = append(append(append(append(b, ' '), path...), " HTTP/1.1\r\n"...), w.header...)
	if contentType != "" {
		b = append(append(append(b, "Content-Type: "...), contentType...), "\r\n"...)
	}
	if method != http.MethodGet {
		b = append(strconv.AppendInt(append(b, "Content-Length: "...), int64(len(body)), 10), "\r\n"...)
	}
	return append(append(b, "\r\n"...), body...)
}

// send sends the bytes of a request and waits for the answer, which is the caller's.
func (w *wire) send(request []byte) (status int, answer []byte, err error) {
	end := make(chan struct{})
	w.start(request, func(s int, a []byte, e error) {
		status, answer, err = s, bytes.Clone(a), e
		close(end)
	})
	<-end
	return status, answer, err
}

// start sends the bytes of a request and calls done with the answer, whose bytes are lent for
// the call. A connection that the server closed while it lay idle is replaced by a fresh one.
func (w *wire) start(request []byte, done func(status int, answer []byte, err error)) {
	x := &exchange{request: request, done: done}
	w.mu.Lock()
	var c *wireConn
	if n := len(w.idle); n > 0 {
		c = w.idle[n-1]
		w.idle = w.idle[:n-1]
	}
	w.mu.Unlock()
	if c == nil {
		go w.startFresh(x)
		return
	}
	c.mu.Lock()
	ended := c.ended
	c.pending = x
	c.mu.Unlock()
	if ended { // just now
		go w.startFresh(x)
		return
	}
	if len(request) <= inlineWrite {
		c.write(x)
		return
	}
	go c.write(x)
}

// write sends the request. Its failure shows where the answer is read: the server may have
// answered, and closed, before it took everything.
func (c *wireConn) write(x *exchange) {
	c.SetDeadline(time.Now().Add(answerLimit))
	if _, err := c.Write(x.request); err != nil {
		c.SetReadDeadline(time.Now().Add(time.Second))
	}
}

// startFresh dials a connection for a request and reads on it from then on.
func (w *wire) startFresh(x *exchange) {
	x.fresh = true
	c, err := w.dial()
	if err != nil {
		x.done(0, nil, err)
		return
	}
	c.pending = x
	c.write(x)
	w.read(c)
}

// read hands on the answers of a connection until it ends.
func (w *wire) read(c *wireConn) {
	for {
		begun, status, body, last, err := c.next()
		c.mu.Lock()
		x := c.pending
		c.pending, c.ended = nil, err != nil || last || x == nil
		c.mu.Unlock()
		switch {
		case err == nil && x == nil:
			err = errors.New("load: an answer that nobody asked for")
			fallthrough
		case err != nil:
			w.drop(c)
			switch {
			case x == nil:
			case begun || x.fresh:
				x.done(0, nil, err)
			default:
				go w.startFresh(x)
			}
			return
		}
		if last {
			w.drop(c)
			x.done(status, body, nil)
			return
		}
		c.SetDeadline(time.Time{})
		x.done(status, body, nil)
		w.mu.Lock()
		w.idle = append(w.idle, c)
		w.mu.Unlock()
	}
}

// next reads one answer; its body is lent until the next call. last is set when the connection
// ends with it, begun when any of it came.
func (c *wireConn) next() (begun bool, status int, body []byte, last bool, err error) {
	c.buf = c.buf[:copy(c.buf, c.buf[c.used:])]
	for ended := false; ; {
		a, n, err := parseAnswer(c.buf, ended)
		switch {
		case err != nil:
			return true, 0, nil, false, err
		case n > 0:
			c.used = n
			return true, a.status, a.body, a.last, nil
		case ended:
			c.used = 0
			return len(c.buf) > 0, 0, nil, false, io.ErrUnexpectedEOF
		}
		c.buf = slices.Grow(c.buf, 4096)
		m, err := c.Read(c.buf[len(c.buf):cap(c.buf)])
		c.buf = c.buf[:len(c.buf)+m]
		if ended = err == io.EOF; err != nil && !ended {
			c.used = 0
			return len(c.buf) > 0, 0, nil, false, err
		}
	}
}

// answer is an HTTP/1.1 answer.
type answer struct {
	status int
	body   []byte
	last   bool // the connection ends with it
}

// parseAnswer reads the answer that b begins with, and the bytes it takes: none while it is not
// whole. ended says that nothing follows b. What comes before a status of 200 announces the answer
// and is skipped.
func parseAnswer(b []byte, ended bool) (a answer, n int, err error) {
	for a.status < 200 {
		head := b[n:]
		end := bytes.Index(head, []byte("\r\n\r\n"))
		if end < 0 {
			return a, 0, nil
		}
		line, rest, _ := bytes.Cut(head[:end+2], []byte("\r\n"))
		if len(line) < 12 || string(line[:7]) != "HTTP/1." {
			return a, 0, fmt.Errorf("load: the answer begins %.40q", line)
		}
		if a.status, err = strconv.Atoi(string(line[9:12])); err != nil {
			return a, 0, fmt.Errorf("load: the answer begins %.40q", line)
		}
		length, chunked := int64(-1), false
		for len(rest) > 0 {
			line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
			name, value, _ := bytes.Cut(line, []byte(":"))
			value = bytes.TrimSpace(value)
			switch {
			case bytes.EqualFold(name, []byte("Content-Length")):
				if length, err = strconv.ParseInt(string(value), 10, 64); err != nil || length < 0 || length > 1<<32 {
					return a, 0, fmt.Errorf("load: Content-Length %.40q", value)
				}
			case bytes.EqualFold(name, []byte("Connection")):
				a.last = a.last || bytes.EqualFold(value, []byte("close"))
			case bytes.EqualFold(name, []byte("Transfer-Encoding")):
				chunked = true
			}
		}
		n += end + 4
		switch {
		case a.status < 200 || a.status == http.StatusNoContent || a.status == http.StatusNotModified:
		case chunked:
			whole := bytes.NewReader(b[n:])
			in := bufio.NewReader(whole)
			a.body, err = io.ReadAll(httputil.NewChunkedReader(in))
			if err == nil { // the empty line after the last chunk
				_, err = in.ReadSlice('\n')
			}
			if err == io.ErrUnexpectedEOF || err == io.EOF {
				return a, 0, nil
			}
			n = len(b) - whole.Len() - in.Buffered()
		case length >= 0 && length > int64(len(b)-n):
			return a, 0, nil
		case length >= 0:
			a.body = b[n : n+int(length)]
			n += int(length)
		case !ended:
			return a, 0, nil
		default:
			a.body, n = b[n:], len(b)
		}
	}
	return a, n, err
}

// lone sends bytes on a connection of its own and reads one answer.
func (w *wire) lone(b []byte) (status int, answer []byte, err error) {
	c, err := w.dial()
	if err != nil {
		return 0, nil, err
	}
	defer w.drop(c)
	c.write(&exchange{request: b})
	_, status, answer, _, err = c.next()
	return status, answer, err
}

func (w *wire) dial() (*wireConn, error) {
	conn, err := net.DialTimeout("tcp", w.host, answerLimit)
	if err != nil {
		return nil, err
	}
	if w.secure {
		host, _, _ := net.SplitHostPort(w.host)
		conn = tls.Client(conn, &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12})
	}
	c := &wireConn{Conn: conn}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		conn.Close()
		return nil, fmt.Errorf("load: %w", net.ErrClosed)
	}
	w.open[c] = struct{}{}
	return c, nil
}

// drop closes a connection.
func (w *wire) drop(c *wireConn) {
	c.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.open, c)
	for i, other := range w.idle {
		if other == c {
			w.idle = append(w.idle[:i], w.idle[i+1:]...)
			break
		}
	}
}

// close ends every connection, and with them whatever waits for an answer.
func (w *wire) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	for c := range w.open {
		c.Close()
	}
}

// rest closes the idle connections.
func (w *wire) rest() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.idle {
		c.Close() // its reader takes it out of the books
	}
	w.idle = nil
}
