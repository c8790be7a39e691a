package api_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mmserve/mmserve/api"
	"github.com/mmserve/mmserve/pipeline"
)

// slow is a model whose passes do something first.
type slow struct {
	*fake
	first func(ctx context.Context)
}

func (m *slow) Encode(ctx context.Context, it pipeline.Item, opt pipeline.EncodeOptions) (*pipeline.Encoding, error) {
	m.first(ctx)
	return m.fake.Encode(ctx, it, opt)
}

// A server whose passes hang is not ready two seconds later, be it the canary's own or those of the
// requests that hold every slot, deaf to their deadlines; the log says so once, and /healthz answers.
// Passes that end a layer now and then, or were planned to take long, are no reason to be unready,
// though the canary gets no turn.
func TestReadyWhileStuck(t *testing.T) {
	const never = 1000 * time.Hour
	for _, c := range []struct {
		name     string
		requests int
		cost     float64
		layer    time.Duration // that each of a pass's layers takes
		ready    bool
	}{
		{"the canary hangs", 0, 1, never, false},
		{"every slot hangs", 2, 1, never, false},
		{"one slot hangs", 1, 1, never, false}, // and the canary in the other
		{"every slot hangs and more wait", 8, 1, never, false},
		{"every slot moves", 2, 1, 1900 * time.Millisecond, true},
		{"every slot is planned to take half a minute", 2, 50e9 * 15, never, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				thaw := make(chan struct{})
				layer := time.Duration(0)
				m := &slow{newFake(c.cost), func(ctx context.Context) {
					for i := 0; i < 20 && layer > 0; i++ {
						select {
						case <-thaw:
						case <-time.After(layer):
							pipeline.Report(ctx, "layer", i, 20)
						}
					}
				}}
				st := &pipeline.Store{}
				st.Add("fake", func(context.Context) (pipeline.Model, error) { return m, nil })
				log := &lockedBuffer{}
				s := &api.Server{Store: st, Slots: 2, Capacity: 1e15, Log: slog.New(slog.NewJSONHandler(log, nil))}
				ask := func(method, path, body string) int {
					r := httptest.NewRequest(method, path, strings.NewReader(body))
					r.Header.Set("Content-Type", "application/json")
					w := httptest.NewRecorder()
					s.Handler().ServeHTTP(w, r)
					return w.Code
				}
				ctx, cancel := context.WithCancel(t.Context())
				go s.Watch(ctx)
				time.Sleep(10500 * time.Millisecond)
				if st := ask("GET", "/readyz", ""); st != 200 {
					t.Fatalf("at first: %d", st)
				}
				layer = c.layer
				for range c.requests {
					go ask("POST", "/v1/encode", texts(`"deadline_ms":500,`, "x"))
				}
				for wait := range 20 {
					synctest.Wait()
					want := 200
					if !c.ready && wait >= 2 {
						want = 503
					}
					if st := ask("GET", "/readyz", ""); st != want {
						t.Errorf("after %d s: %d, want %d", wait, st, want)
					}
					if st := ask("GET", "/healthz", ""); st != 200 {
						t.Errorf("health after %d s: %d", wait, st)
					}
					time.Sleep(1001 * time.Millisecond)
				}
				close(thaw)
				time.Sleep(2 * time.Second)
				if st := ask("GET", "/readyz", ""); st != 200 {
					t.Errorf("when passes move again: %d", st)
				}
				cancel()
				synctest.Wait()
				said := map[string]int{}
				for line := range strings.Lines(log.String()) {
					var l struct{ Msg string }
					json.Unmarshal([]byte(line), &l)
					said[l.Msg]++
				}
				if want := map[bool]int{false: 1}[c.ready]; said["not ready"] != want || said["ready again"] != want {
					t.Errorf("the log says %v, want %d of both", said, want)
				}
			})
		})
	}
}
