package api

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/pipeline"
)

// writeJSON sends a JSON answer.
func writeJSON(w http.ResponseWriter, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, err = w.Write(append(b, '\n'))
	return err
}

// wireModel is one model of /v1/models: OpenAI's fields and ours.
type wireModel struct {
	ID      string         `json:"id"`
	Object  string         `json:"object"`
	Owner   string         `json:"owned_by"`
	State   string         `json:"state"`
	Users   int            `json:"users"`
	Error   string         `json:"error,omitempty"`
	Info    *pipeline.Info `json:"info,omitempty"`
	Limits  *wireLimits    `json:"limits,omitempty"`
	Default bool           `json:"default,omitempty"`
}

// wireLimits is what one request may hold.
type wireLimits struct {
	Items       int   `json:"max_items"`
	BodyBytes   int64 `json:"max_body_bytes"`
	AnswerBytes int64 `json:"max_answer_bytes"` // of tensors
	DeadlineMS  int64 `json:"max_deadline_ms"`
	Tokens      int   `json:"max_tokens"` // of a generation
}

func (s *Server) wireModel(st pipeline.Status) wireModel {
	return wireModel{
		ID: st.Name, Object: "model", Owner: "mmserve", State: st.State, Users: st.Users, Error: st.Error,
		Info: st.Loaded, Limits: &wireLimits{s.maxItems(), s.maxBody(), s.maxAnswer(), s.deadline().Milliseconds(), maxGenerated}, Default: st.Name == s.Default,
	}
}

// models answers GET /v1/models.
func (s *Server) models(w http.ResponseWriter, _ *http.Request) error {
	list := []wireModel{}
	for _, st := range s.Store.Status() {
		list = append(list, s.wireModel(st))
	}
	return writeJSON(w, map[string]any{"object": "list", "data": list})
}

// modelInfo answers GET /v1/models/{id}.
func (s *Server) modelInfo(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	name, digest, exact := strings.Cut(id, "@")
	for _, st := range s.Store.Status() {
		if st.Name != name {
			continue
		}
		if exact && (st.Loaded == nil || !pipeline.SameDigest(st.Loaded.Digest, digest)) {
			return problem(codeNotFound, "model "+quote(name)+" is not loaded with the digest "+quote(digest))
		}
		return writeJSON(w, s.wireModel(st))
	}
	return problem(codeNotFound, "no model "+quote(id))
}

// modalities answers GET /v1/modalities.
func (s *Server) modalities(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, map[string]any{"data": modality.Infos()})
}

// adminLoad answers POST /admin/v1/models/{id}/load: it returns when the model is ready.
func (s *Server) adminLoad(w http.ResponseWriter, r *http.Request) error {
	_, release, err := s.Store.Acquire(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	release()
	return s.modelInfo(w, r)
}

// adminUnload answers POST /admin/v1/models/{id}/unload.
func (s *Server) adminUnload(w http.ResponseWriter, r *http.Request) error {
	if err := s.Store.Unload(r.PathValue("id")); err != nil {
		return err
	}
	return s.modelInfo(w, r)
}

// adminReload answers POST /admin/v1/models/{id}/reload: the old model stays if it fails.
func (s *Server) adminReload(w http.ResponseWriter, r *http.Request) error {
	if err := s.Store.Reload(r.Context(), r.PathValue("id")); err != nil {
		return err
	}
	return s.modelInfo(w, r)
}
