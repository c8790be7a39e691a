package main

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
)

// One signal of either kind lets the request in flight finish, closes the listener, and ends
// with status 0.
func TestSignalDrains(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		c := startChild(t)
		address := strings.TrimPrefix(c.url, "http://")
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, "POST /v1/encode?output=pooled HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
		answers := bufio.NewReader(conn)
		if line, err := answers.ReadString('\n'); err != nil || !strings.Contains(line, "100") { // the body is being read
			t.Fatalf("%q %v", line, err)
		}
		answers.ReadString('\n')
		io.WriteString(conn, "hel")
		c.cmd.Process.Signal(s)
		c.said(t, "draining")
		io.WriteString(conn, "lo")
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatalf("%v: the request in flight: %v", s, err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK || !resp.Close {
			t.Errorf("%v: status %d, close %v, %v", s, resp.StatusCode, resp.Close, err)
		}
		io.Copy(io.Discard, c.log)
		if err := c.cmd.Wait(); err != nil {
			t.Errorf("%v: %v", s, err)
		}
		if conn, err := net.Dial("tcp", address); err == nil {
			conn.Close()
			t.Errorf("%v: still listening", s)
		}
	}
}
