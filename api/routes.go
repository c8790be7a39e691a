package api

import (
	"net/http"
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
		{"POST", "/v1/predict", ScopeEncode, native, s.predict},
		{"POST", "/v1/generate", ScopeEncode, native, s.generate},
		{"POST", "/v1/plan", ScopeEncode, native, s.plan},
		{"GET", "/v1/models", ScopeEncode, native, s.models},
		{"GET", "/v1/models/{id}", ScopeEncode, native, s.modelInfo},
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
		mux.Method(rt.method, rt.path, s.guard(rt))
		if rt.method == http.MethodGet {
			mux.Method(http.MethodHead, rt.path, s.guard(rt))
		}
	}
	mux.NotFound(s.unrouted(func(http.ResponseWriter, *http.Request) error {
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

// unrouted guards an answer to what no route takes, worded as the routes around it.
func (s *Server) unrouted(handle func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	words := map[dialect]http.HandlerFunc{}
	for _, d := range []dialect{native, openAI, oip} {
		words[d] = s.guard(route{scope: ScopePublic, errors: d, handle: handle})
	}
	return func(w http.ResponseWriter, r *http.Request) { words[dialectOf(r.URL.Path)](w, r) }
}

// dialectOf is how the routes around a path word their errors.
func dialectOf(path string) dialect {
	switch {
	case path == "/v2" || strings.HasPrefix(path, "/v2/"):
		return oip
	case strings.HasPrefix(path, "/v1/chat/") || strings.HasPrefix(path, "/v1/embeddings"):
		return openAI
	}
	return native
}
