package api_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/mmserve/mmserve/api"
	"github.com/mmserve/mmserve/pipeline"
)

// A hundred thousand values that were never seen before, in every place where a request can say one, leave the
// metrics with as many series as before and the heap as it was.
func TestNothingGrowsWithWhatRequestsSay(t *testing.T) {
	st := &pipeline.Store{}
	st.Add("fake", newFake(1).open)
	st.Add("builtin", builtin)
	keys := new(api.Keys)
	if err := keys.Set([]api.Key{{Name: "k", Hash: api.HashKey("K"), Scopes: []api.Scope{api.ScopeAdmin}, Rate: 1e6}}); err != nil {
		t.Fatal(err)
	}
	host, err := api.ParseHost("*.example.com")
	if err != nil {
		t.Fatal(err)
	}
	s := &api.Server{Store: st, Default: "fake", Keys: keys, Slots: 4, Capacity: 1e15, Remote: &api.Remote{Hosts: []api.Host{host}}}
	h := s.Handler()
	ask := func(method, path, body string, headers ...string) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(context.Background(), method, path, strings.NewReader(body))
		r.Header.Set("Authorization", "Bearer K")
		for i := 0; i+1 < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	taken := func(w *httptest.ResponseRecorder) {
		if w.Code != 200 {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	}
	// Each of these says new values, as many as it returns.
	says := []func(i int) int{
		func(i int) int { // options of a medium that the model heeds, a name, a role, an id, a user
			taken(ask("POST", "/v1/plan", fmt.Sprintf(`{"model":"builtin","user":"u%d","inputs":[{"id":"i%d","content":[{"type":"text","text":"t%d","name":"n%d.txt","role":"r%d","options":{"max_length":%d}}]}]}`, i, i, i, i, i, 2049+i), "Content-Type", "application/json"))
			return 6
		},
		func(i int) int { // a model, a digest, a modality, a media type; none exists
			ask("POST", "/v1/encode", fmt.Sprintf(`{"model":"m%d@%x","inputs":[{"content":[{"type":"kind%d","data":"eA==","media_type":"a/b%d"}]}]}`, i, i, i, i), "Content-Type", "application/json")
			return 4
		},
		func(i int) int { // values of options, outputs and formats
			ask("POST", "/v1/encode", fmt.Sprintf(`{"output":"o%d","dtype":"d%d","encoding":"e%d","inputs":[{"content":[{"type":"text","text":"%d"}]}]}`, i, i, i, i), "Content-Type", "application/json")
			return 4
		},
		func(i int) int { // an option's name
			ask("POST", "/v1/plan", fmt.Sprintf(`{"model":"builtin","f%d":1,"inputs":[{"content":[{"type":"text","text":"x","options":{"o%d":1}}]}]}`, i, i), "Content-Type", "application/json")
			return 2
		},
		func(i int) int { // query parameters, and headers that are heard
			v := fmt.Sprint(i)
			taken(ask("POST", "/v1/encode?name=n"+v+".x&id=i"+v+"&output=pooled", v, "Content-Type", "text/plain; charset=c"+v, "X-Request-Id", "id"+v,
				"User-Agent", "agent/"+v, "X-H-"+v, "x", "Accept", "*/*, a/b"+v, "X-Request-Timeout-Ms", "1000"+v, "Traceparent", fmt.Sprintf("00-%032x-%016x-01", i+1, i+1), "Forwarded", "for=f"+v))
			ask("POST", "/v1/encode?p"+v+"=q", v, "Content-Type", "text/plain")
			return 13
		},
		func(i int) int { // a path, of each family of routes
			ask("GET", fmt.Sprintf("/made-up/%d", i), "")
			ask("GET", fmt.Sprintf("/v1/models/m%d", i), "")
			ask("GET", fmt.Sprintf("/v2/models/m%d/versions/v%d", i, i), "")
			ask("GET", fmt.Sprintf("/ui/%d", i), "")
			return 5
		},
		func(i int) int { // a method
			ask(fmt.Sprintf("VERB%d", i), "/v1/models", "")
			return 1
		},
		func(i int) int { // a key
			ask("GET", "/v1/models", "", "Authorization", fmt.Sprintf("Bearer wrong%d", i))
			ask("GET", "/v1/models", "", "X-Api-Key", fmt.Sprintf("wrong%d", i))
			return 2
		},
		func(i int) int { // a model to administer, and a URL
			ask("POST", fmt.Sprintf("/admin/v1/models/m%d/load", i), "")
			ask("POST", "/v1/encode", fmt.Sprintf(`{"inputs":[{"content":[{"type":"image","url":"https://h%d.test/p%d"}]}]}`, i, i), "Content-Type", "application/json")
			return 3
		},
		func(i int) int { // other dialects' models, names and numbers
			ask("POST", "/v1/embeddings", fmt.Sprintf(`{"model":"m%d","input":"x%d","user":"u%d"}`, i, i, i), "Content-Type", "application/json")
			ask("POST", fmt.Sprintf("/v2/models/m%d/infer", i), fmt.Sprintf(`{"id":"i%d","inputs":[{"name":"n%d","datatype":"BYTES","shape":[1],"data":["x"]}]}`, i, i), "Content-Type", "application/json")
			return 6
		},
	}
	series := func() int { return strings.Count(ask("GET", "/metrics", "").Body.String(), "\n") }
	heap := func() int64 {
		var m runtime.MemStats
		for range 3 { // pools are emptied in two collections
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	total, next := 0, 0
	say := func(values int) {
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				for {
					mu.Lock()
					i, more := next, total < values
					next++
					mu.Unlock()
					if !more {
						return
					}
					said := says[i%len(says)](i)
					mu.Lock()
					total += said
					mu.Unlock()
				}
			})
		}
		wg.Wait()
	}
	say(20_000)
	series() // counts itself from the next on
	lines, held, routines := series(), heap(), runtime.NumGoroutine()
	say(120_000)
	if n := series(); n != lines {
		t.Errorf("series grew from %d to %d lines", lines, n)
	}
	if grown := heap() - held; grown > 128<<10 { // one kind of value kept would be more
		t.Errorf("the heap grew by %d KiB over %d values", grown>>10, total)
	} else {
		t.Logf("%d values in %d requests: heap %+d KiB of %d, %d lines of metrics", total, next, grown>>10, held>>10, lines)
	}
	if n := runtime.NumGoroutine(); n > routines+2 {
		t.Errorf("%d goroutines, %d before", n, routines)
	}
}
