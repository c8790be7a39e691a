package api_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/mmserve/mmserve/api"
)

// Under a ceiling every kind of memory has its share, and what passes it is refused with the
// limit and the actual value: one item's pass, one answer, one body.
func TestSharesOfMemory(t *testing.T) {
	s := newSite(t, &api.Server{Store: newFake(1).store(), Memory: 1}) // so the least that is worked with: 64 MiB
	for _, c := range []struct {
		name, body, code string
		limit            float64
	}{
		{"pass", texts("", "needs 33554433"), "too_large", 32 << 20},
		{"answer", texts(`"atomic":true,`, "wide", "wide", "wide"), "too_large", 2 << 20},
		{"body", texts(`"user":"`+strings.Repeat("x", 4<<20)+`",`, "a"), "body_too_large", 3355443},
	} {
		a := s.want(s.post("/v1/encode", c.body), 413)
		if a.code(t) != c.code || a.json(t)["limit"] != c.limit || a.json(t)["actual"].(float64) <= c.limit {
			t.Errorf("%s: %s", c.name, a.body)
		}
	}
	s.want(s.post("/v1/encode", texts("", "needs 33554432")), 200)
	doc := s.want(s.post("/v1/encode", texts("", "wide", "wide", "wide", "a")), 200).json(t)
	if doc["errors"] != 1.0 || doc["data"].([]any)[3].(map[string]any)["status"] != "ok" {
		t.Errorf("one item too many for an answer: %d errors", int(doc["errors"].(float64)))
	}
	if a := s.want(s.post("/v1/encode", texts(`"format":"ndjson",`, "wide", "wide", "wide", "wide")), 200); strings.Contains(string(a.body), "error") {
		t.Error("lines that are sent as they come are held together")
	}
	if limit := s.want(s.do("GET", "/v1/models", nil), 200).json(t)["data"].([]any)[0].(map[string]any)["limits"].(map[string]any)["max_body_bytes"]; limit != 3355443.0 {
		t.Errorf("announced limit of a body: %v", limit)
	}
	await(t, func() bool { return api.Held(s.api) == 0 && api.Kept(s.api) == 0 })
}

// The items of a multipart body are counted with those of its JSON part.
func TestItemsOfAllPlaces(t *testing.T) {
	s := newSite(t, &api.Server{Store: newFake(1).store(), MaxItems: 2})
	part := func(name, text string) string {
		return "--b\r\nContent-Disposition: form-data; name=\"" + name + "\"\r\n\r\n" + text + "\r\n"
	}
	for n, status := range map[int]int{1: 200, 2: 413} {
		body := part("a", "a") + part("request", texts("", slices.Repeat([]string{"b"}, n)...)) + "--b--\r\n"
		s.want(s.do("POST", "/v1/encode", []byte(body), "Content-Type", "multipart/form-data; boundary=b"), status)
	}
}

// Classes are counted as tensors are: a few bytes of text can ask for all of the vocabulary at
// each of very many places.
func TestManyClasses(t *testing.T) {
	s := newSite(t, &api.Server{Memory: 1, Default: "mlm"}) // so an answer holds 2 MiB
	words := slices.Repeat([]string{strings.Repeat("[MASK]", 18)}, 20)
	s.want(s.post("/v1/predict", texts(`"top":262,`, words[:2]...)), 200)
	a := s.want(s.post("/v1/predict", texts(`"top":262,"atomic":true,`, words...)), 413)
	if p := a.json(t); p["code"] != "too_large" || p["limit"] != float64(2<<20) {
		t.Errorf("%s", a.body)
	}
	await(t, func() bool { return api.Kept(s.api) == 0 })
}

// Passes wait for room in order of arrival, and whoever leaves the line holds nothing up.
func TestRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r api.Room
		first, err := r.Enter(t.Context(), 60, 100)
		if err != nil {
			t.Fatal(err)
		}
		order := make(chan string, 4)
		gone, cancel := context.WithCancel(t.Context())
		enter := func(ctx context.Context, name string, n int64) {
			go func() {
				leave, err := r.Enter(ctx, n, 100)
				order <- fmt.Sprint(name, " ", err)
				if err == nil {
					leave()
				}
			}()
			synctest.Wait()
		}
		enter(gone, "gone", 50)
		enter(t.Context(), "large", 90)
		enter(t.Context(), "small", 20)
		if len(order) != 0 {
			t.Fatalf("%s came in before its turn", <-order)
		}
		cancel()
		synctest.Wait()
		first()
		synctest.Wait()
		for _, want := range []string{"gone context canceled", "large <nil>", "small <nil>"} {
			if got := <-order; got != want {
				t.Errorf("%q, want %q", got, want)
			}
		}
		if _, err := r.Enter(t.Context(), 101, 100); err == nil {
			t.Error("more than there is was let in")
		}
		if leave, err := r.Enter(t.Context(), 100, 100); err != nil {
			t.Error("room was lost")
		} else {
			leave()
		}
	})
}
