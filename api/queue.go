package api

import (
	"container/list"
	"context"
	"fmt"
	"math"
	"sync"
	"time"
)

// Queue admits work by its planned cost in FLOPs: a bounded amount may be under way or
// waiting, a bounded number of passes run at once, first come first served. What does not
// fit is refused at once with the time after which it is likely to.
type Queue struct {
	// Capacity is the cost that may be admitted at once, running and waiting together.
	Capacity float64
	// Slots is the number of passes that run at once.
	Slots int

	mu       sync.Mutex
	admitted float64 // cost running and waiting
	running  int
	waiting  list.List // of *ticket, in order of arrival
	rate     float64   // measured FLOPs a second, exponentially averaged
	now      func() time.Time
}

// assumedRate is the drain rate before anything was measured, FLOPs a second.
const assumedRate = 50e9

// ticket is a place in the queue; ready is closed when its turn has come.
type ticket struct{ ready chan struct{} }

// Saturated says that the queue is full, and when to come again.
type Saturated struct{ RetryAfter time.Duration }

// Error implements error.
func (s *Saturated) Error() string {
	return fmt.Sprintf("server is saturated; retry after %.0f s", math.Ceil(s.RetryAfter.Seconds()))
}

// Check refuses when nothing more can be admitted, whatever it costs: it is asked before a
// body is read.
func (q *Queue) Check() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.admitted >= q.Capacity {
		return q.saturated(0)
	}
	return nil
}

// Enter waits for a turn of work that costs flops, and returns what ends it. Work larger than
// the whole capacity is admitted when the queue is empty, so that it is slow but possible. An
// ended context gives the place back.
func (q *Queue) Enter(ctx context.Context, flops float64) (leave func(), err error) {
	q.mu.Lock()
	if q.admitted > 0 && q.admitted+flops > q.Capacity {
		defer q.mu.Unlock()
		return nil, q.saturated(flops)
	}
	q.admitted += flops
	if q.running < max(q.Slots, 1) && q.waiting.Len() == 0 {
		q.running++
		q.mu.Unlock()
		return q.leave(flops), nil
	}
	t := &ticket{ready: make(chan struct{})}
	place := q.waiting.PushBack(t)
	q.mu.Unlock()
	select {
	case <-t.ready:
		return q.leave(flops), nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case <-t.ready: // the turn came at the same moment: pass it on
		q.running--
		q.next()
	default:
		q.waiting.Remove(place)
	}
	q.admitted -= flops
	return nil, ctx.Err()
}

// leave returns the function that ends a turn begun now.
func (q *Queue) leave(flops float64) func() {
	begin := q.clock()
	return sync.OnceFunc(func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		if took := q.clock().Sub(begin).Seconds(); took > 0 && flops > 0 {
			const weight = 0.2
			r := flops / took * float64(max(q.running, 1))
			if q.rate == 0 {
				q.rate = r
			}
			q.rate += weight * (r - q.rate)
		}
		q.admitted = max(0, q.admitted-flops)
		q.running--
		q.next()
	})
}

// next gives free slots to who waits longest. The lock is held.
func (q *Queue) next() {
	for q.running < max(q.Slots, 1) && q.waiting.Len() > 0 {
		t := q.waiting.Remove(q.waiting.Front()).(*ticket)
		q.running++
		close(t.ready)
	}
}

// saturated is the refusal of work that costs flops. The lock is held.
func (q *Queue) saturated(flops float64) *Saturated {
	rate := q.rate
	if rate == 0 {
		rate = assumedRate
	}
	over := q.admitted + flops - q.Capacity
	wait := time.Duration(max(over, 0) / rate * float64(time.Second))
	return &Saturated{RetryAfter: min(max(wait, time.Second), time.Hour)}
}

func (q *Queue) clock() time.Time {
	if q.now != nil {
		return q.now()
	}
	return time.Now()
}

// Load is a snapshot of a queue.
type Load struct {
	Admitted float64 `json:"admitted_flops"`
	Running  int     `json:"running"`
	Waiting  int     `json:"waiting"`
	Rate     float64 `json:"drain_flops_per_s"`
}

// Load returns the state of the queue now.
func (q *Queue) Load() Load {
	q.mu.Lock()
	defer q.mu.Unlock()
	return Load{q.admitted, q.running, q.waiting.Len(), q.rate}
}
