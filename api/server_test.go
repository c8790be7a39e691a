package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/mmserve/mmserve/api"
	"github.com/mmserve/mmserve/models"
	"github.com/mmserve/mmserve/pipeline"
)

// media is the folder of media files.
const mediaDir = "../testdata/media"

// opened caches models between tests: they never change.
var opened sync.Map

func loaded(open func(context.Context) (pipeline.Model, error), key string) func(context.Context) (pipeline.Model, error) {
	return func(ctx context.Context) (pipeline.Model, error) {
		once, _ := opened.LoadOrStore(key, sync.OnceValues(func() (pipeline.Model, error) { return open(context.Background()) }))
		return once.(func() (pipeline.Model, error))()
	}
}

func reference(name string) func(context.Context) (pipeline.Model, error) {
	dir := filepath.Join("..", "testdata", "reference", filepath.FromSlash(name))
	return loaded(func(ctx context.Context) (pipeline.Model, error) {
		return pipeline.Open(ctx, dir, pipeline.Options{})
	}, dir)
}

func builtin(ctx context.Context) (pipeline.Model, error) {
	return loaded(func(ctx context.Context) (pipeline.Model, error) {
		return pipeline.OpenFS(ctx, models.Default(), pipeline.Options{})
	}, "default")(ctx)
}

// newStore holds real models: the default one (four media), a fill-mask model, a classifier.
func newStore() *pipeline.Store {
	st := &pipeline.Store{}
	st.Add("default", builtin)
	st.Add("mlm", reference("perceiver/mlm_language"))
	st.Add("bare", reference("perceiver/bare_model"))
	return st
}

// site is a server under test, over real HTTP.
type site struct {
	*httptest.Server
	t   testing.TB
	api *api.Server
	log *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newSite(t testing.TB, s *api.Server) *site {
	t.Helper()
	log := &lockedBuffer{}
	s.Log = slog.New(slog.NewJSONHandler(log, nil))
	if s.Store == nil {
		s.Store = newStore()
	}
	if s.Default == "" && len(s.Store.Names()) > 1 {
		s.Default = "default"
	}
	hs := httptest.NewServer(s.Handler())
	t.Cleanup(hs.Close)
	return &site{hs, t, s, log}
}

// answer is a response, read whole.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) json(t testing.TB) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(a.body, &m); err != nil {
		t.Fatalf("%v in %.300q", err, a.body)
	}
	return m
}

func (a answer) code(t testing.TB) string {
	t.Helper()
	c, _ := a.json(t)["code"].(string)
	return c
}

// do sends a request; headers are name, value, ….
func (s *site) do(method, path string, body []byte, headers ...string) answer {
	s.t.Helper()
	var r io.Reader
	if body != nil {
		r = bytes.NewReader(body)
	}
	req, err := http.NewRequest(method, s.URL+path, r)
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := s.Client().Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, b}
}

func (s *site) post(path, body string, headers ...string) answer {
	s.t.Helper()
	return s.do("POST", path, []byte(body), append([]string{"Content-Type", "application/json"}, headers...)...)
}

// want fails unless the status is right.
func (s *site) want(a answer, status int) answer {
	s.t.Helper()
	if a.status != status {
		s.t.Fatalf("status %d, want %d: %.500s", a.status, status, a.body)
	}
	return a
}

func readMedia(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(mediaDir, filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// texts is a JSON body of one text item each.
func texts(extra string, words ...string) string {
	var items []string
	for _, w := range words {
		b, _ := json.Marshal(w)
		items = append(items, `{"content":[{"type":"text","text":`+string(b)+`}]}`)
	}
	return `{` + extra + `"inputs":[` + strings.Join(items, ",") + `]}`
}
