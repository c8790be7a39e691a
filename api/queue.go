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
	// Capacity is the cost that may be admitted at once, running and waiting together; zero
	// means what the measured rate drains in Wait.
	Capacity float64
	// Wait bounds how long admitted work is expected to take; zero means two seconds.
	Wait time.Duration
	// Slots is the number of passes that run at once.
	Slots int

	mu       sync.Mutex
	admitted float64 // cost running and waiting
	running  int
	waiting  list.List // of *ticket, in order of arrival
	rate     float64   // measured FLOPs a second, exponentially averaged
	typical  float64   // cost of an item, exponentially averaged
	left     time.Time // the last end of a turn with others waiting, else zero
	done     float64   // cost of a turn while others wait, exponentially averaged
	between  float64   // seconds from one such end to the next, exponentially averaged
	now      func() time.Time
}

const (
	defaultWait = 2 * time.Second
	maxWaiting  = 4096 // turns waited for, whatever they cost
	leastCost   = 5e6  // of an item that costs anything: parsing and answering it
	weight      = 0.1  // of a new value in an average
)

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

// Check refuses when an item of the usual cost could not be admitted: it is asked before a
// body is read.
func (q *Queue) Check() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.fits(q.typical) {
		return q.saturated(q.typical)
	}
	return nil
}

// fits reports whether work that costs flops may come in. A free slot takes anything, so that
// work larger than the whole capacity is slow but possible. The lock is held.
func (q *Queue) fits(flops float64) bool {
	if q.running < max(q.Slots, 1) && q.waiting.Len() == 0 {
		return true
	}
	return q.admitted+flops <= q.capacity() && q.waiting.Len() < maxWaiting
}

// capacity is the cost that may be admitted at once. The lock is held.
func (q *Queue) capacity() float64 {
	if q.Capacity > 0 {
		return q.Capacity
	}
	return q.drain() * or(q.Wait, defaultWait).Seconds()
}

// drain is the measured rate, or the assumed one before anything was measured. The lock is
// held.
func (q *Queue) drain() float64 {
	if q.rate > 0 {
		return q.rate
	}
	return assumedRate
}

// Enter waits for a turn of work that costs flops, and returns what ends it. What does not fit
// is refused with a *Saturated. An ended context gives the place back.
func (q *Queue) Enter(ctx context.Context, flops float64) (leave func(), err error) {
	return q.enter(ctx, flops, false)
}

// Continue is Enter for further work of a request that has been admitted before: it waits its
// turn and is not refused. A request waits for one turn at a time, so the bound holds.
func (q *Queue) Continue(ctx context.Context, flops float64) (leave func(), err error) {
	return q.enter(ctx, flops, true)
}

func (q *Queue) enter(ctx context.Context, flops float64, known bool) (leave func(), err error) {
	q.mu.Lock()
	if flops > 0 {
		flops = max(flops, leastCost)
		q.typical += weight * (flops - q.typical)
	}
	if !known && !q.fits(flops) {
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
		q.measure(flops, begin)
		q.admitted = max(0, q.admitted-flops)
		q.running--
		q.next()
	})
}

// measure learns from a turn that ends now. While others wait, the rate is what ends in the
// time between ends; else it is what the slots in use would do. The lock is held.
func (q *Queue) measure(flops float64, begin time.Time) {
	if flops == 0 {
		return
	}
	now := q.clock()
	took := now.Sub(begin).Seconds()
	busy := q.waiting.Len() > 0
	switch {
	case busy && !q.left.IsZero():
		q.done = average(q.done, flops)
		q.between = average(q.between, now.Sub(q.left).Seconds())
		if q.between > 0 {
			q.rate = q.done / q.between
		}
	case took > 0:
		q.rate = average(q.rate, flops/took*float64(max(q.running, 1)))
	}
	q.left = time.Time{}
	if busy {
		q.left = now
	}
}

// average moves an exponential average; the first value is taken as it is.
func average(old, v float64) float64 {
	if old == 0 {
		return v
	}
	return old + weight*(v-old)
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
	over := q.admitted + flops - q.capacity()
	wait := time.Duration(max(over, 0) / q.drain() * float64(time.Second))
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
	Rate     float64 `json:"drain_flops_per_s"` // zero before anything was measured
}

// Load returns the state of the queue now.
func (q *Queue) Load() Load {
	q.mu.Lock()
	defer q.mu.Unlock()
	return Load{q.admitted, q.running, q.waiting.Len(), q.rate}
}
