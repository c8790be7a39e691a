package api

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mmserve/mmserve/pipeline"
)

// Server serves models over HTTP. Its fields are set before Handler is called; the zero value
// serves no model.
type Server struct {
	Store    *pipeline.Store
	Default  string        // the model of requests that name none; empty: the only one there is
	MaxBody  int64         // bytes of a request's body; zero means 64 MiB
	MaxItems int           // items of a batch; zero means 128
	Deadline time.Duration // of a request that names none; zero means 60 s
	Slots    int           // passes that run at once; zero means 1
	Wait     time.Duration // of work admitted, at the measured rate: more is refused; zero means 500 ms
	Capacity float64       // FLOPs admitted at once, running and waiting, whatever the rate; zero leaves it to Wait
	BodyRate int64         // least bytes a second of an arriving body; zero means 4 KiB
	Bodies   int64         // bytes of all bodies held at once; zero means four times MaxBody
	Memory   int64         // bytes the process may hold, weights included; zero: only the limits above
	Remote   *Remote       // fetches media named by URL; nil: none is fetched
	Keys     *Keys         // nil or empty: no key is asked for
	Log      *slog.Logger  // nil means discard
	Version  string
	NoUI     bool // leaves /ui/ out

	AnyOrigin  bool // without keys, also answers other sites' pages and any Host header
	AdminApart bool // administration and metrics are behind AdminHandler alone
	Pprof      bool // AdminHandler serves Go's profiles at /debug/pprof/

	once     sync.Once
	queue    *Queue
	metrics  *metrics
	canary   canary
	draining atomic.Bool
	room     room
	held     atomic.Int64 // bytes of bodies and of media fetched
	kept     atomic.Int64 // bytes of tensors on their way out
	shedding shedLog
	early    map[string]route // what is refused early: routes with a queue and a fixed path, by "METHOD path"
	handler  http.Handler
	admin    http.Handler
}

func (s *Server) maxItems() int           { return or(s.MaxItems, 128) }
func (s *Server) deadline() time.Duration { return or(s.Deadline, time.Minute) }
func (s *Server) bodyRate() int64         { return or(s.BodyRate, 4<<10) }

// or is v, or what its zero stands for.
func or[T int | int64 | float64 | time.Duration](v, zero T) T {
	if v == 0 {
		return zero
	}
	return v
}

// Handler returns the handler of the public listener: every route, or with AdminApart every one
// but administration and metrics.
func (s *Server) Handler() http.Handler {
	s.prepare()
	return s.handler
}

// AdminHandler returns the handler of a listener of its own for administration, metrics, health
// and profiles. It asks for the same keys.
func (s *Server) AdminHandler() http.Handler {
	s.prepare()
	return s.admin
}

// prepare fills defaults and builds the routers, once.
func (s *Server) prepare() {
	s.once.Do(func() {
		if s.Log == nil {
			s.Log = slog.New(slog.DiscardHandler)
		}
		if s.Keys == nil {
			s.Keys = new(Keys)
		}
		if s.Store == nil {
			s.Store = new(pipeline.Store)
		}
		s.queue = &Queue{Capacity: s.Capacity, Wait: s.Wait, Slots: or(s.Slots, 1)}
		s.metrics = newMetrics(s)
		public, admin := s.doors()
		s.early = map[string]route{}
		for _, rt := range public {
			if rt.admits() && !strings.Contains(rt.path, "{") {
				s.early[rt.method+" "+rt.path] = rt
			}
		}
		s.handler, s.admin = s.router(public), s.router(admin)
	})
}

// Drain makes /readyz answer 503, so that balancers send no more; requests are still served.
func (s *Server) Drain() { s.draining.Store(true) }

// model names the model of a request that asks for name.
func (s *Server) model(name string) (string, error) {
	if name != "" {
		return name, nil
	}
	if s.Default != "" {
		return s.Default, nil
	}
	names := s.Store.Names()
	if len(names) == 1 {
		return names[0], nil
	}
	return "", fieldProblem("model", fmt.Sprintf("is missing; the server has %v", names))
}

func (s *Server) tooManyItems(n int) *Problem {
	p := problem(codeBodyTooLarge, "too many items in one request")
	p.Limit, p.Actual = float64(s.maxItems()), float64(n)
	return p
}

// asType is errors.As under a name that reads well in conditions.
func asType[T error](err error, target *T) bool { return errors.As(err, target) }
