package api

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"
)

// timings collects how long the stages of a request took, for Server-Timing and metrics.
type timings struct {
	mu     sync.Mutex
	names  []string
	totals map[string]time.Duration
}

type timingsKey struct{}

// stage measures one stage of the request in ctx until the returned function is called.
func stage(ctx context.Context, name string) func() {
	t, ok := ctx.Value(timingsKey{}).(*timings)
	if !ok {
		return func() {}
	}
	begin := time.Now()
	return func() { t.add(name, time.Since(begin)) }
}

func (t *timings) add(name string, d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.totals == nil {
		t.totals = map[string]time.Duration{}
	}
	if _, ok := t.totals[name]; !ok {
		t.names = append(t.names, name)
	}
	t.totals[name] += d
}

// header is the value of Server-Timing (W3C), milliseconds.
func (t *timings) header(total time.Duration) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var parts []string
	for _, n := range t.names {
		parts = append(parts, fmt.Sprintf("%s;dur=%.3f", n, float64(t.totals[n])/1e6))
	}
	return strings.Join(append(parts, fmt.Sprintf("total;dur=%.3f", float64(total)/1e6)), ", ")
}

// ms is the stages in milliseconds.
func (t *timings) ms() map[string]float64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := map[string]float64{}
	for n, d := range t.totals {
		out[n] = float64(d) / 1e6
	}
	return out
}
