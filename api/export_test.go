package api

import (
	"maps"
	"slices"
)

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
