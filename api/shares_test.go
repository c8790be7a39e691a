package api_test

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/mmserve/mmserve/api"
)

// Bodies that do not say how long they are share the same bytes as those that do.
func TestChunkedBodiesTogether(t *testing.T) {
	f := newFake(1)
	s := newSite(t, &api.Server{Store: f.store(), Slots: 8, Bodies: 4000})
	send := func(text string, size int) (int, string) {
		body := fmt.Sprintf(`{"user":%q,"inputs":[{"content":[{"type":"text","text":%q}]}]}`, strings.Repeat("x", size), text)
		resp, err := s.Client().Post(s.URL+"/v1/encode", "application/json", io.MultiReader(strings.NewReader(body))) // of no known length
		if err != nil {
			t.Error(err)
			return 0, ""
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Error(err)
		}
		return resp.StatusCode, string(b)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if st, body := send("block", 3000); st != 200 {
			t.Errorf("the first: %d %s", st, body)
		}
	})
	<-f.started
	if st, body := send("a", 1500); st != 503 || !strings.Contains(body, "saturated") {
		t.Errorf("1,500 bytes beside 3,000 of 4,000: %d %s", st, body)
	}
	if st, body := send("a", 500); st != 200 {
		t.Errorf("500 bytes beside 3,000 of 4,000: %d %s", st, body)
	}
	close(f.gate)
	wg.Wait()
	if st, body := send("a", 9000); st != 200 { // alone, it may be larger
		t.Errorf("alone: %d %s", st, body)
	}
	s.atRest()
}

// Answers of several requests share their memory: what finds it taken fails alone, and can be had
// afterwards.
func TestAnswersTogether(t *testing.T) {
	f := newFake(1)
	s := newSite(t, &api.Server{Store: f.store(), Slots: 2, Capacity: 1e15, Memory: 1}) // 2 MiB for answers; a wide one is nearly 1
	var wg sync.WaitGroup
	wg.Go(func() { s.want(s.post("/v1/encode", texts("", "wide", "block")), 200) })
	<-f.started
	status := func() (list []string) {
		for _, d := range s.want(s.post("/v1/encode", texts("", "wide", "wide", "a")), 200).json(t)["data"].([]any) {
			d := d.(map[string]any)
			list = append(list, fmt.Sprint(d["status"]))
			if e, ok := d["error"].(map[string]any); ok {
				list[len(list)-1] = fmt.Sprint(e["code"])
			}
		}
		return list
	}
	if got := fmt.Sprint(status()); got != "[ok saturated ok]" {
		t.Errorf("beside another: %s", got)
	}
	close(f.gate)
	wg.Wait()
	if got := fmt.Sprint(status()); got != "[ok ok ok]" {
		t.Errorf("alone: %s", got)
	}
	s.atRest()
}

// What weights hold is no longer there for requests.
func TestWeightsTakeTheirShare(t *testing.T) {
	f := newFake(1)
	f.bytes = 512 << 20
	s := newSite(t, &api.Server{Store: f.store(), Memory: 1 << 30})
	const before = 1<<30/20*17 - 64<<20
	announced := func() float64 {
		return s.want(s.do("GET", "/v1/models", nil), 200).json(t)["data"].([]any)[0].(map[string]any)["limits"].(map[string]any)["max_body_bytes"].(float64)
	}
	if got := announced(); got != before/20 {
		t.Errorf("before the model is loaded a body may have %.0f bytes, want %d", got, before/20)
	}
	s.want(s.post("/v1/encode", texts("", fmt.Sprint("needs ", (before-512<<20)/2))), 200)
	if got := announced(); got != (before-512<<20)/20 {
		t.Errorf("beside 512 MiB of weights a body may have %.0f bytes, want %d", got, (before-512<<20)/20)
	}
	s.want(s.post("/v1/encode", texts("", fmt.Sprint("needs ", (before-512<<20)/2+1))), 413)
}
