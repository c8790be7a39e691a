package api

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"

	"github.com/go-chi/chi/v5"
)

// RefuseAddress is the rule for addresses that remote media are fetched from.
var RefuseAddress = refuseAddress

// Pretend lets a test be the network: its names, its certificates, and addresses that count as
// public besides those that are. Only tests can.
func (m *Remote) Pretend(names *net.Resolver, roots *x509.CertPool, public ...netip.Addr) {
	m.resolver, m.tls = names, &tls.Config{RootCAs: roots}
	m.public = func(a netip.Addr) string {
		if slices.Contains(public, a) {
			return ""
		}
		return refuseAddress(a)
	}
}

// Route is a line of the table, for tests that walk it.
type Route struct {
	Method, Path string
	Scope        Scope
}

// Routes lists every route of a server.
func Routes(s *Server) []Route {
	var out []Route
	for _, rt := range s.table() {
		out = append(out, Route{rt.method, rt.path, rt.scope})
	}
	return out
}

// Codes lists every problem code.
func Codes() []string {
	return slices.Sorted(maps.Keys(titles))
}

// Forget drops the connections that wait for further media.
func Forget(m *Remote) { m.get().CloseIdleConnections() }

// Held is the bytes of all bodies.
func Held(s *Server) int64 { return s.held.Load() }

// Walk calls f for every route of a router.
func Walk(h http.Handler, f func(method, path string)) error {
	return chi.Walk(h.(read).Handler.(chi.Router), func(method, path string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		f(method, path)
		return nil
	})
}

// Room is memory that passes share.
type Room struct{ r room }

// Enter waits for n bytes of size.
func (r *Room) Enter(ctx context.Context, n, size int64) (func(), error) {
	return r.r.enter(ctx, n, size)
}

// Kept is the bytes of all answers on their way out.
func Kept(s *Server) int64 { return s.kept.Load() }

// RequestSize is the bytes of a request, negative when they cannot be told.
func RequestSize(b []byte) int64 { return requestSize(b) }
