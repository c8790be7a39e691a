package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/pipeline"
)

// Remote fetches media that requests name by URL, from listed hosts only and never from an
// address that is not public. Its fields are set before the server starts.
type Remote struct {
	Hosts    []Host
	MaxBytes int64         // bytes of one medium; zero means 16 MiB
	Timeout  time.Duration // for all media of one request together; zero means 10 s

	once   sync.Once
	client *http.Client
	// What tests set in place of the network's own, and nothing else can.
	public   func(netip.Addr) string // why an address is refused; nil means refusal
	resolver *net.Resolver
	tls      *tls.Config
}

const (
	maxRedirects    = 3
	fetchesAtOnce   = 8 // of one request
	connectTimeout  = 5 * time.Second
	maxRemoteHeader = 64 << 10
)

// Host is one line of the list of hosts that media may be fetched from.
type Host struct {
	scheme, name, port string
	below              bool // name is a suffix: any host below it
}

// ParseHost reads "host", "*.suffix" (any host below it, at any depth), either with ":port" and
// with "http://" before it. Without these only https on port 443 is meant. Addresses are not
// taken: a certificate speaks for a name.
func ParseHost(s string) (Host, error) {
	wrong := func(why string) (Host, error) {
		return Host{}, fmt.Errorf("api: remote host %q: %s", s, why)
	}
	h := Host{scheme: "https", name: s}
	if scheme, rest, ok := strings.Cut(s, "://"); ok {
		if h.scheme, h.name = strings.ToLower(scheme), rest; h.scheme != "http" && h.scheme != "https" {
			return wrong("the scheme wants https or http")
		}
	}
	h.port = defaultPorts[h.scheme]
	if name, port, ok := strings.Cut(h.name, ":"); ok {
		if _, err := netip.ParseAddrPort("0.0.0.0:" + port); err != nil {
			return wrong("the port wants a number up to 65535")
		}
		h.name, h.port = name, port
	}
	h.name, h.below = strings.CutPrefix(strings.TrimSuffix(strings.ToLower(h.name), "."), "*.")
	if _, err := netip.ParseAddr(strings.Trim(h.name, "[]")); err == nil {
		return wrong("wants a name, not an address")
	}
	if h.name == "" || strings.Trim(h.name, hostLetters) != "" || strings.Contains(h.name, "..") {
		return wrong("wants a host name, or *.suffix (international names in their xn-- form)")
	}
	return h, nil
}

const hostLetters = "abcdefghijklmnopqrstuvwxyz0123456789-_."

var defaultPorts = map[string]string{"https": "443", "http": "80"}

// String is the host as ParseHost reads it, with nothing left unsaid.
func (h Host) String() string {
	star := ""
	if h.below {
		star = "*."
	}
	return h.scheme + "://" + star + h.name + ":" + h.port
}

func (h Host) matches(scheme, name, port string) bool {
	if scheme != h.scheme || port != h.port {
		return false
	}
	return !h.below && name == h.name || h.below && strings.HasSuffix(name, "."+h.name)
}

// allowed says why a URL may not be fetched, or nil. It holds for the first and for every URL
// that is redirected to.
func (m *Remote) allowed(u *url.URL) error {
	scheme, name := strings.ToLower(u.Scheme), strings.TrimSuffix(strings.ToLower(u.Hostname()), ".")
	port := u.Port()
	if port == "" {
		port = defaultPorts[scheme]
	}
	switch {
	case defaultPorts[scheme] == "":
		return problem(codeRemoteRefused, "scheme "+quote(scheme)+" is not fetched; https and data: URLs are")
	case u.User != nil:
		return problem(codeRemoteRefused, "a URL with a user or password in it is not fetched")
	}
	for _, h := range m.Hosts {
		if h.matches(scheme, name, port) {
			return nil
		}
	}
	return problem(codeRemoteRefused, scheme+" host "+quote(name)+" port "+quote(port)+" is not on this server's list of remote hosts")
}

// control runs for every connection, between the resolution of the name and the call to the
// kernel: it sees the address that is dialled, so a name that changes its mind gains nothing.
func (m *Remote) control(_, address string, _ syscall.RawConn) error {
	refusal := m.public
	if refusal == nil {
		refusal = refuseAddress
	}
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return problem(codeRemoteRefused, "the host's address cannot be read")
	}
	if why := refusal(at.Addr()); why != "" {
		return problem(codeRemoteRefused, "the host's address is "+why+"; only public addresses are fetched from")
	}
	return nil
}

// reserved lists what is no public host: the special-purpose registries of IANA (RFC 6890 and its
// updates), and the one public address at which a cloud answers its guests.
var reserved = []struct {
	prefix netip.Prefix
	what   string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "unspecified"},
	{netip.MustParsePrefix("10.0.0.0/8"), "private"},
	{netip.MustParsePrefix("100.64.0.0/10"), "shared (carrier-grade NAT)"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local"},
	{netip.MustParsePrefix("172.16.0.0/12"), "private"},
	{netip.MustParsePrefix("192.0.0.0/24"), "reserved"},
	{netip.MustParsePrefix("192.0.2.0/24"), "reserved"},
	{netip.MustParsePrefix("192.88.99.0/24"), "reserved"},
	{netip.MustParsePrefix("192.168.0.0/16"), "private"},
	{netip.MustParsePrefix("198.18.0.0/15"), "reserved"},
	{netip.MustParsePrefix("198.51.100.0/24"), "reserved"},
	{netip.MustParsePrefix("203.0.113.0/24"), "reserved"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved"},
	{netip.MustParsePrefix("168.63.129.16/32"), "a cloud's metadata service"},
	{netip.MustParsePrefix("::/128"), "unspecified"},
	{netip.MustParsePrefix("::1/128"), "loopback"},
	{netip.MustParsePrefix("fc00::/7"), "private"},
	{netip.MustParsePrefix("fe80::/10"), "link-local"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
	{netip.MustParsePrefix("64:ff9b::/32"), "a translation of IPv4 (NAT64)"},
	{netip.MustParsePrefix("2001::/23"), "reserved"},
	{netip.MustParsePrefix("2001:db8::/32"), "reserved"},
	{netip.MustParsePrefix("2002::/16"), "a translation of IPv4 (6to4)"},
	{netip.MustParsePrefix("3fff::/20"), "reserved"},
}

// globalUnicast is all of IPv6 that is given to hosts.
var globalUnicast = netip.MustParsePrefix("2000::/3")

// refuseAddress says what an address is when it is not a public host's, else "".
func refuseAddress(a netip.Addr) string {
	if a.Is4In6() {
		return "IPv4 mapped into IPv6"
	}
	a = a.WithZone("")
	for _, r := range reserved {
		if r.prefix.Contains(a) {
			return r.what
		}
	}
	if a.Is6() && !globalUnicast.Contains(a) || !a.IsValid() {
		return "reserved"
	}
	return ""
}

// get returns the client: no proxy of the environment, no cookies, no credentials, no
// decompression.
func (m *Remote) get() *http.Client {
	m.once.Do(func() {
		dialer := &net.Dialer{Timeout: connectTimeout, Control: m.control, Resolver: m.resolver}
		m.client = &http.Client{
			Transport: &http.Transport{
				DialContext: dialer.DialContext, TLSClientConfig: m.tls, TLSHandshakeTimeout: connectTimeout,
				MaxResponseHeaderBytes: maxRemoteHeader, MaxConnsPerHost: 2 * fetchesAtOnce, IdleConnTimeout: 30 * time.Second,
				DisableCompression: true, ForceAttemptHTTP2: true,
			},
			CheckRedirect: func(r *http.Request, via []*http.Request) error {
				if len(via) > maxRedirects {
					p := problem(codeRemoteRefused, "too many redirects")
					p.Limit, p.Actual = maxRedirects, float64(len(via))
					return p
				}
				r.Header.Del("Referer")
				return m.allowed(r.URL)
			},
		}
	})
	return m.client
}

// fetch reads one medium. Whatever it says of hosts is what the request said; causes that could
// tell of the inner network are for the log.
func (m *Remote) fetch(ctx context.Context, address, agent string, take func(int64) error) ([]byte, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, problem(codeRemoteRefused, "the URL cannot be read")
	}
	if err := m.allowed(u); err != nil {
		return nil, err
	}
	r := &http.Request{Method: http.MethodGet, URL: u, Host: u.Host, Header: http.Header{"User-Agent": {agent}, "Accept": {"*/*"}}}
	resp, err := m.get().Do(r.WithContext(ctx))
	if err != nil {
		return nil, remoteError(u, "could not be reached", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, problem(codeRemoteFailed, fmt.Sprintf("host %s answered with status %d", quote(u.Hostname()), resp.StatusCode))
	}
	limit := or(m.MaxBytes, 16<<20)
	if resp.ContentLength > limit {
		return nil, media.Exceeds("remote medium: bytes", float64(limit), float64(resp.ContentLength))
	}
	var data []byte
	for buf := make([]byte, 32<<10); ; {
		n, err := resp.Body.Read(buf)
		if int64(len(data)+n) > limit {
			return nil, media.Exceeds("remote medium: bytes", float64(limit), float64(len(data)+n))
		}
		if e := take(int64(n)); e != nil {
			return nil, e
		}
		data = append(data, buf[:n]...)
		if errors.Is(err, io.EOF) {
			return data, nil
		}
		if err != nil {
			return nil, remoteError(u, "broke off its answer", err)
		}
	}
}

// remoteError words why a fetch failed; the cause stays in the chain, for the log.
func remoteError(u *url.URL, what string, err error) error {
	var p *Problem
	var hop *url.Error
	if errors.As(err, &hop) { // the hop at fault, after redirects
		if at, e := url.Parse(hop.URL); e == nil {
			u = at
		}
	}
	if errors.As(err, &p) {
		named := *p
		named.Detail = "host " + quote(u.Hostname()) + ": " + p.Detail
		return &named
	}
	if errors.Is(err, context.DeadlineExceeded) {
		what = "took too long"
	}
	return fmt.Errorf("%w: %v", problem(codeRemoteFailed, "host "+quote(u.Hostname())+" "+what), err)
}

// absent stands in an item for a medium that is not there, yet or at all. An item that holds one
// fails when its header is read, alone among its neighbours.
type absent struct {
	url   string // still to be fetched; empty once it cannot be had
	field string // of the request, for errors
	err   error
}

// ReadAt says why there is nothing to read.
func (a *absent) ReadAt([]byte, int64) (int, error) { return 0, a.err }

// missing is the input of a part that cannot be had.
func missing(err error) media.Input { return media.Input{At: &absent{err: err}, Size: -1} }

// fetchAll fetches what the parts name by URL, several at once, all within the time for remote
// media. A part whose medium cannot be had keeps the reason in its place.
func (s *Server) fetchAll(ctx context.Context, parts []*pipeline.Part) error {
	var urls []*pipeline.Part
	for _, p := range parts {
		if a, ok := p.Input.At.(*absent); ok && a.url != "" {
			urls = append(urls, p)
		}
	}
	if len(urls) == 0 {
		return nil
	}
	if len(urls) > s.maxItems() {
		p := problem(codeBodyTooLarge, "too many remote media in one request")
		p.Limit, p.Actual = float64(s.maxItems()), float64(len(urls))
		return p
	}
	defer stage(ctx, "fetch")()
	limited, cancel := context.WithTimeout(ctx, or(s.Remote.Timeout, 10*time.Second))
	defer cancel()
	l := s.ledgerOf(ctx)
	turns := make(chan struct{}, fetchesAtOnce)
	var wg sync.WaitGroup
	for _, p := range urls {
		wg.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			s.fetchPart(limited, p, l)
		})
	}
	wg.Wait()
	return ctx.Err()
}

// fetchPart puts the medium that a part names in its place, or the reason why it is not there.
func (s *Server) fetchPart(ctx context.Context, p *pipeline.Part, l *ledger) {
	var err error
	defer func() {
		if err != nil {
			p.Input = missing(err)
		}
	}()
	defer recovered(&err)
	a := p.Input.At.(*absent)
	var data []byte
	data, err = s.Remote.fetch(ctx, a.url, "mmserve/"+s.Version, l.fetch)
	var problem *Problem
	if errors.As(err, &problem) {
		problem.Field = a.field
	}
	if err != nil {
		return
	}
	if u, _ := url.Parse(a.url); p.Input.Name == "" {
		p.Input.Name = path.Base(u.Path)
	}
	setBytes(&p.Input, data)
}

// fetchItems is fetchAll of the parts of items.
func (s *Server) fetchItems(ctx context.Context, items []pipeline.Item) error {
	var parts []*pipeline.Part
	for _, it := range items {
		parts = append(parts, pointers(it.Parts)...)
	}
	return s.fetchAll(ctx, parts)
}

// pointers points at each element of list.
func pointers[T any](list []T) []*T {
	out := make([]*T, len(list))
	for i := range list {
		out[i] = &list[i]
	}
	return out
}
