package api

import (
	"errors"
	"testing"
	"time"
)

// However little they cost and however much is taken in, no more than maxWaiting wait.
func TestQueueBoundsTurns(t *testing.T) {
	now := time.Unix(1, 0)
	q := &Queue{Slots: 1, Capacity: 1e18, now: func() time.Time { return now }}
	for i := range 1 + maxWaiting {
		p, err := q.Reserve()
		if err == nil {
			defer p.Close()
			continue
		}
		var full *Saturated
		if i != maxWaiting || !errors.As(err, &full) {
			t.Fatalf("place %d: %v", i, err)
		}
		return
	}
	t.Errorf("more than %d wait", maxWaiting)
}
