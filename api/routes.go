package api

import (
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/go-chi/chi/v5"
)

// route is one line of the API.
type route struct {
	method, path string
	scope        Scope
	errors       dialect
	handle       func(w http.ResponseWriter, r *http.Request) error
}

// admits reports whether requests of the route are let in by the queue.
func (rt route) admits() bool { return rt.method == http.MethodPost && rt.scope == ScopeEncode }

// table is the whole API on one screen.
func (s *Server) table() []route {
	return []route{
		{"POST", "/v1/encode", ScopeEncode, native, s.encode},
		{"POST", "/v1/decode", ScopeEncode, native, s.decode},
		{"POST", "/v1/predict", ScopeEncode, native, s.predict},
		{"POST", "/v1/generate", ScopeEncode, native, s.generate},
		{"POST", "/v1/plan", ScopeEncode, native, s.plan},
		{"GET", "/v1/models", ScopeEncode, shared, s.models},
		{"GET", "/v1/models/{id}", ScopeEncode, shared, s.modelInfo},
		{"GET", "/v1/modalities", ScopeEncode, native, s.modalities},

		{"POST", "/v1/embeddings", ScopeEncode, openAI, s.embeddings},
		{"POST", "/v1/chat/completions", ScopeEncode, openAI, s.chat},

		{"GET", "/v2", ScopeEncode, oip, s.oipServer},
		{"GET", "/v2/health/live", ScopePublic, oip, s.oipLive},
		{"GET", "/v2/health/ready", ScopePublic, oip, s.oipReady},
		{"GET", "/v2/models/{model}", ScopeEncode, oip, s.oipModel},
		{"GET", "/v2/models/{model}/ready", ScopeEncode, oip, s.oipModelReady},
		{"POST", "/v2/models/{model}/infer", ScopeEncode, oip, s.oipInfer},
		{"GET", "/v2/models/{model}/versions/{version}", ScopeEncode, oip, s.oipModel},
		{"GET", "/v2/models/{model}/versions/{version}/ready", ScopeEncode, oip, s.oipModelReady},
		{"POST", "/v2/models/{model}/versions/{version}/infer", ScopeEncode, oip, s.oipInfer},

		{"GET", "/healthz", ScopePublic, native, s.healthz},
		{"GET", "/readyz", ScopePublic, native, s.readyz},
		{"GET", "/metrics", ScopeAdmin, native, s.serveMetrics},
		{"GET", "/openapi.json", ScopePublic, native, s.openapi},
		{"GET", "/ui/*", ScopePublic, native, s.ui},
		{"GET", "/", ScopePublic, native, s.root},

		{"POST", "/admin/v1/models/{id}/load", ScopeAdmin, native, s.adminLoad},
		{"POST", "/admin/v1/models/{id}/unload", ScopeAdmin, native, s.adminUnload},
		{"POST", "/admin/v1/models/{id}/reload", ScopeAdmin, native, s.adminReload},
	}
}

// doors splits the table between the two listeners. Without a listener of its own the
// administration is behind the public one; health is behind both.
func (s *Server) doors() (public, admin []route) {
	for _, rt := range s.table() {
		if rt.scope == ScopeAdmin || rt.path == "/healthz" || rt.path == "/readyz" {
			admin = append(admin, rt)
		}
		if rt.scope != ScopeAdmin || !s.AdminApart {
			public = append(public, rt)
		}
	}
	if s.Pprof {
		for _, method := range []string{"GET", "POST"} {
			admin = append(admin, route{method, "/debug/pprof/*", ScopeAdmin, native, serveProfile})
		}
	}
	return public, admin
}

// router serves routes. Every one passes the same guards; unknown paths do too. HEAD is answered
// wherever GET is, and no answer waits long for its reader.
func (s *Server) router(routes []route) http.Handler {
	mux := chi.NewRouter()
	for _, rt := range routes {
		mux.Method(rt.method, rt.path, unescaped(s.guard(rt)))
		if rt.method == http.MethodGet {
			mux.Method(http.MethodHead, rt.path, unescaped(s.guard(rt)))
		}
	}
	mux.NotFound(s.unrouted(func(w http.ResponseWriter, r *http.Request) error {
		for _, meant := range []string{path.Clean(r.URL.Path), path.Clean(r.URL.Path) + "/"} { // a slash too many, or too few
			if !mux.Match(chi.NewRouteContext(), r.Method, meant) {
				continue
			}
			if r.Method != http.MethodGet && r.Method != http.MethodHead { // a body would have to be sent again
				return problem(codeNotFound, "no such path; "+meant+" is one")
			}
			http.Redirect(w, r, (&url.URL{Path: meant, RawQuery: r.URL.RawQuery}).String(), http.StatusTemporaryRedirect)
			return nil
		}
		return problem(codeNotFound, "no such path; see /openapi.json")
	}))
	mux.MethodNotAllowed(s.unrouted(func(w http.ResponseWriter, r *http.Request) error {
		allowed := "OPTIONS"
		for _, m := range []string{http.MethodGet, http.MethodHead, http.MethodPost} {
			if mux.Match(chi.NewRouteContext(), m, r.URL.Path) {
				allowed += ", " + m
			}
		}
		w.Header().Set("Allow", allowed)
		if r.Method == http.MethodOptions {
			w.WriteHeader(http.StatusNoContent)
			return nil
		}
		return problem(codeMethod, "the path takes "+allowed)
	}))
	return read{mux}
}

// unescaped gives a handler the names in a path as they were before a client escaped them: chi takes
// an escaped path as it stands, so that a name may hold a slash.
func unescaped(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawPath != "" {
			for _, name := range []string{"id", "model", "version"} {
				if v, err := url.PathUnescape(r.PathValue(name)); err == nil {
					r.SetPathValue(name, v)
				}
			}
		}
		h(w, r)
	}
}

// unrouted guards an answer to what no route takes, worded as the routes around it.
func (s *Server) unrouted(handle func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	words := map[dialect]http.HandlerFunc{}
	for _, d := range []dialect{native, openAI, oip, shared} {
		words[d] = s.guard(route{scope: ScopePublic, errors: d, handle: handle})
	}
	return func(w http.ResponseWriter, r *http.Request) { words[dialectOf(r.URL.Path)](w, r) }
}

// dialectOf is how the routes around a path word their errors.
func dialectOf(at string) dialect {
	switch {
	case at == "/v2" || strings.HasPrefix(at, "/v2/"):
		return oip
	case strings.HasPrefix(at, "/v1/chat/") || strings.HasPrefix(at, "/v1/embeddings"):
		return openAI
	case strings.HasPrefix(at, "/v1/"): // a route of OpenAI's that is not here, or one of ours misspelt
		return shared
	}
	return native
}
