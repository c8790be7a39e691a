package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// said reads a child's log up to a line with the message, and returns that line.
func (c *child) said(t *testing.T, msg string) string {
	t.Helper()
	for {
		line, err := c.log.ReadString('\n')
		if err != nil {
			t.Fatalf("the server ended before it said %q", msg)
		}
		var l struct{ Msg string }
		if json.Unmarshal([]byte(line), &l) == nil && l.Msg == msg {
			return line
		}
	}
}

// One signal drains, and what is in flight may finish; a second one ends the process at once.
func TestSecondSignal(t *testing.T) {
	c := startChild(t)
	conn, err := net.Dial("tcp", strings.TrimPrefix(c.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /v1/encode HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nExpect: 100-continue\r\nContent-Length: 1000000\r\n\r\n")
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(line, "100") { // the body is being read
		t.Fatalf("%q %v", line, err)
	}
	c.cmd.Process.Signal(syscall.SIGTERM)
	c.said(t, "draining")
	c.cmd.Process.Signal(syscall.SIGTERM)
	go io.Copy(io.Discard, c.log)
	err = c.cmd.Wait()
	exit, ok := err.(*exec.ExitError)
	if !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("ended by %v, want the signal", err)
	}
}

// A hangup reads keys and models anew, each all or nothing.
func TestHangup(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(data("reference", "perceiver", "mlm_language"))); err != nil {
		t.Fatal(err)
	}
	keys := writeKeys(t, "first")
	c := startChild(t, "--models", "m="+dir, "--keys", keys)
	ask := func(key string) int {
		req, _ := http.NewRequest("POST", c.url+"/v1/encode?output=pooled", strings.NewReader("hello"))
		req.Header.Set("Content-Type", "text/plain")
		req.Header.Set("Authorization", "Bearer "+key)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if st := ask("first"); st != 200 {
		t.Fatalf("at first: %d", st)
	}
	second, _ := os.ReadFile(writeKeys(t, "second"))
	os.WriteFile(keys, second, 0o600)
	weights := filepath.Join(dir, "model.safetensors")
	whole, err := os.ReadFile(weights)
	if err != nil {
		t.Fatal(err)
	}
	os.WriteFile(weights, whole[:len(whole)/2], 0o600)
	c.cmd.Process.Signal(syscall.SIGHUP)
	if line := c.said(t, "reload"); !strings.Contains(line, `"model":"m"`) {
		t.Errorf("the broken model is not named: %s", line)
	}
	c.said(t, "reloaded")
	if st := ask("second"); st != 200 { // the key is the new one, the model the old one
		t.Errorf("a new key on the old model: %d", st)
	}
	if st := ask("first"); st != 401 {
		t.Errorf("an old key: %d", st)
	}
	os.WriteFile(weights, whole, 0o600)
	os.WriteFile(keys, []byte("keys: ["), 0o600)
	c.cmd.Process.Signal(syscall.SIGHUP)
	c.said(t, "reload")
	if st := ask("second"); st != 200 {
		t.Errorf("after keys that cannot be read: %d", st)
	}
	if st := ask("first"); st != 401 {
		t.Errorf("an old key after keys that cannot be read: %d", st)
	}
}

// A full disk under the log stops no answer; a full disk under a result is an error that names it.
func TestFullDisk(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("this system has no /dev/full")
	}
	defer full.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	cmd := exec.Command(os.Args[0], "serve", "--addr", addr)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	cmd.Stderr, cmd.Stdout = full, full
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	status := 0
	until(func() bool {
		resp, err := http.Post("http://"+addr+"/v1/encode?output=pooled", "text/plain", strings.NewReader("hello"))
		if err == nil {
			resp.Body.Close()
			status = resp.StatusCode
		}
		return err == nil
	})
	if status != 200 {
		t.Errorf("with nowhere to log: %d", status)
	}
	code, _, errs := mmserve(t, "encode", "--output", "pooled", "--format", "npy", "-o", "/dev/full", data("samples", "emoji-1f622.png"))
	if code != 1 || !strings.Contains(errs, "no space left") {
		t.Errorf("encode to a full disk: %d %s", code, errs)
	}
	if st, err := os.Stat("/dev/full"); err != nil || st.Mode().IsRegular() {
		t.Errorf("the device was replaced by a file: %v %v", st, err)
	}
}

// pipeListener hands out one connection.
type pipeListener struct {
	conn chan net.Conn
	done chan struct{}
	once sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// A client that drips its header, or keeps a connection silent, is cut in the time that is said.
func TestSlowHeadersAndIdleConnections(t *testing.T) {
	for _, c := range []struct {
		name   string
		send   string // at once
		drip   string // again each second
		within time.Duration
	}{
		{"dripping header", "GET /healthz HTTP/1.1\r\nHost: x\r\n", "X-A: b\r\n", headerTimeout},
		{"nothing at all", "", "", headerTimeout},
		{"idle after an answer", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", "", idleTimeout},
	} {
		synctest.Test(t, func(t *testing.T) {
			d := &daemon{s: newSettings(flag.NewFlagSet("", flag.ContinueOnError)), log: slog.New(slog.DiscardHandler)}
			hs := d.httpServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
			client, server := net.Pipe()
			ln := &pipeListener{conn: make(chan net.Conn, 1), done: make(chan struct{})}
			ln.conn <- server
			go hs.Serve(ln)
			begin := time.Now()
			ended := make(chan time.Duration, 1)
			go func() {
				io.Copy(io.Discard, client)
				ended <- time.Since(begin)
			}()
			var dripping sync.WaitGroup
			dripping.Go(func() {
				_, err := io.WriteString(client, c.send)
				for err == nil && c.drip != "" {
					time.Sleep(time.Second)
					_, err = io.WriteString(client, c.drip)
				}
			})
			if took := <-ended; took > c.within+time.Second || took < c.within/2 {
				t.Errorf("%s: cut after %s, want %s", c.name, took, c.within)
			}
			client.Close()
			hs.Close()
			dripping.Wait()
		})
	}
}

// Connections are bounded: the longest silent one makes way for one that has something to say.
func TestConnectionLimit(t *testing.T) {
	d := startDaemon(t, "--max-connections", "3")
	addr := strings.TrimPrefix(d.url, "http://")
	var silent []net.Conn
	for range 10 {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		silent = append(silent, c)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get(d.url + "/healthz")
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%v %v", resp, err)
	}
	resp.Body.Close()
	silent[0].SetReadDeadline(time.Now().Add(headerTimeout / 2)) // then silence alone would end it
	if _, err := silent[0].Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the first silent connection: %v", err)
	}
}

// lazyConn is a connection whose end takes long.
type lazyConn struct {
	net.Conn
	closing, end chan struct{}
}

func (c *lazyConn) Close() error {
	close(c.closing)
	<-c.end
	return nil
}

// A burst of connections closes as many, each once, and does not wait for their ends.
func TestConnectionBurst(t *testing.T) {
	open := &conns{limit: 2}
	end := make(chan struct{})
	all := make([]*lazyConn, 6)
	for i := range all {
		all[i] = &lazyConn{closing: make(chan struct{}), end: end}
		open.follow(all[i], http.StateNew)
	}
	for _, c := range all[:4] {
		<-c.closing
	}
	close(end)
	for _, c := range all {
		open.follow(c, http.StateClosed)
	}
	if len(open.open) != 0 || open.silent.Len() != 0 {
		t.Errorf("%d open, %d silent after all have ended", len(open.open), open.silent.Len())
	}
	for i, c := range all[4:] {
		select {
		case <-c.closing:
			t.Errorf("connection %d was closed though there is room for it", 4+i)
		default:
		}
	}
}

// Streams that are opened and reset at once, over HTTP/2, leave nothing behind.
func TestRapidReset(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem")
	writeCertificate(t, cert, key, 1)
	d := startDaemon(t, "--tls-cert", cert, "--tls-key", key)
	client := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	ask := func(ctx context.Context) (int, string) {
		req, _ := http.NewRequestWithContext(ctx, "POST", d.url+"/v1/encode?output=pooled", strings.NewReader("hello"))
		req.Header.Set("Content-Type", "text/plain")
		resp, err := client.Do(req)
		if err != nil {
			return 0, ""
		}
		defer resp.Body.Close()
		return resp.StatusCode, resp.Proto
	}
	if st, proto := ask(t.Context()); st != 200 || proto != "HTTP/2.0" {
		t.Fatalf("%d over %s", st, proto)
	}
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(100*time.Microsecond, cancel)
			ask(ctx)
		})
	}
	wg.Wait()
	status := 0
	until(func() bool { status, _ = ask(t.Context()); return status == 200 })
	if status != 200 {
		t.Errorf("afterwards: %d", status)
	}
}
