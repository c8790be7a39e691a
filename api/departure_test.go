package api_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/mmserve/mmserve/api"
	"github.com/mmserve/mmserve/pipeline"
	"github.com/mmserve/mmserve/tensor"
)

// layered is a model that counts the layers it runs, and those that begin after the pass was to end.
type layered struct {
	pipeline.Model
	needs  int64                                // bytes that its plans say besides
	at     func(ctx context.Context, layer int) // runs before a layer; 0 is the first look at the medium
	passes atomic.Int64
	layers atomic.Int64 // of the last pass
	late   atomic.Int64
	ended  chan struct{} // one value a pass
}

func (m *layered) Plan(ctx context.Context, it pipeline.Item) (pipeline.Plan, error) {
	p, err := m.Model.Plan(ctx, it)
	p.DecodedBytes += m.needs
	return p, err
}

// begin counts a pass; the function it returns, a layer.
func (m *layered) begin(ctx context.Context) (layer func()) {
	m.passes.Add(1)
	m.layers.Store(0)
	return func() {
		if ctx.Err() != nil {
			m.late.Add(1)
		}
		m.at(ctx, int(m.layers.Add(1)))
	}
}

// look calls at when the medium is first read.
type look struct {
	io.ReaderAt
	once sync.Once
	at   func()
}

func (l *look) ReadAt(p []byte, off int64) (int, error) {
	l.once.Do(l.at)
	return l.ReaderAt.ReadAt(p, off)
}

func (m *layered) watched(ctx context.Context, it pipeline.Item) pipeline.Item {
	it.Parts = slices.Clone(it.Parts)
	it.Parts[0].Input.At = &look{ReaderAt: it.Parts[0].Input.At, at: func() { m.at(ctx, 0) }}
	return it
}

func (m *layered) Encode(ctx context.Context, it pipeline.Item, opt pipeline.EncodeOptions) (*pipeline.Encoding, error) {
	layer := m.begin(ctx)
	defer func() { m.ended <- struct{}{} }()
	opt.Trace = func(string, tensor.Tensor) { layer() }
	return m.Model.Encode(ctx, m.watched(ctx, it), opt)
}

func (m *layered) Predict(ctx context.Context, it pipeline.Item, opt pipeline.PredictOptions) (*pipeline.Prediction, error) {
	layer := m.begin(ctx)
	defer func() { m.ended <- struct{}{} }()
	opt.Trace = func(string, tensor.Tensor) { layer() }
	return m.Model.Predict(ctx, m.watched(ctx, it), opt)
}

func (m *layered) Generate(ctx context.Context, p pipeline.Prompt, opt pipeline.GenerateOptions, emit func(string) error) (*pipeline.Generation, error) {
	layer := m.begin(ctx)
	defer func() { m.ended <- struct{}{} }()
	return m.Model.(pipeline.Generator).Generate(ctx, p, opt, func(text string) error {
		layer()
		return emit(text)
	})
}

// deepModel is the language Perceiver of the paper, all its layers, in widths that run in milliseconds.
func deepModel(ctx context.Context) (pipeline.Model, error) {
	b, err := os.ReadFile(filepath.Join("..", "testdata", "reference", "fullsize", "language-perceiver", "config.json"))
	if err != nil {
		return nil, err
	}
	var config map[string]any
	if err := json.Unmarshal(b, &config); err != nil {
		return nil, err
	}
	config["d_latents"], config["v_channels"], config["d_model"], config["qk_channels"], config["num_latents"] = 128, 128, 64, 64, 64
	if b, err = json.Marshal(config); err != nil {
		return nil, err
	}
	return pipeline.OpenFS(ctx, fstest.MapFS{"config.json": {Data: b}}, pipeline.Options{Random: true})
}

// layeredSite serves a model that counts its layers.
func layeredSite(t *testing.T, open func(context.Context) (pipeline.Model, error), s *api.Server) (*site, *layered) {
	t.Helper()
	m := &layered{at: func(context.Context, int) {}, ended: make(chan struct{}, 100)}
	s.Store = &pipeline.Store{}
	s.Store.Add("m", func(ctx context.Context) (pipeline.Model, error) {
		var err error
		m.Model, err = open(ctx)
		return m, err
	})
	return newSite(t, s), m
}

// gauge is the value of a metric without labels.
func (s *site) gauge(name string) (v float64) {
	s.t.Helper()
	_, rest, ok := strings.Cut(string(s.do("GET", "/metrics", nil).body), "\nmmserve_"+name+" ")
	if _, err := fmt.Sscan(rest, &v); !ok || err != nil {
		s.t.Fatalf("no metric %s: %v", name, err)
	}
	return v
}

// atRest fails unless the server comes to hold nothing for anyone.
func (s *site) atRest() {
	s.t.Helper()
	await(s.t, func() bool {
		return s.gauge("queue_running") == 0 && s.gauge("queue_waiting") == 0 && s.gauge("queue_admitted_flops") == 0 &&
			api.Held(s.api) == 0 && api.Kept(s.api) == 0
	})
}

// leaving sends a request that its client gives up when leave is called.
func (s *site) leaving(path, body string) (leave func(), gone chan error) {
	ctx, leave := context.WithCancel(s.t.Context())
	req, _ := http.NewRequestWithContext(ctx, "POST", s.URL+path, strings.NewReader(body))
	req.Header.Set("Content-Type", "application/json")
	gone = make(chan error, 1)
	go func() {
		resp, err := s.Client().Do(req)
		if err == nil {
			resp.Body.Close()
			err = fmt.Errorf("answered with %d", resp.StatusCode)
		} else {
			err = nil
		}
		gone <- err
	}()
	return leave, gone
}

// wantLate wants the answer of a deadline that passed: on a busy machine that may be while the body
// arrives, before any pass of m.
func (s *site) wantLate(a answer, m *layered) {
	s.t.Helper()
	if a.status != 408 || m != nil && m.passes.Load() > 0 {
		s.want(a, 504)
	}
}

// A client that leaves, or a deadline that passes, ends the work of real models within one layer: in
// the medium's decoding, before each layer of encoder and decoder, at each token.
func TestWorkStopsWithinALayer(t *testing.T) {
	medium := func(kind, file string) string {
		return `{"type":"` + kind + `","data":"` + base64.StdEncoding.EncodeToString(readMedia(t, file)) + `"}`
	}
	image := medium("image", "image/go-video-001.rgb.jpeg")
	for _, c := range []struct {
		name, path, body string
		open             func(context.Context) (pipeline.Model, error)
		layers           int // at least
	}{
		{"26 layers over a text", "/v1/encode", `"inputs":[{"content":[{"type":"text","text":"a text"}]}]`, deepModel, 28},
		{"a picture", "/v1/encode", `"inputs":[{"content":[` + image + `]}]`, builtin, 5},
		{"sound", "/v1/encode", `"inputs":[{"content":[` + medium("audio", "audio/fsdd-7_george_0.wav") + `]}]`, builtin, 5},
		{"points, predicted", "/v1/predict", `"inputs":[{"content":[` + medium("pointcloud", "pointcloud/pyntcloud-diamond.ply") + `]}]`, builtin, 7},
		{"words about a picture", "/v1/generate", `"stream":false,"max_tokens":8,"prompt":"<image>","content":[` + image + `]`, builtin, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, m := layeredSite(t, c.open, &api.Server{Deadline: time.Hour})
			s.want(s.post(c.path, "{"+c.body+"}"), 200)
			<-m.ended
			all := int(m.layers.Load())
			if all < c.layers {
				t.Fatalf("a pass has %d layers", all)
			}
			first := 0
			if c.path == "/v1/generate" {
				first = 1
			}
			for point := first; point < all; point++ {
				for _, way := range []string{"leaves", "deadline_ms", "X-Request-Timeout-Ms"} {
					if way == "deadline_ms" && first == 1 {
						continue // generation takes its deadline from the header alone
					}
					m.late.Store(0)
					leave := func() {}
					m.at = func(ctx context.Context, layer int) {
						if layer != point {
							return
						}
						leave()
						select {
						case <-ctx.Done():
						case <-time.After(20 * time.Second):
							t.Errorf("%s at layer %d: the pass is not told", way, point)
						}
					}
					switch way {
					case "leaves":
						var gone chan error
						ready := make(chan struct{})
						at := m.at
						m.at = func(ctx context.Context, layer int) { <-ready; at(ctx, layer) }
						leave, gone = s.leaving(c.path, "{"+c.body+"}")
						close(ready)
						if err := <-gone; err != nil {
							t.Errorf("%s at layer %d: %v", way, point, err)
						}
					case "deadline_ms":
						s.want(s.post(c.path, `{"deadline_ms":20,`+c.body+"}"), 504)
					default:
						s.wantLate(s.post(c.path, "{"+c.body+"}", way, "20"), m)
					}
					if m.passes.Load() > 0 { // a deadline may pass before the pass began
						<-m.ended
					}
					if n := int(m.layers.Load()); m.late.Load() > 1 || n > point+1 {
						t.Errorf("%s at layer %d: %d layers of %d ran, %d of them afterwards", way, point, n, all, m.late.Load())
					}
					m.passes.Store(0)
				}
			}
			m.at = func(context.Context, int) {}
			s.atRest()
			s.want(s.post(c.path, "{"+c.body+"}"), 200)
		})
	}
}

// Who leaves while the body arrives, while others have their turn, or while memory is waited for,
// costs no layer and keeps nothing; nor does who runs out of time there.
func TestWaitingEndsWithItsClient(t *testing.T) {
	body := texts("", "a text")
	for _, c := range []struct {
		name             string
		server           *api.Server
		needs            int64
		running, waiting float64 // with one pass that stands still and three requests behind it
	}{
		{"for a turn", &api.Server{Slots: 1, Capacity: 1e15}, 0, 1, 3},
		{"for memory", &api.Server{Slots: 4, Capacity: 1e15, Memory: 1}, 20 << 20, 4, 0}, // of 32 MiB
	} {
		t.Run(c.name, func(t *testing.T) {
			s, m := layeredSite(t, deepModel, c.server)
			m.needs = c.needs
			thaw := make(chan struct{})
			m.at = func(context.Context, int) { <-thaw }
			var first sync.WaitGroup
			first.Go(func() { s.want(s.post("/v1/encode", body), 200) })
			await(t, func() bool { return s.gauge("queue_running") == 1 && m.passes.Load() == 1 })
			leave, gone := make([]func(), 3), make([]chan error, 3)
			for i := range leave {
				leave[i], gone[i] = s.leaving("/v1/encode", body)
			}
			await(t, func() bool { return s.gauge("queue_running") == c.running && s.gauge("queue_waiting") == c.waiting })
			for i := range leave {
				leave[i]()
				if err := <-gone[i]; err != nil {
					t.Error(err)
				}
			}
			await(t, func() bool { return s.gauge("queue_running") == 1 && s.gauge("queue_waiting") == 0 })
			s.want(s.post("/v1/encode", texts(`"deadline_ms":20,`, "a text")), 504)
			s.wantLate(s.post("/v1/encode", body, "X-Request-Timeout-Ms", "20"), nil)
			if n := m.passes.Load(); n != 1 {
				t.Errorf("%d passes began", n)
			}
			close(thaw)
			first.Wait()
			s.atRest()
			s.Client().Timeout = 20 * time.Second
			s.want(s.post("/v1/encode", body), 200) // what they waited for is free
		})
	}
	t.Run("for the body", func(t *testing.T) {
		s, m := layeredSite(t, deepModel, &api.Server{})
		for _, part := range []int{1, len(body) / 2, len(body) - 1} {
			conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(conn, "POST /v1/encode HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body[:part])
			await(t, func() bool { return api.Held(s.api) == int64(part) })
			conn.Close()
			s.atRest()
		}
		if n := m.passes.Load(); n != 0 {
			t.Errorf("%d passes of bodies that never came whole", n)
		}
	})
	t.Run("for further items", func(t *testing.T) {
		s, m := layeredSite(t, deepModel, &api.Server{})
		var leave func()
		ready := make(chan struct{})
		m.at = func(ctx context.Context, layer int) {
			<-ready
			leave()
			<-ctx.Done()
		}
		var gone chan error
		leave, gone = s.leaving("/v1/encode", texts("", "a", "b", "c", "d"))
		close(ready)
		if err := <-gone; err != nil {
			t.Error(err)
		}
		s.atRest()
		if n := m.passes.Load(); n != 1 {
			t.Errorf("%d passes after a client left in the first", n)
		}
	})
}

// Items that fail do not pass for fast ones: files whose headers promise much would let anything in.
func TestFailuresTeachNoRate(t *testing.T) {
	s := newSite(t, &api.Server{Store: newFake(1e12).store()})
	for _, body := range []string{"fail", "withheld", "fail"} {
		if a := s.post("/v1/encode", texts("", body)); a.status < 400 {
			t.Errorf("%s: %d", body, a.status)
		}
	}
	if rate := s.gauge("queue_drain_flops_per_second"); rate != 0 {
		t.Errorf("work that failed is taken for %g FLOPs a second", rate)
	}
}
