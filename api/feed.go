package api

import (
	"io"
)

// feedDocument
func feedDocument(target string) func(io.Writer, *Server, *job, []*result) error {
	return func(w io.Writer, s *Server, j *job, results []*result) error {
		return problem(codeNoTask, "the model has no soft tokens")
	}
}
