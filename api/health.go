package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mmserve/mmserve/pipeline"
)

// canaryEvery is how often the real path is tried, and canaryAge how old a success may be.
const (
	canaryEvery = time.Second
	canaryAge   = 2 * time.Second
	canaryLimit = 10 * time.Second // of one try, queueing included
)

// canary remembers how the real path did.
type canary struct {
	mu    sync.Mutex
	last  time.Time    // of the last success
	err   error        // of the last try
	tried bool         // a try has ended
	told  error        // what the log said last
	pulse atomic.Int64 // nanoseconds: when a request's pass last began, or ended a layer
}

// note keeps the outcome of a try.
func (c *canary) note(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err, c.tried = err, true
	if err == nil {
		c.last = time.Now()
	}
}

// Watch keeps /readyz honest: it encodes a small input through the queue and the default
// model again and again until ctx ends. The log says why the server is not ready, once a reason,
// and when it is again. Without a default model nothing is tried.
func (s *Server) Watch(ctx context.Context) {
	s.prepare()
	tick := time.NewTicker(canaryEvery)
	defer tick.Stop()
	var trying atomic.Bool
	for {
		if trying.CompareAndSwap(false, true) {
			go func() { // one that hangs must not keep the log from saying so
				defer trying.Store(false)
				s.try(ctx)
			}()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.tell()
		}
	}
}

// errNoTurn says nothing about the model: the queue is full.
var errNoTurn = errors.New("api: no turn for the canary")

// try runs one canary and keeps its outcome.
func (s *Server) try(ctx context.Context) {
	if err := s.probe(ctx); ctx.Err() == nil && !errors.Is(err, errNoTurn) {
		s.canary.note(err)
		s.tell()
	}
}

// tell logs what has changed since it was last told.
func (s *Server) tell() {
	err := s.able()
	c := &s.canary
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.tried || fmt.Sprint(err) == fmt.Sprint(c.told) {
		return
	}
	if c.told = err; err != nil {
		s.Log.Error("not ready", "error", err.Error())
	} else {
		s.Log.Info("ready again")
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
		return errNoTurn
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
	return s.able()
}

// able reports why the models cannot be trusted to answer, nil when they can.
func (s *Server) able() error {
	c := &s.canary
	c.mu.Lock()
	last, err := c.last, c.err
	c.mu.Unlock()
	if err != nil {
		return fmt.Errorf("%w: %w", problem(codeDraining, "the last canary failed"), err)
	}
	if time.Since(last) > canaryAge && !s.moves() {
		return problem(codeDraining, fmt.Sprintf("no canary has passed in the last %.0f s, and no pass has moved", canaryAge.Seconds()))
	}
	return nil
}

// moving notes that a pass of a request begins, and returns a context that notes its every layer.
func (s *Server) moving(ctx context.Context) context.Context {
	s.alive()
	return pipeline.WithProgress(ctx, func(string, int, int) { s.alive() })
}

func (s *Server) alive() { s.canary.pulse.Store(time.Now().UnixNano()) }

// moves reports whether passes are under way that keep the canary from its turn: one has moved in
// the age a canary may have, or in the time that all that is admitted is planned to take.
func (s *Server) moves() bool {
	load := s.queue.Load()
	planned := time.Duration(min(load.Admitted/or(load.Rate, assumedRate), s.deadline().Seconds()) * float64(time.Second))
	return load.Running > 0 && time.Since(time.Unix(0, s.canary.pulse.Load())) <= max(canaryAge, planned)
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
