package api_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mmserve/mmserve/api"
)

// A client that does not read its answer, or hardly, is cut off and its memory is free; one that
// reads slowly has its answer, also after a long pass and on a connection that was silent for long.
func TestUnreadAnswers(t *testing.T) {
	for _, c := range []struct {
		name  string
		bytes int64 // read at a time
		every time.Duration
		whole bool
	}{
		{"nobody reads", 0, time.Minute, false},
		{"a drop now and then", 16 << 10, 10 * time.Second, false},
		{"slowly", 128 << 10, time.Second, true},
	} {
		for _, version := range []int{1, 2} {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(1)
				s := &api.Server{Store: f.store(), Deadline: time.Hour}
				site := pipeSite(t, s, version)
				for range 2 {
					go func() {
						<-f.started
						time.Sleep(time.Minute)
						f.gate <- struct{}{}
					}()
					words := append([]string{"block"}, strings.Fields(strings.Repeat("wide ", 8))...)
					resp, err := site.Post("http://localhost/v1/encode", "application/json", strings.NewReader(texts("", words...)))
					if err != nil || resp.ProtoMajor != version {
						t.Fatal(err, resp)
					}
					if api.Kept(s) == 0 {
						t.Error("an answer that is not read yet is not counted")
					}
					n := int64(0)
					for at := time.Now(); err == nil && time.Since(at) < 20*time.Minute; time.Sleep(c.every) {
						var k int64
						k, err = io.CopyN(io.Discard, resp.Body, c.bytes)
						n += k
					}
					if whole := err == io.EOF && n > 8<<20; whole != c.whole {
						t.Errorf("HTTP/%d, %s: %d bytes, %v", version, c.name, n, err)
					}
					synctest.Wait()
					if kept := api.Kept(s); kept != 0 {
						t.Errorf("HTTP/%d, %s: %d bytes are still held", version, c.name, kept)
					}
					resp.Body.Close()
					if !c.whole {
						break
					}
				}
			})
		}
	}
}

// pipeSite serves s on connections without buffers and returns a client of one version of HTTP.
func pipeSite(t *testing.T, s *api.Server, version int) *http.Client {
	speaks := new(http.Protocols)
	speaks.SetHTTP1(version == 1)
	speaks.SetUnencryptedHTTP2(version == 2)
	hs := &http.Server{Handler: s.Handler(), Protocols: speaks}
	ln := &pipes{conns: make(chan net.Conn)}
	ended := make(chan error)
	go func() { ended <- hs.Serve(ln) }()
	tr := &http.Transport{Protocols: speaks, DialContext: func(context.Context, string, string) (net.Conn, error) {
		here, there := net.Pipe()
		ln.conns <- there
		return here, nil
	}}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		hs.Close()
		<-ended
	})
	return &http.Client{Transport: tr}
}
