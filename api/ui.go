package api

import "net/http"

func (s *Server) openapi(w http.ResponseWriter, r *http.Request) error {
	return problem(codeNotFound, "")
}
func (s *Server) ui(w http.ResponseWriter, r *http.Request) error { return problem(codeNotFound, "") }
