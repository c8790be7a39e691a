package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"
)

// wire speaks HTTP/1.1 to one server over connections it keeps. It is far cheaper a request
// than net/http's client, so that a generator on the server's own machine leaves it the cores.
type wire struct {
	host   string // with port
	secure bool
	header string // lines sent with every request

	mu     sync.Mutex
	idle   []*wireConn
	open   map[*wireConn]struct{}
	closed bool
}

// wireConn is one connection.
type wireConn struct {
	net.Conn
	r *bufio.Reader
}

// answerLimit is how long an answer may take.
const answerLimit = time.Minute

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

// send sends the bytes of a request and returns the answer. A connection that the server
// closed while it lay idle is replaced by a fresh one.
func (w *wire) send(request []byte) (status int, answer []byte, err error) {
	for {
		c, fresh, err := w.take()
		if err != nil {
			return 0, nil, err
		}
		status, answer, begun, err := c.exchange(request)
		switch {
		case err == nil && status > 0:
			w.put(c)
			return status, answer, nil
		case err == nil: // a whole answer, the last of this connection
			w.drop(c)
			return -status, answer, nil
		}
		w.drop(c)
		if fresh || begun {
			return 0, nil, err
		}
	}
}

// exchange asks once. The status is negative when the connection ends with the answer; begun
// reports whether any of the answer came.
func (c *wireConn) exchange(request []byte) (status int, answer []byte, begun bool, err error) {
	c.SetDeadline(time.Now().Add(answerLimit))
	if _, err := c.Write(request); err != nil {
		// The server may have answered, and closed, before it read everything.
		if c.r.Buffered() == 0 {
			if _, peek := c.r.Peek(1); peek != nil {
				return 0, nil, false, err
			}
		}
	}
	if _, err := c.r.Peek(1); err != nil {
		return 0, nil, false, err
	}
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return 0, nil, true, err
	}
	if n := resp.ContentLength; n >= 0 && n < 1<<30 {
		answer = make([]byte, n)
		_, err = io.ReadFull(resp.Body, answer)
	} else {
		answer, err = io.ReadAll(resp.Body)
	}
	if err != nil {
		return 0, nil, true, err
	}
	if resp.Close {
		return -resp.StatusCode, answer, true, nil
	}
	return resp.StatusCode, answer, true, nil
}

// take returns a connection, an idle one when there is one.
func (w *wire) take() (c *wireConn, fresh bool, err error) {
	w.mu.Lock()
	if n := len(w.idle); n > 0 {
		c = w.idle[n-1]
		w.idle = w.idle[:n-1]
		w.mu.Unlock()
		return c, false, nil
	}
	w.mu.Unlock()
	c, err = w.dial()
	return c, true, err
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
	c := &wireConn{conn, bufio.NewReader(conn)}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		conn.Close()
		return nil, fmt.Errorf("load: %w", net.ErrClosed)
	}
	w.open[c] = struct{}{}
	return c, nil
}

func (w *wire) put(c *wireConn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.idle = append(w.idle, c)
}

func (w *wire) drop(c *wireConn) {
	c.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.open, c)
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
		c.Close()
		delete(w.open, c)
	}
	w.idle = nil
}
