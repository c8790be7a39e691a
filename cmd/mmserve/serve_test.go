package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mmserve/mmserve/api"
	"github.com/mmserve/mmserve/pipeline"
)

// logLines hands on each line of a log as it is written.
type logLines struct{ lines chan string }

func (l logLines) Write(p []byte) (int, error) {
	select {
	case l.lines <- string(p):
	default:
	}
	return len(p), nil
}

// started is a daemon that listens.
type started struct {
	*daemon
	url, admin string
	stop       func() error
}

func startDaemon(t *testing.T, args ...string) started {
	t.Helper()
	s := newSettings(flag.NewFlagSet("serve", flag.ContinueOnError))
	if err := s.load(append([]string{"--addr", "127.0.0.1:0"}, args...)); err != nil {
		t.Fatal(err)
	}
	log := logLines{make(chan string, 1000)}
	d, err := newDaemon(s, &env{stdout: io.Discard, stderr: log})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.run(ctx) }()
	stop := sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { stop() })
	admin := ""
	for line := range log.lines {
		var said struct{ Msg, URL string }
		if json.Unmarshal([]byte(line), &said) != nil {
			continue
		}
		switch said.Msg {
		case "administration":
			admin = said.URL
		case "listening":
			return started{d, said.URL, admin, stop}
		}
	}
	return started{}
}

func TestMayListen(t *testing.T) {
	keys := writeKeys(t, "secret")
	for _, c := range []struct {
		args []string
		ok   bool
	}{
		{[]string{"--addr", "127.0.0.1:0"}, true},
		{[]string{"--addr", "[::1]:0"}, true},
		{[]string{"--addr", "localhost:0"}, true},
		{[]string{"--addr", ":0"}, false},
		{[]string{"--addr", "0.0.0.0:0"}, false},
		{[]string{"--addr", "[::]:0"}, false},
		{[]string{"--addr", "192.0.2.1:80"}, false},
		{[]string{"--addr", "example.com:80"}, false},
		{[]string{"--addr", "nonsense"}, false},
		{[]string{"--addr", ":0", "--insecure"}, true},
		{[]string{"--addr", ":0", "--keys", keys}, true},
		{[]string{"--admin-listen", "127.0.0.1:0"}, true},
		{[]string{"--admin-listen", "unix:/nowhere"}, true},
		{[]string{"--admin-listen", ":0"}, false},
		{[]string{"--admin-listen", "192.0.2.1:80"}, false},
		{[]string{"--admin-listen", "nonsense"}, false},
		{[]string{"--admin-listen", ":0", "--insecure"}, true},
		{[]string{"--admin-listen", ":0", "--keys", keys}, true},
		{[]string{"--pprof"}, false},
		{[]string{"--pprof", "--admin-listen", "[::1]:0"}, true},
	} {
		s := newSettings(flag.NewFlagSet("serve", flag.ContinueOnError))
		if err := s.load(c.args); err != nil {
			t.Fatal(err)
		}
		if _, err := newDaemon(s, &env{stdout: io.Discard, stderr: io.Discard}); (err == nil) != c.ok {
			t.Errorf("%v: %v", c.args, err)
		}
	}
}

func writeKeys(t *testing.T, secret string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys.yaml")
	text := fmt.Sprintf("keys:\n  - name: test\n    sha256: %s\n    scopes: [encode]\n", api.HashKey(secret))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// until polls for what another goroutine is about to reach, half a minute at most.
func until(reached func() bool) {
	for end := time.Now().Add(30 * time.Second); !reached() && time.Now().Before(end); {
		runtime.Gosched()
	}
}

// A rolling restart under load fails no request: one server drains while another serves.
func TestRollingRestart(t *testing.T) {
	a := startDaemon(t, "--drain-delay", "300ms")
	b := startDaemon(t)
	var url atomic.Value
	url.Store(a.url)
	var failed, answered atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				resp, err := http.Post(url.Load().(string)+"/v1/encode?output=pooled", "text/plain", strings.NewReader("hello"))
				if err != nil {
					failed.Add(1)
					t.Log(err)
					continue
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if resp.StatusCode != 200 {
					failed.Add(1)
					t.Log(resp.Status)
				}
				answered.Add(1)
			}
		})
	}
	// The balancer: it sends to b as soon as a says that it is not ready.
	ready := make(chan struct{})
	wg.Go(func() {
		for seen := false; ; {
			resp, err := http.Get(a.url + "/readyz")
			if err != nil {
				continue
			}
			resp.Body.Close()
			if resp.StatusCode == 200 && !seen {
				seen = true
				close(ready)
			}
			if resp.StatusCode == 503 && seen {
				url.Store(b.url)
				return
			}
		}
	})
	<-ready
	until(func() bool { return answered.Load() >= 20 })
	if err := a.stop(); err != nil {
		t.Errorf("drain: %v", err)
	}
	n := answered.Load()
	until(func() bool { return answered.Load() >= n+20 })
	close(stop)
	wg.Wait()
	if failed.Load() > 0 {
		t.Errorf("%d of %d requests failed", failed.Load(), answered.Load())
	}
	if _, err := net.DialTimeout("tcp", strings.TrimPrefix(a.url, "http://"), time.Second); err == nil {
		t.Error("a drained server still listens")
	}
}

// Administration has a listener of its own, over TCP or a socket that only its owner opens, and is
// gone from the public one. It answers while the public one drains.
func TestAdminListener(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	stale, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	stale.Close() // leaves the file, as a killed process does
	for _, addr := range []string{"127.0.0.1:0", "unix:" + socket} {
		d := startDaemon(t, "--admin-listen", addr, "--pprof")
		client, url := http.DefaultClient, d.admin
		if strings.HasPrefix(addr, "unix:") {
			client = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", socket)
			}}}
			url = "http://admin"
			if st, err := os.Stat(socket); err != nil || st.Mode().Perm() != 0o600 {
				t.Errorf("socket: %v %v", st, err)
			}
			if _, err := listenUnix(socket); err == nil {
				t.Error("a socket in use was taken over")
			}
		}
		for path, want := range map[string][2]int{ // on the public and on the admin listener
			"/metrics": {404, 200}, "/debug/pprof/heap": {404, 200}, "/debug/pprof/cmdline": {404, 200}, "/debug/pprof/symbol": {404, 200},
			"/healthz": {200, 200}, "/v1/models": {200, 404}, "/ui/": {200, 404},
		} {
			for i, at := range []string{d.url, url} {
				c := []*http.Client{http.DefaultClient, client}[i]
				resp, err := c.Get(at + path)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if resp.StatusCode != want[i] {
					t.Errorf("%s%s: %d, want %d", at, path, resp.StatusCode, want[i])
				}
			}
		}
		resp, err := client.Post(url+"/admin/v1/models/default/reload", "", nil)
		if err != nil || resp.StatusCode != 200 {
			t.Errorf("reload: %v %v", resp, err)
		}
		resp.Body.Close()
		if err := d.stop(); err != nil {
			t.Error(err)
		}
		if _, err := client.Get(url + "/healthz"); err == nil {
			t.Error("the admin listener is open after the end")
		}
	}
}

// Keys and certificate are read anew, all or nothing.
func TestReloadKeysAndCertificate(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem")
	writeCertificate(t, cert, key, 1)
	keys := writeKeys(t, "first")
	d := startDaemon(t, "--keys", keys, "--tls-cert", cert, "--tls-key", key)
	ask := func(secret string) (status int, serial int64) {
		t.Helper()
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
		req, _ := http.NewRequest("GET", d.url+"/v1/models", nil)
		req.Header.Set("Authorization", "Bearer "+secret)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode, resp.TLS.PeerCertificates[0].SerialNumber.Int64()
	}
	expect := func(when, secret string, status int, serial int64) {
		t.Helper()
		if st, se := ask(secret); st != status || se != serial {
			t.Errorf("%s, key %s: %d from certificate %d, want %d from %d", when, secret, st, se, status, serial)
		}
	}
	expect("at first", "first", 200, 1)
	writeCertificate(t, cert, key, 2)
	again, err := os.ReadFile(writeKeys(t, "second"))
	if err != nil {
		t.Fatal(err)
	}
	os.WriteFile(keys, []byte("keys: [{name: broken, sha256: 00}]"), 0o600)
	if err := d.reload(); err == nil {
		t.Error("broken keys were taken")
	}
	expect("after a broken reload", "first", 200, 1)
	os.WriteFile(keys, again, 0o600)
	if err := d.reload(); err != nil {
		t.Fatal(err)
	}
	expect("after a reload", "second", 200, 2)
	expect("after a reload", "first", 401, 2)
	os.WriteFile(cert, []byte("broken"), 0o600)
	if err := d.reload(); err == nil {
		t.Error("a broken certificate was taken")
	}
	expect("with a broken certificate", "second", 200, 2)
}

func writeCertificate(t *testing.T, certPath, keyPath string, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	os.WriteFile(certPath, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600)
	os.WriteFile(keyPath, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600)
}

// Flags beat the environment, which beats the file; config says where each value came from.
func TestConfigOrigins(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.yaml")
	os.WriteFile(file, []byte("max-items: 7\nmax-body: 70\nslots: 3\n"), 0o600)
	t.Setenv("MMSERVE_MAX_BODY", "80")
	t.Setenv("MMSERVE_SLOTS", "4")
	var out bytes.Buffer
	if code := run(t.Context(), []string{"config", "--config", file, "--slots", "5"}, &env{stdout: &out, stderr: io.Discard}); code != 0 {
		t.Fatalf("status %d", code)
	}
	for _, want := range [][]string{{"max-items:", "7", file}, {"max-body:", "80", "environment"}, {"slots:", "5", "flag"}, {"deadline:", "1m0s", "default"}} {
		found := false
		for line := range strings.Lines(out.String()) {
			f := strings.Fields(line)
			found = found || len(f) == 4 && f[0] == want[0] && f[1] == want[1] && f[3] == want[2]
		}
		if !found {
			t.Errorf("config lacks %v:\n%s", want, out.String())
		}
	}
	if code := run(t.Context(), []string{"config", "--remote-hosts", "Example.com, http://*.example.org:81"}, &env{stdout: &out, stderr: io.Discard}); code != 0 || !strings.Contains(out.String(), "https://example.com:443,http://*.example.org:81") {
		t.Errorf("status %d:\n%s", code, out.String())
	}
}

// A setting that does not exist, or whose value does not fit, is an error that names it, where it
// stands and what was likely meant; all faults are told at once.
func TestWrongSettings(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.yaml")
	os.WriteFile(file, []byte("max-itmes: 7\nmax_body: 1\nslots: many\nremote-hosts: [10.0.0.1]\nxyzzy: 1\nmax-connections: 0\ntls-key:\n"), 0o600)
	t.Setenv("MMSERVE_MAX_ITEMS", "-1")
	t.Setenv("MMSERVE_MAX_BODDY", "1")
	t.Setenv("MMSERVE_DEADLINE", "soon")
	t.Setenv("MMSERVE_PORT", "tcp://10.0.0.1:80") // from Kubernetes, beside a service of the name
	t.Setenv("MMSERVE_SERVICE_HOST", "10.0.0.1")
	var errs bytes.Buffer
	if code := run(t.Context(), []string{"config", "--config", file, "--queue-wait", "-1s"}, &env{stdout: io.Discard, stderr: &errs}); code == 0 {
		t.Error("wrong settings were taken")
	}
	if strings.Contains(errs.String(), "MMSERVE_PORT") || strings.Contains(errs.String(), "SERVICE_HOST") {
		t.Errorf("what is nobody's slip is a fault:\n%s", errs.String())
	}
	for _, want := range []string{
		file + `: unknown setting "max-itmes", did you mean "max-items"?`,
		file + `: unknown setting "max_body", did you mean "max-body"?`,
		file + `: unknown setting "xyzzy"` + "\n",
		`environment: unknown setting "MMSERVE_MAX_BODDY", did you mean "MMSERVE_MAX_BODY"?`,
		`environment: max-items=-1: want 0 at least`, `flag: queue-wait=-1s: want 0 at least`, file + `: max-connections=0: want 1 at least`,
		`environment: deadline="soon"`, file + `: slots="many"`, `remote host "10.0.0.1": wants a name, not an address`,
	} {
		if !strings.Contains(errs.String()+"\n", want) {
			t.Errorf("lacks %s:\n%s", want, errs.String())
		}
	}
}

// Models that could not be told apart or not be asked for are refused at the start.
func TestModelNames(t *testing.T) {
	dir := data("reference", "perceiver", "mlm_language")
	for _, c := range []struct {
		models []string
		def    string
		want   string
	}{
		{[]string{dir, "m=" + dir}, "", ""},
		{[]string{dir}, "mlm_language", ""},
		{nil, builtinName, ""},
		{[]string{dir, dir}, "", `"mlm_language" names a model before it, too`},
		{[]string{"m@v2=" + dir}, "", "a request's @ begins a digest"},
		{[]string{dir}, "mlm", `--default-model "mlm" is none of mlm_language`},
		{nil, "mlm", `--default-model "mlm" is none of ` + builtinName},
	} {
		_, _, err := openStore(&settings{models: c.models, def: c.def}, pipeline.Options{})
		if got := fmt.Sprint(err); (err == nil) != (c.want == "") || !strings.Contains(got, c.want) && c.want != "" {
			t.Errorf("%v: %v, want %q", c, err, c.want)
		}
	}
}

// A short press of a real server: nothing is wrong, nothing fails, hostile inputs are refused.
func TestLoad(t *testing.T) {
	d := startDaemon(t)
	var out bytes.Buffer
	code := run(t.Context(), []string{"load", "--url", d.url, "--capacity", "40", "--rates", "1", "--seconds", "1", "--hostile", "0.1", "--check", "--json"},
		&env{stdout: &out, stderr: &out})
	if code != 0 {
		t.Fatalf("status %d: %s", code, out.String())
	}
	var report struct{ Stages []stageReport }
	if err := json.Unmarshal(out.Bytes(), &report); err != nil || len(report.Stages) != 1 || report.Stages[0].Goodput <= 0 {
		t.Errorf("%v: %s", err, out.String())
	}
}

// A short soak: answers stay the same bit for bit, hostile clients are refused, nothing stays
// behind. The long one is make soak.
func TestSoak(t *testing.T) {
	d := startDaemon(t)
	var out bytes.Buffer
	code := run(t.Context(), []string{"load", "--url", d.url, "--capacity", "60", "--soak", "1s", "--hostile", "0.5", "--json",
		"--hostile-files", "../../testdata/media/image", "../../testdata/samples/emoji-1f475.png"}, &env{stdout: &out, stderr: t.Output()})
	var r soakReport
	if err := json.Unmarshal(out.Bytes(), &r); err != nil || code != 0 {
		t.Fatalf("status %d, %v: %s", code, err, out.String())
	}
	if r.Right == 0 || r.Wrong+r.Failed+r.Harmed > 0 || r.Refused == 0 || len(r.Mischief) == 0 || r.Peak.RSS == 0 {
		t.Errorf("%+v", r)
	}
	for _, bad := range []soakReport{
		{},
		{Right: 1, Wrong: 1},
		{Right: 1, Failed: 1},
		{Right: 1, Harmed: 1},
		{Right: 1, Early: usage{RSS: 100 << 20}, Late: usage{RSS: 130 << 20}},
		{Right: 1, Early: usage{Heap: 100 << 20}, Late: usage{Heap: 130 << 20}},
		{Right: 1, Idle: usage{Files: 10}, After: usage{Files: 100}},
		{Right: 1, Idle: usage{Goroutines: 10}, After: usage{Goroutines: 100}},
	} {
		if bad.verdict() == nil {
			t.Errorf("passes: %+v", bad)
		}
	}
}
