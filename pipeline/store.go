package pipeline

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
)

// Sentinels of a Store.
var (
	ErrNoModel = errors.New("no such model")
	ErrBudget  = errors.New("model does not fit the byte budget")
)

// Store holds several models by name, loaded when they are first asked for and evicted, least
// recently used first, when their weights pass the budget. A model in use is never evicted;
// its memory goes when its last user releases it. The zero value holds nothing and has no
// budget; it is safe for concurrent use.
type Store struct {
	Budget int64 // bytes of weights; zero means no limit

	mu      sync.Mutex
	entries map[string]*entry
	clock   int64
}

type entry struct {
	open    func(context.Context) (Model, error)
	model   Model
	users   int
	used    int64    // the clock at last use
	loading *loading // the load in progress; nil when none is
	coming  int64    // bytes of weights that are being loaded, once they are known
	err     error    // of the last load
}

// loading is a load in progress; err holds once done is closed.
type loading struct {
	done chan struct{}
	err  error
}

// Status is what a Store says of one model.
type Status struct {
	Name   string `json:"name"`
	State  string `json:"state"` // "loaded", "loading", "unloaded" or "failed"
	Users  int    `json:"users"`
	Error  string `json:"error,omitempty"`
	Loaded *Info  `json:"info,omitempty"`
}

// Add names a model that open loads when it is first asked for. An earlier one of the name is
// replaced; its users keep what they have.
func (s *Store) Add(name string, open func(context.Context) (Model, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entries == nil {
		s.entries = map[string]*entry{}
	}
	s.entries[name] = &entry{open: open}
}

// Names lists the models, sorted.
func (s *Store) Names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.entries))
}

// Acquire returns a model, loading it if need be, and a function to call when done with it.
// A name may carry "@" and the start of a digest, which must then be the loaded model's.
func (s *Store) Acquire(ctx context.Context, name string) (Model, func(), error) {
	name, digest, _ := strings.Cut(name, "@")
	m, release, err := s.acquire(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	if !SameDigest(m.Info().Digest, digest) {
		have := m.Info().Digest
		release()
		return nil, nil, fmt.Errorf("pipeline: %w: %s@%s: loaded is %s", ErrNoModel, name, digest, have)
	}
	return m, release, nil
}

// SameDigest reports whether a digest begins as asked; either may lack its "sha256:".
func SameDigest(have, asked string) bool {
	return strings.HasPrefix(strings.TrimPrefix(have, "sha256:"), strings.TrimPrefix(asked, "sha256:"))
}

func (s *Store) acquire(ctx context.Context, name string) (Model, func(), error) {
	for {
		s.mu.Lock()
		e, ok := s.entries[name]
		if !ok {
			names := slices.Sorted(maps.Keys(s.entries))
			s.mu.Unlock()
			return nil, nil, fmt.Errorf("pipeline: %w: %q (have: %s)", ErrNoModel, name, strings.Join(names, ", "))
		}
		if e.model != nil {
			defer s.mu.Unlock()
			return e.model, s.hold(e), nil
		}
		l := e.loading
		if l == nil {
			l = &loading{done: make(chan struct{})}
			e.loading = l
			s.mu.Unlock()
			return s.load(ctx, name, e)
		}
		s.mu.Unlock()
		select {
		case <-l.done:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
		// Who waits has the same failure, unless it came of who loaded having left.
		if l.err != nil && !errors.Is(l.err, context.Canceled) && !errors.Is(l.err, context.DeadlineExceeded) {
			return nil, nil, l.err
		}
	}
}

// hold counts a user of e and returns what ends the use. The lock is held.
func (s *Store) hold(e *entry) func() {
	e.users++
	s.clock++
	e.used = s.clock
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		e.users--
	})
}

// load opens e's model, which the caller has marked as loading, and holds it.
func (s *Store) load(ctx context.Context, name string, e *entry) (Model, func(), error) {
	m, err := s.open(ctx, e)
	s.mu.Lock()
	defer s.mu.Unlock()
	l := e.loading
	defer close(l.done)
	e.loading, e.coming = nil, 0
	if err == nil {
		err = s.makeRoom(e, m.Info().Bytes)
	}
	e.err = err
	if err != nil {
		l.err = fmt.Errorf("pipeline: load %s: %w", name, err)
		return nil, nil, l.err
	}
	e.model = m
	return m, s.hold(e), nil
}

// open opens e's model. As soon as its size is known there must be room for it. A panic on the way
// is an error, so that nobody waits for it for ever.
func (s *Store) open(ctx context.Context, e *entry) (m Model, err error) {
	ctx = context.WithValue(ctx, roomKey{}, func(bytes int64) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if err := s.makeRoom(e, bytes); err != nil {
			return err
		}
		e.coming = bytes
		return nil
	})
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return e.open(ctx)
}

// roomKey is where the context of a load carries the func(bytes int64) error that makes room.
type roomKey struct{}

// takeRoom makes room for weights that are about to be loaded, where someone keeps a budget.
func takeRoom(ctx context.Context, bytes int64) error {
	if room, ok := ctx.Value(roomKey{}).(func(int64) error); ok {
		return room(bytes)
	}
	return nil
}

// makeRoom evicts idle models, least recently used first, until need more bytes fit; none where all of
// them would not do. The lock is held.
func (s *Store) makeRoom(keep *entry, need int64) error {
	if s.Budget <= 0 {
		return nil
	}
	for {
		var total, busy int64
		var oldest *entry
		for _, e := range s.entries {
			if e != keep {
				total += e.coming
				busy += e.coming
			}
			if e.model == nil || e == keep {
				continue
			}
			bytes := e.model.Info().Bytes
			total += bytes
			if e.users > 0 {
				busy += bytes
			} else if oldest == nil || e.used < oldest.used {
				oldest = e
			}
		}
		if total+need <= s.Budget {
			return nil
		}
		if busy+need > s.Budget {
			return fmt.Errorf("%w: needs %d bytes, budget %d, %d in use", ErrBudget, need, s.Budget, busy)
		}
		oldest.model = nil
	}
}

// Loaded is the bytes of weights that are loaded, or about to be.
func (s *Store) Loaded() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var total int64
	for _, e := range s.entries {
		total += e.coming
		if e.model != nil {
			total += e.model.Info().Bytes
		}
	}
	return total
}

// Reload opens a model anew and swaps it in when that succeeds; on an error the old one stays.
func (s *Store) Reload(ctx context.Context, name string) error {
	s.mu.Lock()
	e, ok := s.entries[name]
	s.mu.Unlock()
	if !ok {
		return fmt.Errorf("pipeline: %w: %q", ErrNoModel, name)
	}
	m, err := s.open(ctx, e)
	s.mu.Lock()
	defer s.mu.Unlock()
	e.coming = 0
	if err != nil {
		return fmt.Errorf("pipeline: reload %s: %w", name, err)
	}
	now, ok := s.entries[name]
	if !ok { // removed meanwhile
		return fmt.Errorf("pipeline: reload %s: %w", name, ErrNoModel)
	}
	if err := s.makeRoom(now, m.Info().Bytes); err != nil {
		return fmt.Errorf("pipeline: reload %s: %w", name, err)
	}
	// Users of the old model hold it themselves; the entry forgets it and counts anew.
	s.entries[name] = &entry{open: now.open, model: m, used: now.used}
	return nil
}

// Unload forgets a model's weights; the next Acquire loads it again.
func (s *Store) Unload(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.entries[name]
	if !ok {
		return fmt.Errorf("pipeline: %w: %q", ErrNoModel, name)
	}
	s.entries[name] = &entry{open: e.open}
	return nil
}

// Remove forgets a model altogether.
func (s *Store) Remove(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.entries[name]; !ok {
		return fmt.Errorf("pipeline: %w: %q", ErrNoModel, name)
	}
	delete(s.entries, name)
	return nil
}

// Status lists every model and its state, sorted by name.
func (s *Store) Status() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Status
	for _, name := range slices.Sorted(maps.Keys(s.entries)) {
		e := s.entries[name]
		st := Status{Name: name, State: "unloaded", Users: e.users}
		switch {
		case e.model != nil:
			info := e.model.Info()
			st.State, st.Loaded = "loaded", &info
		case e.loading != nil:
			st.State = "loading"
		case e.err != nil:
			st.State, st.Error = "failed", e.err.Error()
		}
		out = append(out, st)
	}
	return out
}
