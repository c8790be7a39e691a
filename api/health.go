package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/pprof"
	"strings"
	"sync"
	"time"

	"github.com/mmserve/mmserve/pipeline"
)

// canaryEvery is how often the real path is tried, and canaryAge how old a success may be.
const (
	canaryEvery = time.Second
	canaryAge   = 2 * time.Second
	canaryLimit = 10 * time.Second // of one try, queueing included
)

// canary remembers the last time a real request through the real path succeeded.
type canary struct {
	mu   sync.Mutex
	last time.Time
	err  error
}

// note keeps an outcome and reports whether it is another than the one before.
func (c *canary) note(err error) (changed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed = fmt.Sprint(err) != fmt.Sprint(c.err)
	c.err = err
	if err == nil {
		c.last = time.Now()
	}
	return changed
}

func (c *canary) state() (time.Time, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last, c.err
}

// Watch keeps /readyz honest: it encodes a small input through the queue and the default
// model again and again until ctx ends. The log says why it fails, once a reason, and when it
// works again. Without a default model nothing is tried.
func (s *Server) Watch(ctx context.Context) {
	s.prepare()
	tick := time.NewTicker(canaryEvery)
	defer tick.Stop()
	for {
		var full *Saturated
		err := s.probe(ctx)
		if ctx.Err() != nil {
			return
		}
		if !errors.As(err, &full) && s.canary.note(err) { // a full queue says nothing about the model
			if err != nil {
				s.Log.Error("not ready", "error", err.Error())
			} else {
				s.Log.Info("ready again")
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// probe runs one canary: it waits its turn in the queue like any request.
func (s *Server) probe(ctx context.Context) (err error) {
	defer recovered(&err)
	ctx, cancel := context.WithTimeout(ctx, canaryLimit)
	defer cancel()
	name, err := s.model("")
	if err != nil {
		return nil // nothing is served by default: nothing to be unready for
	}
	m, release, err := s.Store.Acquire(ctx, name)
	if err != nil {
		return err
	}
	defer release()
	c, ok := m.(pipeline.Canary)
	if !ok {
		return nil
	}
	it := c.Canary()
	if len(it.Parts) == 0 {
		return nil // a model without an input of its own: that it is loaded must do
	}
	leave, err := s.queue.Enter(ctx, 0)
	if err != nil {
		return err
	}
	defer leave()
	_, err = m.Encode(ctx, it, pipeline.EncodeOptions{Outputs: []string{pipeline.OutputPooled}})
	return err
}

// healthz answers whether the process serves at all.
func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, map[string]string{"status": "alive"})
}

// ready reports why the server should get no requests, nil when it should.
func (s *Server) ready() error {
	if s.draining.Load() {
		return problem(codeDraining, "the server is shutting down")
	}
	last, err := s.canary.state()
	if err != nil {
		return problem(codeDraining, "the last canary failed")
	}
	if busy := s.queue.Load().Running > 0; time.Since(last) > canaryAge && !busy {
		return problem(codeDraining, fmt.Sprintf("no canary has passed in the last %.0f s", canaryAge.Seconds()))
	}
	return nil
}

// readyz answers whether a canary has passed recently and the server is not shutting down.
func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) error {
	if err := s.ready(); err != nil {
		return err
	}
	return writeJSON(w, map[string]string{"status": "ready"})
}

// root points a person at what there is.
func (s *Server) root(w http.ResponseWriter, r *http.Request) error {
	if !s.NoUI {
		http.Redirect(w, r, "/ui/", http.StatusFound)
		return nil
	}
	return writeJSON(w, map[string]string{"name": "mmserve", "version": s.Version, "openapi": "/openapi.json"})
}

// serveProfile answers /debug/pprof/ with Go's profiles of this process.
func serveProfile(w http.ResponseWriter, r *http.Request) error {
	switch strings.TrimPrefix(r.URL.Path, "/debug/pprof/") {
	case "cmdline":
		pprof.Cmdline(w, r)
	case "profile":
		pprof.Profile(w, r)
	case "symbol":
		pprof.Symbol(w, r)
	case "trace":
		pprof.Trace(w, r)
	default:
		pprof.Index(w, r)
	}
	return nil
}
