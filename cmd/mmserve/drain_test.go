package main

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// halfSent is a connection whose request the server is reading; "lo" ends it.
func (c *child) halfSent(t *testing.T) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(c.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	io.WriteString(conn, "POST /v1/encode?output=pooled HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
	answers := bufio.NewReader(conn)
	if line, err := answers.ReadString('\n'); err != nil || !strings.Contains(line, "100") {
		t.Fatalf("%q %v", line, err)
	}
	answers.ReadString('\n')
	io.WriteString(conn, "hel")
	return conn, answers
}

// signal sends a signal; until waits for a line of the log.
func (c *child) signal(t *testing.T, s os.Signal, until string) {
	t.Helper()
	if err := c.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
	for until != "" {
		line, err := c.log.ReadBytes('\n')
		if err != nil {
			t.Fatalf("the log ended before %q", until)
		}
		if bytes.Contains(line, []byte(until)) {
			return
		}
	}
}

// One signal lets requests in flight finish, refuses new connections, and ends with status 0.
func TestSignalDrains(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		c := startChild(t)
		conn, answers := c.halfSent(t)
		c.signal(t, s, "draining")
		io.WriteString(conn, "lo")
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatalf("%v: the request in flight: %v", s, err)
		}
		if resp.StatusCode != http.StatusOK || !resp.Close {
			t.Errorf("%v: status %d, close %v", s, resp.StatusCode, resp.Close)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Error(err)
		}
		io.Copy(io.Discard, c.log)
		if err := c.cmd.Wait(); err != nil {
			t.Errorf("%v: %v", s, err)
		}
		if conn, err := net.Dial("tcp", strings.TrimPrefix(c.url, "http://")); err == nil {
			conn.Close()
			t.Errorf("%v: still listening", s)
		}
	}
}

// A second signal ends the process at once, whatever is in flight.
func TestSecondSignalEnds(t *testing.T) {
	c := startChild(t)
	_, answers := c.halfSent(t)
	c.signal(t, syscall.SIGTERM, "draining")
	c.signal(t, syscall.SIGTERM, "")
	io.Copy(io.Discard, c.log)
	err := c.cmd.Wait()
	exit, ok := err.(*exec.ExitError)
	if !ok {
		t.Fatalf("ended with %v", err)
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); !ok || !status.Signaled() || status.Signal() != syscall.SIGTERM {
		t.Errorf("ended with %v, want by the signal", err)
	}
	if _, err := answers.ReadByte(); err == nil {
		t.Error("the request in flight was answered")
	}
}
