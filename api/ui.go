package api

import (
	"embed"
	"io/fs"
	"net/http"
	"path"
	"strings"
)

//go:embed openapi.json
var openapiDocument []byte

//go:embed ui
var uiFiles embed.FS

// uiPolicy lets the page load its own files and call this server, nothing else.
const uiPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; " +
	"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// uiTypes are the kinds of files the page is made of.
var uiTypes = map[string]string{
	".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8",
}

// openapi answers GET /openapi.json.
func (s *Server) openapi(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "application/json")
	_, err := w.Write(openapiDocument)
	return err
}

// ui answers GET /ui/ with the page and its files.
func (s *Server) ui(w http.ResponseWriter, r *http.Request) error {
	name := strings.TrimPrefix(r.URL.Path, "/ui/")
	if name == "" {
		name = "index.html"
	}
	kind, ok := uiTypes[path.Ext(name)]
	if s.NoUI || !ok {
		return problem(codeNotFound, "no such page")
	}
	b, err := fs.ReadFile(uiFiles, "ui/"+name)
	if err != nil {
		return problem(codeNotFound, "no such page")
	}
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("Content-Security-Policy", uiPolicy)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-cache")
	_, err = w.Write(b)
	return err
}
