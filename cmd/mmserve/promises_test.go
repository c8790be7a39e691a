package main

import (
	"bytes"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mmserve/mmserve/api"
)

// Listening beyond loopback for anyone is said at every start, of each listener that does, and of no
// other.
func TestInsecureIsSaid(t *testing.T) {
	keys := writeKeys(t, "secret")
	for _, c := range []struct {
		args []string
		said []string
	}{
		{[]string{"--addr", "0.0.0.0:81", "--insecure"}, []string{"0.0.0.0:81"}},
		{[]string{"--addr", "127.0.0.1:81", "--admin-listen", ":82", "--insecure"}, []string{":82"}},
		{[]string{"--addr", ":81", "--admin-listen", ":82", "--insecure"}, []string{":81", ":82"}},
		{[]string{"--addr", ":81", "--admin-listen", ":82", "--insecure", "--keys", keys}, nil},
		{[]string{"--addr", "127.0.0.1:81", "--insecure"}, nil},
	} {
		s := newSettings(flag.NewFlagSet("serve", flag.ContinueOnError))
		if err := s.load(c.args); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		if _, err := newDaemon(s, &env{stdout: io.Discard, stderr: &log}); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(log.String(), "listening beyond loopback without keys"); n != len(c.said) {
			t.Errorf("%v: said %d times, want %d: %s", c.args, n, len(c.said), log.String())
		}
		for _, addr := range c.said {
			if !strings.Contains(log.String(), `"addr":"`+addr+`"`) {
				t.Errorf("%v: %s is not named: %s", c.args, addr, log.String())
			}
		}
	}
}

// A request that does not end holds a drain up no longer than --drain-limit; then the end is an error
// that says so.
func TestDrainLimit(t *testing.T) {
	d := startDaemon(t, "--drain-limit", "100ms")
	conn, err := net.Dial("tcp", strings.TrimPrefix(d.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /v1/encode HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nExpect: 100-continue\r\nContent-Length: 1000000\r\n\r\n")
	if n, err := conn.Read(make([]byte, 100)); err != nil || n == 0 { // 100: the body is being read
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(20 * time.Second)) // the body's own limits would cut it in five seconds, with an answer
	ended := make(chan error)
	go func() { ended <- d.stop() }()
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("the request that held the drain up was answered: %d bytes, %v", n, err)
	}
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "still in flight after 100ms") {
		t.Errorf("ended with %v", err)
	}
}

// Keys, certificate and models are read anew again and again while clients ask, and every second time
// something is broken: then all that belongs together stays as it was, and no client notices anything.
func TestReloadAgainAndAgain(t *testing.T) {
	dir := t.TempDir()
	model := filepath.Join(dir, "model")
	if err := os.CopyFS(model, os.DirFS(data("reference", "perceiver", "mlm_language"))); err != nil {
		t.Fatal(err)
	}
	weights := filepath.Join(model, "model.safetensors")
	whole, err := os.ReadFile(weights)
	if err != nil {
		t.Fatal(err)
	}
	cert, key, keys := filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem"), filepath.Join(dir, "keys.yaml")
	write := func(path string, b []byte) { // as an editor does that keeps files whole
		if err := os.WriteFile(path+".new", b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	setKeys := func(n int) {
		write(keys, fmt.Appendf(nil, "keys:\n  - {name: all, sha256: %s, scopes: [encode]}\n  - {name: n, sha256: %s, scopes: [encode]}\n", api.HashKey("always"), api.HashKey(fmt.Sprint("n", n))))
	}
	setKeys(0)
	writeCertificate(t, cert, key, 1)
	d := startDaemon(t, "--keys", keys, "--tls-cert", cert, "--tls-key", key, "--models", "m="+model, "--queue-wait", "1h")
	ask := func(client *http.Client, secret string) (int, int64) {
		req, _ := http.NewRequest("POST", d.url+"/v1/encode?output=pooled", strings.NewReader("hello"))
		req.Header.Set("Content-Type", "text/plain")
		req.Header.Set("Authorization", "Bearer "+secret)
		resp, err := client.Do(req)
		if err != nil {
			t.Error(err)
			return 0, 0
		}
		defer resp.Body.Close()
		io.Copy(io.Discard, resp.Body)
		return resp.StatusCode, resp.TLS.PeerCertificates[0].SerialNumber.Int64()
	}
	fresh := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	var answered atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 3 {
		client := fresh
		if i > 0 {
			client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
		}
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if st, _ := ask(client, "always"); st != 200 {
					t.Errorf("a client in the middle of it: %d", st)
					return
				}
				answered.Add(1)
			}
		})
	}
	read := func() error {
		if err := d.reload(); err != nil {
			return err
		}
		return d.server.Store.Reload(t.Context(), "m")
	}
	rounds := 0
	for n := 0; n < 60 || answered.Load() < 100; n++ {
		rounds++
		old := n
		setKeys(n + 1)
		serial := int64(n + 1)
		switch n % 4 { // what is broken beside new keys
		case 0:
			write(cert, []byte("broken"))
		case 1:
			write(key, []byte("broken"))
		case 2:
			write(keys, []byte("keys: [{name: broken, sha256: 00}]"))
			writeCertificate(t, cert, key, serial+1)
		case 3:
			write(keys, []byte("keys: ["))
			writeCertificate(t, cert, key, serial+1)
		}
		if err := read(); err == nil {
			t.Errorf("round %d: something broken was taken", n)
		}
		if st, got := ask(fresh, fmt.Sprint("n", old)); st != 200 || got != serial {
			t.Errorf("round %d, broken: the old key is answered %d from certificate %d of %d", n, st, got, serial)
		}
		if st, _ := ask(fresh, fmt.Sprint("n", n+1)); st != 401 {
			t.Errorf("round %d, broken: the new key is answered %d", n, st)
		}
		setKeys(n + 1)
		writeCertificate(t, cert, key, serial+1)
		write(weights, whole[:len(whole)-4])
		if err := read(); err == nil {
			t.Errorf("round %d: broken weights were taken", n)
		}
		write(weights, whole)
		if err := read(); err != nil {
			t.Fatalf("round %d: %v", n, err)
		}
		if st, got := ask(fresh, fmt.Sprint("n", n+1)); st != 200 || got != serial+1 {
			t.Errorf("round %d, whole: the new key is answered %d from certificate %d of %d", n, st, got, serial+1)
		}
		if st, _ := ask(fresh, fmt.Sprint("n", old)); st != 401 {
			t.Errorf("round %d, whole: the old key is answered %d", n, st)
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d rounds, three times read anew in each; %d requests", rounds, answered.Load())
}

// TLS begins at 1.2: what is older gets no further than the handshake.
func TestTLSVersions(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem")
	writeCertificate(t, cert, key, 1)
	d := startDaemon(t, "--tls-cert", cert, "--tls-key", key)
	for version, ok := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		conn, err := tls.Dial("tcp", strings.TrimPrefix(d.url, "https://"), &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version})
		if (err == nil) != ok {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
		if err == nil {
			conn.Close()
		}
	}
}

// A header larger than any client has need of is refused for its size.
func TestLargeHeader(t *testing.T) {
	d := startDaemon(t)
	for size, want := range map[int]int{maxHeader / 2: 200, 2 * maxHeader: http.StatusRequestHeaderFieldsTooLarge} {
		req, _ := http.NewRequest("GET", d.url+"/healthz", nil)
		req.Header.Set("X-Large", strings.Repeat("x", size))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%d bytes: %d, want %d", size, resp.StatusCode, want)
		}
	}
}

// The ceiling that nobody set is the machine's, however many servers a process has started: what a
// server tells Go's collector is no GOMEMLIMIT.
func TestCeilingStays(t *testing.T) {
	var ceilings []int64
	for range 3 {
		s := newSettings(flag.NewFlagSet("serve", flag.ContinueOnError))
		if err := s.load(nil); err != nil {
			t.Fatal(err)
		}
		d, err := newDaemon(s, &env{stdout: io.Discard, stderr: io.Discard})
		if err != nil {
			t.Fatal(err)
		}
		ceilings = append(ceilings, d.server.Memory)
	}
	if ceilings[0] <= 0 || ceilings[1] != ceilings[0] || ceilings[2] != ceilings[0] {
		t.Errorf("ceilings %v", ceilings)
	}
}
