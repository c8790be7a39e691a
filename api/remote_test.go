package api_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mmserve/mmserve/api"
)

// What is no public host is refused, in whatever form it is written.
func TestAddressesThatAreRefused(t *testing.T) {
	for _, a := range []string{
		"127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
		"169.254.169.254", "100.64.0.1", "100.100.100.200", "100.127.255.255", "192.0.0.192", "168.63.129.16", "198.18.0.1", "203.0.113.9",
		"224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
		"::", "::1", "::ffff:10.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "::8.8.8.8", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1",
		"ff02::1", "64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1", "2001::1", "2001:db8::1", "2002:7f00:1::", "3fff::1", "5f00::1", "100::1",
	} {
		if why := api.RefuseAddress(netip.MustParseAddr(a)); why == "" {
			t.Errorf("%s is taken for public", a)
		}
	}
	for _, a := range []string{"8.8.8.8", "1.1.1.1", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1", "192.0.1.1", "223.255.255.255", "2606:4700::1111", "2a00:1450::1"} {
		if why := api.RefuseAddress(netip.MustParseAddr(a)); why != "" {
			t.Errorf("%s is refused as %s", a, why)
		}
	}
	if api.RefuseAddress(netip.Addr{}) == "" {
		t.Error("no address is taken for a public one")
	}
}

func TestParseHost(t *testing.T) {
	for s, ok := range map[string]bool{
		"example.com": true, "EXAMPLE.com.": true, "*.example.com": true, "example.com:8443": true, "http://example.com": true, "https://*.example.com:1": true,
		"": false, "*": false, "*.": false, "a b": false, "ftp://example.com": false, "example.com:0x1": false, "example.com:99999": false, "example.com/path": false,
		"127.0.0.1": false, "[::1]": false, "::1": false, "ex*mple.com": false, "user@example.com": false, "bücher.example": false, "a..b": false,
	} {
		if _, err := api.ParseHost(s); (err == nil) != ok {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// internet is what a test's server sees of the world: names, and one host with a certificate.
type internet struct {
	names sync.Map // name → netip.Addr
	roots *x509.CertPool
	cert  tls.Certificate
	dns   string
	port  string // of the host
}

// elsewhere is a loopback address that the tests let pass for a public one.
var elsewhere = netip.MustParseAddr("127.0.0.2")

// newInternet serves handler over TLS at an address called elsewhere, and secret at 127.0.0.1 on
// the same port.
func newInternet(t *testing.T, handler, secret http.Handler) *internet {
	t.Helper()
	n := &internet{roots: x509.NewCertPool()}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"example.com", "*.example.com"}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, _ := x509.ParseCertificate(der)
	n.roots.AddCert(leaf)
	n.cert = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	ln, err := net.Listen("tcp", elsewhere.String()+":0")
	if err != nil {
		t.Skipf("this machine has one loopback address only: %v", err)
	}
	_, n.port, _ = net.SplitHostPort(ln.Addr().String())
	n.serve(t, ln, handler)
	if ln, err = net.Listen("tcp", "127.0.0.1:"+n.port); err != nil {
		t.Fatal(err)
	}
	n.serve(t, ln, secret)
	n.resolve(t)
	return n
}

func (n *internet) serve(t *testing.T, ln net.Listener, h http.Handler) {
	s := &http.Server{Handler: h}
	go s.Serve(tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{n.cert}, NextProtos: []string{"h2", "http/1.1"}}))
	t.Cleanup(func() { s.Close() })
}

// resolve answers DNS queries (RFC 1035) for IPv4 addresses from the table of names.
func (n *internet) resolve(t *testing.T) {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	n.dns = c.LocalAddr().String()
	go func() {
		b := make([]byte, 512)
		for {
			k, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			c.WriteTo(n.reply(b[:k]), from)
		}
	}()
}

func (n *internet) reply(query []byte) []byte {
	var labels []string
	end := 12
	for query[end] != 0 {
		labels = append(labels, string(query[end+1:end+1+int(query[end])]))
		end += 1 + int(query[end])
	}
	kind := binary.BigEndian.Uint16(query[end+1:])
	end += 5
	out := append([]byte{}, query[:end]...)
	addr, ok := n.names.Load(strings.ToLower(strings.Join(labels, ".")))
	out[2], out[3] = 0x84, 0 // an authoritative answer
	clear(out[6:12])
	switch {
	case !ok:
		out[3] = 3 // no such name
	case kind == 1:
		out[7] = 1
		out = append(out, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4)
		out = append(out, addr.(netip.Addr).AsSlice()...)
	}
	return out
}

func (n *internet) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", n.dns)
	}}
}

// remote is a Remote that lives in the internet; {port} in a host is the host's port.
func (n *internet) remote(t *testing.T, hosts ...string) *api.Remote {
	t.Helper()
	m := &api.Remote{}
	for _, s := range hosts {
		h, err := api.ParseHost(strings.ReplaceAll(s, "{port}", n.port))
		if err != nil {
			t.Fatal(err)
		}
		m.Hosts = append(m.Hosts, h)
	}
	m.Pretend(n.resolver(), n.roots, elsewhere)
	return m
}

func forbiddenHost(t *testing.T) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { t.Errorf("the inner host was reached: %s", r.URL) })
}

// Media named by URL are what the same bytes in the body are, on every route that takes media.
func TestRemoteMedia(t *testing.T) {
	jpeg, wav := readMedia(t, "image/go-video-001.rgb.jpeg"), readMedia(t, "audio/fsdd-7_george_0.wav")
	n := newInternet(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, h := range []string{"Authorization", "Cookie", "Referer", "Accept-Encoding", "Traceparent", "X-Api-Key"} {
			if v := r.Header.Get(h); v != "" {
				t.Errorf("a host was sent %s: %s", h, v)
			}
		}
		switch r.URL.Path {
		case "/x.jpg":
			w.Write(jpeg)
		case "/x.wav":
			w.Write(wav)
		case "/to":
			http.Redirect(w, r, "https://cdn.example.com:"+r.Host[strings.Index(r.Host, ":")+1:]+"/x.jpg", http.StatusFound)
		default:
			http.NotFound(w, r)
		}
	}), forbiddenHost(t))
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	n.names.Store("media.example.com", elsewhere)
	n.names.Store("cdn.example.com", elsewhere)
	keys := new(api.Keys)
	keys.Set([]api.Key{{Name: "k", Hash: api.HashKey("K"), Scopes: []api.Scope{api.ScopeAdmin}}})
	s := newSite(t, &api.Server{Keys: keys, Remote: n.remote(t, "*.example.com:{port}")})
	send := func(path, body string) answer {
		return s.post(path, body, "Authorization", "Bearer K", "Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	}
	at := "https://media.example.com:" + n.port
	pooled := func(a answer) string {
		return s.want(a, 200).json(t)["data"].([]any)[0].(map[string]any)["pooled"].(map[string]any)["data"].(string)
	}
	raw := map[string]string{}
	for path, b := range map[string][]byte{"/x.jpg": jpeg, "/x.wav": wav} {
		raw[path] = pooled(s.do("POST", "/v1/encode?output=pooled", b, "Authorization", "Bearer K"))
	}
	for part, path := range map[string]string{
		`{"type":"image","url":"` + at + `/x.jpg"}`:                                         "/x.jpg",
		`{"type":"image_url","image_url":{"url":"` + at + `/x.jpg"}}`:                       "/x.jpg",
		`{"type":"image_url","image_url":"` + at + `/to"}`:                                  "/x.jpg",
		`{"type":"audio_url","audio_url":{"url":"` + at + `/x.wav"}}`:                       "/x.wav",
		`{"type":"audio","url":"` + strings.Replace(at, "media.", "MEDIA.", 1) + `/x.wav"}`: "/x.wav",
	} {
		if got := pooled(send("/v1/encode", `{"output":"pooled","inputs":[{"content":[`+part+`]}]}`)); got != raw[path] {
			t.Errorf("%s: differs from the same bytes in the body", part)
		}
		s.want(send("/v1/plan", `{"inputs":[{"content":[`+part+`]}]}`), 200)
		s.want(send("/v1/embeddings", `{"input":[[`+part+`]]}`), 200)
	}
	image := `{"type":"image_url","image_url":{"url":"` + at + `/x.jpg"}}`
	s.want(send("/v1/chat/completions", `{"max_tokens":2,"messages":[{"role":"user","content":[`+image+`]}]}`), 200)
	s.want(send("/v1/generate", `{"max_tokens":2,"stream":false,"prompt":"<image>","content":[`+image+`]}`), 200)
	// One medium that cannot be had leaves the others alone.
	doc := s.want(send("/v1/encode", `{"output":"pooled","inputs":[{"content":[`+image+`]},{"content":[{"type":"image","url":"`+at+`/none"}]},{"content":[{"type":"text","text":"a"}]}]}`), 200).json(t)
	data := doc["data"].([]any)
	failed := data[1].(map[string]any)["error"].(map[string]any)
	if doc["errors"] != 1.0 || failed["code"] != "remote_failed" || failed["field"] != "inputs[1].content[0].url" || !strings.Contains(failed["detail"].(string), "media.example.com") {
		t.Errorf("%v", doc)
	}
}

// A URL that the operator did not allow is refused by name, and nobody is asked anything.
func TestRemoteRefusals(t *testing.T) {
	n := newInternet(t, forbiddenHost(t), forbiddenHost(t))
	for _, name := range []string{"evil.test", "example.com", "media.example.com", "example.com.evil.test", "notexample.com"} {
		n.names.Store(name, elsewhere)
	}
	n.names.Store("inner.example.com", netip.MustParseAddr("127.0.0.1"))
	n.names.Store("metadata.example.com", netip.MustParseAddr("169.254.169.254"))
	n.names.Store("lan.example.com", netip.MustParseAddr("10.0.0.1"))
	off := newSite(t, &api.Server{Store: newFake(1).store()})
	on := newSite(t, &api.Server{Store: newFake(1).store(), Remote: n.remote(t, "*.example.com:{port}", "*.example.com")})
	for _, c := range []struct{ url, says string }{
		{"https://evil.test:{port}/", `"evil.test"`},
		{"https://example.com:{port}/", `"example.com"`}, // the suffix itself is not below it
		{"https://notexample.com:{port}/", `"notexample.com"`},
		{"https://example.com.evil.test:{port}/", "list of remote hosts"},
		{"https://media.example.com:1/", `port "1"`},
		{"http://media.example.com:{port}/", "http host"},
		{"https://user:pw@media.example.com:{port}/", "user or password"},
		{"https://127.0.0.1:{port}/", `"127.0.0.1"`},
		{"https://2130706433:{port}/", "list of remote hosts"},
		{"https://0x7f000001:{port}/", "list of remote hosts"},
		{"https://[::ffff:10.0.0.1]:{port}/", "list of remote hosts"},
		{"https://[64:ff9b::7f00:1]:{port}/", "list of remote hosts"},
		{"https://localhost:{port}/", "list of remote hosts"},
		{"file:///etc/passwd", `scheme "file"`},
		{"gopher://media.example.com/", `scheme "gopher"`},
		{"/etc/passwd", `scheme ""`},
		{"https://", "list of remote hosts"},
		{"https://inner.example.com:{port}/", `"inner.example.com": the host's address is loopback`},
		{"https://metadata.example.com:{port}/", "link-local"},
		{"https://lan.example.com/", "private"},
		{"https://a b/", "cannot be read"},
	} {
		u, _ := json.Marshal(strings.ReplaceAll(c.url, "{port}", n.port))
		body := `{"inputs":[{"content":[{"type":"image","url":` + string(u) + `}]}]}`
		a := on.post("/v1/encode", body)
		if a.status != 400 || a.code(t) != "remote_refused" || !strings.Contains(a.json(t)["detail"].(string), c.says) || a.json(t)["field"] != "inputs[0].content[0].url" {
			t.Errorf("%s: %d %s", c.url, a.status, a.body)
		}
		if a := off.post("/v1/encode", body); a.status != 400 || !strings.Contains(string(a.body), "fetches no remote media") {
			t.Errorf("%s, by a server that fetches nothing: %d %s", c.url, a.status, a.body)
		}
	}
	if a := on.post("/v1/encode", `{"inputs":[{"content":[{"type":"image","url":"https://gone.example.com/"}]}]}`); a.status != 424 || a.code(t) != "remote_failed" {
		t.Errorf("a name that does not exist: %d %s", a.status, a.body)
	}
}

// A redirect is followed where the first URL might have gone, a few times, and nowhere else.
func TestRemoteRedirects(t *testing.T) {
	var n *internet
	n = newInternet(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to := map[string]string{
			"/unlisted": "https://evil.test:{port}/", "/loopback": "https://127.0.0.1:{port}/", "/inner": "https://inner.example.com:{port}/",
			"/plain": "http://media.example.com:{port}/text", "/file": "file:///etc/passwd", "/loop": "/loop", "/twice": "/once", "/once": "/text",
		}[r.URL.Path]
		if to == "" {
			io.WriteString(w, "text")
			return
		}
		w.Header().Set("Location", strings.ReplaceAll(to, "{port}", n.port))
		w.WriteHeader(http.StatusFound)
	}), forbiddenHost(t))
	n.names.Store("media.example.com", elsewhere)
	n.names.Store("evil.test", netip.MustParseAddr("127.0.0.1"))
	n.names.Store("inner.example.com", netip.MustParseAddr("127.0.0.1"))
	s := newSite(t, &api.Server{Store: newFake(1).store(), Remote: n.remote(t, "*.example.com:{port}")})
	for path, says := range map[string]string{
		"/unlisted": `"evil.test"`, "/loopback": `"127.0.0.1"`, "/inner": `"inner.example.com": the host's address is loopback`,
		"/plain": "http host", "/file": `scheme "file"`, "/loop": "too many redirects", "/twice": "", "/text": "",
	} {
		a := s.post("/v1/encode", `{"inputs":[{"content":[{"type":"text","url":"https://media.example.com:`+n.port+path+`"}]}]}`)
		if says == "" {
			s.want(a, 200)
			continue
		}
		if a.status != 400 || a.code(t) != "remote_refused" || !strings.Contains(a.json(t)["detail"].(string), says) || path == "/loop" && (a.json(t)["limit"] != 3.0 || a.json(t)["actual"] != 4.0) {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
}

// A name that turns to an inner address after it was looked at gains nothing: the address that is
// dialled is the one that is judged, on every hop.
func TestRemoteNameThatChangesItsMind(t *testing.T) {
	var n *internet
	n = newInternet(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		if r.URL.Path == "/turn" {
			n.names.Store("turn.example.com", netip.MustParseAddr("127.0.0.1"))
			http.Redirect(w, r, "https://turn.example.com:"+n.port+"/secret", http.StatusFound)
			return
		}
		io.WriteString(w, "text")
	}), forbiddenHost(t))
	n.names.Store("media.example.com", elsewhere)
	n.names.Store("turn.example.com", elsewhere)
	m := n.remote(t, "*.example.com:{port}")
	s := newSite(t, &api.Server{Store: newFake(1).store(), Remote: m})
	ask := func(host, path string) answer {
		return s.post("/v1/encode", `{"inputs":[{"content":[{"type":"text","url":"https://`+host+".example.com:"+n.port+path+`"}]}]}`)
	}
	s.want(ask("media", "/"), 200)
	s.want(ask("media", "/turn"), 400)
	n.names.Store("media.example.com", netip.MustParseAddr("127.0.0.1"))
	api.Forget(m) // and its connections: the name is looked up anew
	if a := ask("media", "/"); a.status != 400 || a.code(t) != "remote_refused" || !strings.Contains(string(a.body), "loopback") {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// Size is bounded as announced and as it comes, one by one and together; a host that is slow is
// left, and its neighbours are answered.
func TestRemoteSizeAndTime(t *testing.T) {
	var cut atomic.Int64
	n := newInternet(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/announced":
			w.Header().Set("Content-Length", "1000000")
			w.Write(make([]byte, 10))
		case "/chunked":
			for range 100 {
				if _, err := w.Write(make([]byte, 100)); err != nil {
					return
				}
				w.(http.Flusher).Flush()
			}
		case "/drip", "/silent":
			if r.URL.Path == "/drip" {
				io.WriteString(w, "a")
				w.(http.Flusher).Flush()
			}
			<-r.Context().Done()
			cut.Add(1)
		default:
			io.WriteString(w, strings.Repeat("t", 400))
		}
	}), forbiddenHost(t))
	n.names.Store("media.example.com", elsewhere)
	m := n.remote(t, "media.example.com:{port}")
	m.MaxBytes = 500
	s := newSite(t, &api.Server{Store: newFake(1).store(), Remote: m, MaxBody: 1500, MaxItems: 4})
	body := func(paths ...string) string {
		var items []string
		for _, p := range paths {
			items = append(items, fmt.Sprintf(`{"content":[{"type":"text","url":"https://media.example.com:%s%s"}]}`, n.port, p))
		}
		return `{"inputs":[` + strings.Join(items, ",") + `]}`
	}
	for _, path := range []string{"/announced", "/chunked"} {
		a := s.want(s.post("/v1/encode", body(path)), 413)
		if a.code(t) != "too_large" || a.json(t)["limit"] != 500.0 {
			t.Errorf("%s: %s", path, a.body)
		}
	}
	if a := s.want(s.post("/v1/encode", body("/", "/", "/", "/")), 200); a.json(t)["errors"] == 0.0 || !bytes.Contains(a.body, []byte("body_too_large")) {
		t.Errorf("1600 bytes of 1500: %s", a.body)
	}
	s.want(s.post("/v1/encode", `{"inputs":[{"content":[`+strings.Repeat(`{"type":"text","url":"https://x/"},`, 5)+`{"type":"text","text":"a"}]}]}`), 413)
	m.Timeout = time.Second
	doc := s.want(s.post("/v1/encode", body("/drip", "/", "/silent")), 200).json(t)
	for i, want := range []string{"error", "ok", "error"} {
		item := doc["data"].([]any)[i].(map[string]any)
		if item["status"] != want || want == "error" && (item["error"].(map[string]any)["code"] != "remote_failed" || !strings.Contains(fmt.Sprint(item["error"]), "took too long")) {
			t.Errorf("item %d: %v", i, item)
		}
	}
	await(t, func() bool { return cut.Load() == 2 })
	// The request's own deadline is the request's.
	a := s.want(s.post("/v1/encode", `{"deadline_ms":20,`+body("/silent")[1:]), 504)
	if a.code(t) != "deadline_exceeded" {
		t.Errorf("%s", a.body)
	}
	s.want(s.post("/v1/encode", texts("", "a")), 200)
	await(t, func() bool { return api.Held(s.api) == 0 }) // what was fetched is counted no more
}

// Of one request, a few media are fetched at once and the others wait.
func TestRemoteFetchesAtOnce(t *testing.T) {
	const most = 8
	var mu sync.Mutex
	now, peak := 0, 0
	gate := make(chan struct{})
	n := newInternet(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		now++
		peak = max(peak, now)
		mu.Unlock()
		<-gate
		mu.Lock()
		now--
		mu.Unlock()
		io.WriteString(w, "text")
	}), forbiddenHost(t))
	n.names.Store("media.example.com", elsewhere)
	s := newSite(t, &api.Server{Store: newFake(1).store(), Remote: n.remote(t, "media.example.com:{port}")})
	items := make([]string, 4*most)
	for i := range items {
		items[i] = fmt.Sprintf(`{"content":[{"type":"text","url":"https://media.example.com:%s/%d"}]}`, n.port, i)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if a := s.want(s.post("/v1/encode", `{"inputs":[`+strings.Join(items, ",")+`]}`), 200); a.json(t)["errors"] != 0.0 {
			t.Errorf("%s", a.body)
		}
	})
	await(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return now >= most
	})
	close(gate)
	wg.Wait()
	if peak != most {
		t.Errorf("%d media of one request were fetched at once, want %d", peak, most)
	}
}
