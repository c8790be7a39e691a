package pipeline_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mmserve/mmserve/pipeline"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// sized is a model of a size that does nothing.
type sized struct {
	pipeline.Model
	bytes  int64
	digest string
}

func (m sized) Info() pipeline.Info { return pipeline.Info{Bytes: m.bytes, Digest: m.digest} }

// opens counts how often a model of a size is opened.
func opens(bytes int64, n *atomic.Int64) func(context.Context) (pipeline.Model, error) {
	return func(context.Context) (pipeline.Model, error) {
		n.Add(1)
		return sized{bytes: bytes, digest: "sha256:abc123"}, nil
	}
}

// states is "name=state …".
func states(s *pipeline.Store) string {
	var out []string
	for _, st := range s.Status() {
		out = append(out, st.Name+"="+st.State)
	}
	return strings.Join(out, " ")
}

func acquire(t *testing.T, s *pipeline.Store, name string) func() {
	t.Helper()
	_, release, err := s.Acquire(t.Context(), name)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return release
}

func TestStoreEvictsTheLeastRecentlyUsed(t *testing.T) {
	var n atomic.Int64
	s := &pipeline.Store{Budget: 20}
	for _, name := range []string{"a", "b", "c"} {
		s.Add(name, opens(10, &n))
	}
	acquire(t, s, "a")()
	acquire(t, s, "b")()
	acquire(t, s, "a")()
	acquire(t, s, "c")()
	if got := states(s); got != "a=loaded b=unloaded c=loaded" {
		t.Errorf("after c: %s", got)
	}
	releaseA, releaseC := acquire(t, s, "a"), acquire(t, s, "c")
	if _, _, err := s.Acquire(t.Context(), "b"); !errors.Is(err, pipeline.ErrBudget) {
		t.Errorf("with all in use: %v", err)
	}
	releaseC()
	releaseC() // twice does no harm
	acquire(t, s, "b")()
	if got := states(s); got != "a=loaded b=loaded c=unloaded" {
		t.Errorf("a is in use, c is not: %s", got)
	}
	releaseA()
	s.Add("huge", opens(21, &n))
	if _, _, err := s.Acquire(t.Context(), "huge"); !errors.Is(err, pipeline.ErrBudget) {
		t.Errorf("larger than the budget: %v", err)
	}
	if got := states(s); got != "a=loaded b=loaded c=unloaded huge=failed" {
		t.Errorf("what cannot fit drives nothing out: %s", got)
	}
	if st := s.Status(); st[3].State != "failed" || st[3].Error == "" {
		t.Errorf("%+v", st[3])
	}
}

func TestStoreLoadsOnce(t *testing.T) {
	var n atomic.Int64
	gate := make(chan struct{})
	s := new(pipeline.Store)
	s.Add("m", func(ctx context.Context) (pipeline.Model, error) {
		<-gate
		return opens(1, &n)(ctx)
	})
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() { acquire(t, s, "m")() })
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	wg.Go(func() { // who leaves does not wait, and stops nobody else
		if _, _, err := s.Acquire(gone, "m"); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	close(gate)
	wg.Wait()
	if n.Load() != 1 {
		t.Errorf("opened %d times", n.Load())
	}
}

func TestStoreFailures(t *testing.T) {
	s := new(pipeline.Store)
	if _, _, err := s.Acquire(t.Context(), "none"); !errors.Is(err, pipeline.ErrNoModel) {
		t.Error(err)
	}
	var calls int
	s.Add("m", func(context.Context) (pipeline.Model, error) {
		switch calls++; calls {
		case 1:
			return nil, errors.New("disk full")
		case 2:
			panic("bad file")
		}
		return sized{bytes: 1, digest: "sha256:abc123"}, nil
	})
	for _, want := range []string{"disk full", "bad file"} {
		if _, _, err := s.Acquire(t.Context(), "m"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if got := states(s); got != "m=failed" {
			t.Error(got)
		}
	}
	acquire(t, s, "m")() // and the next try may succeed
	acquire(t, s, "m@abc")()
	acquire(t, s, "m@sha256:abc123")()
	if _, _, err := s.Acquire(t.Context(), "m@ff"); !errors.Is(err, pipeline.ErrNoModel) {
		t.Errorf("another digest: %v", err)
	}
	if st := s.Status(); st[0].Users != 0 {
		t.Errorf("%d users are left", st[0].Users)
	}
	for _, c := range []struct {
		name string
		f    func(string) error
	}{{"unload", s.Unload}, {"remove", s.Remove}} { // in this order: what is removed cannot be unloaded
		if err := c.f("none"); !errors.Is(err, pipeline.ErrNoModel) {
			t.Errorf("%s: %v", c.name, err)
		}
		if err := c.f("m"); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if states(s) != "" {
		t.Error(states(s))
	}
}

// Who waits for a load that fails has its error and does not load again, unless the load failed
// because the one who began it left.
func TestStoreSharesFailures(t *testing.T) {
	for _, c := range []struct {
		fault error
		opens int64
	}{{errors.New("damaged"), 1}, {context.Canceled, 10}} {
		synctest.Test(t, func(t *testing.T) {
			var n atomic.Int64
			s := new(pipeline.Store)
			s.Add("m", func(context.Context) (pipeline.Model, error) {
				n.Add(1)
				time.Sleep(time.Second)
				return nil, c.fault
			})
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() {
					if _, _, err := s.Acquire(t.Context(), "m"); !errors.Is(err, c.fault) {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if n.Load() != c.opens {
				t.Errorf("%v: opened %d times, want %d", c.fault, n.Load(), c.opens)
			}
		})
	}
}

// A model that is removed while it is read again stays removed.
func TestStoreReloadMeanwhile(t *testing.T) {
	s := new(pipeline.Store)
	var meanwhile func()
	s.Add("m", func(context.Context) (pipeline.Model, error) {
		meanwhile()
		return sized{}, nil
	})
	meanwhile = func() { s.Remove("m") }
	if err := s.Reload(t.Context(), "m"); !errors.Is(err, pipeline.ErrNoModel) || states(s) != "" {
		t.Errorf("removed meanwhile: %v, %q", err, states(s))
	}
}

func TestStoreReloadIsAllOrNothing(t *testing.T) {
	digest, broken, bytes := "sha256:01", false, int64(10)
	s := &pipeline.Store{Budget: 20}
	s.Add("m", func(context.Context) (pipeline.Model, error) {
		if broken {
			return nil, errors.New("broken")
		}
		return sized{digest: digest, bytes: bytes}, nil
	})
	old, release, err := s.Acquire(t.Context(), "m")
	if err != nil {
		t.Fatal(err)
	}
	digest = "sha256:02"
	if err := s.Reload(t.Context(), "m"); err != nil {
		t.Fatal(err)
	}
	if old.Info().Digest != "sha256:01" {
		t.Error("a user's model changed under it")
	}
	release()
	broken = true
	if err := s.Reload(t.Context(), "m"); err == nil {
		t.Error("a broken reload succeeded")
	}
	acquire(t, s, "m@02")()
	broken, bytes, digest = false, 21, "sha256:03"
	if err := s.Reload(t.Context(), "m"); !errors.Is(err, pipeline.ErrBudget) {
		t.Errorf("a reload over the budget: %v", err)
	}
	acquire(t, s, "m@02")()
	if err := s.Reload(t.Context(), "none"); !errors.Is(err, pipeline.ErrNoModel) {
		t.Error(err)
	}
}

// binding is what runs while the weights of a "StoreTest" are read.
var binding func()

func init() {
	pipeline.Register("StoreTest", func(_ context.Context, _ *pipeline.Dir, s weights.Scope, _ pipeline.Options) (pipeline.Model, error) {
		binding()
		return sized{bytes: 4 * int64(len(s.Tensor("w", 10).Data))}, nil
	})
}

// There must be room for a model before its weights are read: what is idle goes first, and a model
// that does not fit is refused unread.
func TestStoreMakesRoomBeforeItReads(t *testing.T) {
	dir := t.TempDir()
	var file bytes.Buffer
	if err := weights.WriteSafetensors(&file, map[string]tensor.Tensor{"w": tensor.Of(make([]float32, 10), 10)}, weights.F32, nil); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"config.json": []byte(`{"architectures":["StoreTest"]}`), "model.safetensors": file.Bytes()} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	open := func(ctx context.Context) (pipeline.Model, error) { return pipeline.Open(ctx, dir, pipeline.Options{}) }
	var n atomic.Int64
	s := &pipeline.Store{Budget: 50}
	s.Add("m", open)
	s.Add("other", opens(20, &n))
	for _, load := range []func() error{
		func() error {
			_, release, err := s.Acquire(t.Context(), "m")
			if err == nil {
				release()
			}
			return err
		},
		func() error { return s.Reload(t.Context(), "m") },
	} {
		release := acquire(t, s, "other")
		binding = func() { t.Error("weights were read that there is no room for") }
		if err := load(); !errors.Is(err, pipeline.ErrBudget) || s.Loaded() != 20 {
			t.Errorf("beside a model in use: %v; %d bytes are loaded", err, s.Loaded())
		}
		release()
		var during int64
		binding = func() { during = s.Loaded() }
		if err := load(); err != nil || during != 40 || s.Loaded() != 40 {
			t.Errorf("beside an idle model: %v; %d bytes when reading began, %d at the end, want 40", err, during, s.Loaded())
		}
	}
}
