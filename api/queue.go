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
//
// A request takes a Place before its body is read, of the cost that is usual, and turns it in
// for its own cost when that is known: so hardly any work goes into what is refused.
type Queue struct {
	// Capacity is the cost that may be admitted at once, running and waiting together; zero
	// means what the measured rate drains in Wait, and at least one usual item waiting for
	// each that runs.
	Capacity float64
	// Wait bounds how long admitted work is expected to take; zero means half a second.
	Wait time.Duration
	// Slots is the number of passes that run at once.
	Slots int

	mu       sync.Mutex
	admitted float64 // cost running, waiting and held by places
	running  int
	turning  float64   // cost running
	waiting  list.List // of *ticket, in order of arrival
	places   list.List // of *Place that hold a cost, in order of arrival
	rate     float64   // measured FLOPs a second, exponentially averaged
	typical  float64   // cost of an item, exponentially averaged
	left     time.Time // the last end of a turn with others waiting, else zero
	done     float64   // cost of a turn while others wait, exponentially averaged
	between  float64   // seconds from one such end to the next, exponentially averaged
	now      func() time.Time
}

const (
	defaultWait = 500 * time.Millisecond
	maxWaiting  = 4096                   // turns waited for, whatever they cost
	leastCost   = 5e6                    // of an item that costs anything: parsing and answering it
	weight      = 0.1                    // of a new value in an average
	placeHeld   = 250 * time.Millisecond // that a place keeps its cost for a body to arrive
	slack       = 0.25                   // of the capacity, for places whose work costs more than usual
)

// assumedRate is the drain rate before anything was measured, FLOPs a second.
const assumedRate = 50e9

// ticket is a place in the queue; ready is closed when its turn has come.
type ticket struct {
	ready chan struct{}
	cost  float64
}

// Saturated says that the queue is full, and when to come again.
type Saturated struct{ RetryAfter time.Duration }

// Error implements error.
func (s *Saturated) Error() string {
	return fmt.Sprintf("server is saturated; retry after %.0f s", math.Ceil(s.RetryAfter.Seconds()))
}

// problem is the refusal as clients see it.
func (s *Saturated) problem() *Problem {
	p := problem(codeSaturated, s.Error())
	p.RetryAfter = s.RetryAfter.Milliseconds()
	return p
}

// Place is room held for a request from before its body is read. Close gives it back.
type Place struct {
	q        *Queue
	cost     float64       // held, until the work's own is known
	until    time.Time     // when a place without work loses what it holds
	at       *list.Element // in q.places; nil when nothing is held
	admitted bool          // work of the request has had a turn
	done     float64       // what the turn has come to cost, when that is known; zero: what it was admitted for
	failed   bool          // the turn did not do what it was admitted for
}

// Reserve takes a place for work of the usual cost, or refuses with a *Saturated. A place whose
// body keeps it waiting holds nothing any more after a quarter of a second.
func (q *Queue) Reserve() (*Place, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lapse()
	if !q.fits(q.typical, 0) {
		return nil, q.saturated(q.typical)
	}
	p := &Place{q: q, cost: q.typical, until: q.clock().Add(placeHeld)}
	p.at = q.places.PushBack(p)
	q.admitted += p.cost
	return p, nil
}

// full is the refusal that Reserve would answer with now, nil when it would not.
func (q *Queue) full() *Saturated {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lapse()
	if q.fits(q.typical, 0) {
		return nil
	}
	return q.saturated(q.typical)
}

// estimate says how long it would take until work that costs flops is done, with all that is admitted
// before it, at the measured rate; and whether it would be admitted now.
func (q *Queue) estimate(flops float64) (until time.Duration, admitted bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lapse()
	flops = least(flops)
	seconds := min((q.admitted+flops)/q.drain(), time.Hour.Seconds())
	return time.Duration(seconds * float64(time.Second)), q.fits(flops, 0)
}

// lapse empties places that have waited too long. The lock is held.
func (q *Queue) lapse() {
	now := q.clock()
	for e := q.places.Front(); e != nil && now.After(e.Value.(*Place).until); e = q.places.Front() {
		e.Value.(*Place).drop()
	}
}

// drop takes back what a place holds. The lock is held.
func (p *Place) drop() {
	if p.at != nil {
		p.q.places.Remove(p.at)
		p.q.admitted = max(0, p.q.admitted-p.cost)
		p.at = nil
	}
}

// Close gives back what the place still holds; work that has entered is not touched.
func (p *Place) Close() {
	p.q.mu.Lock()
	defer p.q.mu.Unlock()
	p.drop()
}

// placeKey is where the context of a request carries its *Place.
type placeKey struct{}

// place is the place of the request in ctx; without one, a place that holds nothing.
func (q *Queue) place(ctx context.Context) *Place {
	if p, _ := ctx.Value(placeKey{}).(*Place); p != nil {
		return p
	}
	return &Place{q: q}
}

// Enter turns the place in for a turn of work that costs flops, as Queue.Enter. Further work
// of a request waits its turn and is not refused: a request waits for one turn at a time, so
// the bound holds.
func (p *Place) Enter(ctx context.Context, flops float64) (leave func(), err error) {
	q := p.q
	q.mu.Lock()
	held := p.at != nil
	p.drop()
	flops = least(flops)
	if !p.admitted && !(held && flops <= p.cost) && !q.fits(flops, slack) {
		defer q.mu.Unlock()
		return nil, q.saturated(flops)
	}
	p.admitted, p.done, p.failed = true, 0, false
	return q.enter(ctx, flops, p)
}

// fits reports whether work that costs flops may come in, over the capacity by a share at most.
// A free slot takes anything, so that work larger than the whole capacity is slow but possible.
// The lock is held.
func (q *Queue) fits(flops, over float64) bool {
	if q.running+q.places.Len() < q.slots() && q.waiting.Len() == 0 {
		return true
	}
	return q.admitted+flops <= q.capacity()*(1+over) && q.waiting.Len()+q.places.Len() < maxWaiting
}

func (q *Queue) slots() int { return max(q.Slots, 1) }

// capacity is the cost that may be admitted at once. The lock is held.
func (q *Queue) capacity() float64 {
	if q.Capacity > 0 {
		return q.Capacity
	}
	return max(q.drain()*or(q.Wait, defaultWait).Seconds(), 2*float64(q.slots())*q.typical)
}

// drain is the measured rate, or the assumed one before anything was measured; less when the
// next end is overdue, as on a machine that others have taken. The lock is held.
func (q *Queue) drain() float64 {
	rate := q.rate
	if rate == 0 {
		rate = assumedRate
	}
	if !q.left.IsZero() && q.done > 0 {
		const patience = 4 // mean times between ends before a stall is believed
		// What runs may be much larger than what ended.
		rate = min(rate, patience*max(q.done, q.turning)/max(q.clock().Sub(q.left).Seconds(), 1e-9))
	}
	return rate
}

// Enter waits for a turn of work that costs flops, and returns what ends it. What does not fit
// is refused with a *Saturated. An ended context gives the place back.
func (q *Queue) Enter(ctx context.Context, flops float64) (leave func(), err error) {
	q.mu.Lock()
	flops = least(flops)
	if !q.fits(flops, 0) {
		defer q.mu.Unlock()
		return nil, q.saturated(flops)
	}
	return q.enter(ctx, flops, &Place{q: q})
}

// least is the cost that work of so many FLOPs counts as.
func least(flops float64) float64 {
	if flops <= 0 {
		return 0
	}
	return max(flops, leastCost)
}

// Settle says what the turn under way has come to cost, where that is less than what it was admitted
// for, as with a text that ends early: the measured rate learns from it.
func (p *Place) Settle(flops float64) {
	p.q.mu.Lock()
	defer p.q.mu.Unlock()
	p.done = least(flops)
}

// Fail says that the turn under way ended before it had done what it was admitted for, as with a file
// whose header promises more than follows: the measured rate learns nothing from it.
func (p *Place) Fail() {
	p.q.mu.Lock()
	defer p.q.mu.Unlock()
	p.failed = true
}

// enter waits for a turn of admitted work of a place. The lock is held, and given up.
func (q *Queue) enter(ctx context.Context, flops float64, p *Place) (leave func(), err error) {
	if flops > 0 {
		q.typical = average(q.typical, flops)
	}
	q.admitted += flops
	if q.running < q.slots() && q.waiting.Len() == 0 {
		q.begin(flops)
		q.mu.Unlock()
		return q.leave(flops, p), nil
	}
	t := &ticket{make(chan struct{}), flops}
	place := q.waiting.PushBack(t)
	q.mu.Unlock()
	select {
	case <-t.ready:
		return q.leave(flops, p), nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case <-t.ready: // the turn came at the same moment: pass it on
		q.end(flops)
	default:
		q.waiting.Remove(place)
	}
	q.admitted -= flops
	return nil, ctx.Err()
}

// leave returns the function that ends a turn begun now.
func (q *Queue) leave(flops float64, p *Place) func() {
	begin := q.clock()
	return sync.OnceFunc(func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		if !p.failed {
			q.measure(or(p.done, flops), begin)
		} else if !q.left.IsZero() {
			q.left = q.clock() // nor is it a stall
		}
		q.admitted = max(0, q.admitted-flops)
		q.end(flops)
	})
}

// begin counts a turn that begins. The lock is held.
func (q *Queue) begin(flops float64) {
	q.running++
	q.turning += flops
}

// end counts a turn that ends, and gives its slot to who waits longest. The lock is held.
func (q *Queue) end(flops float64) {
	q.running--
	q.turning = max(0, q.turning-flops)
	q.next()
	if q.running == 0 {
		q.left = time.Time{} // what does not run does not stall
	}
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
	for q.running < q.slots() && q.waiting.Len() > 0 {
		t := q.waiting.Remove(q.waiting.Front()).(*ticket)
		q.begin(t.cost)
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
	q.lapse()
	return Load{q.admitted, q.running, q.waiting.Len(), q.rate}
}
