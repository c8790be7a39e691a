package api

import (
	"container/list"
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/pipeline"
)

// What Server.Memory is spent on, beyond the weights of loaded models. What is left after the
// program itself, and a share that the collector of garbage works in, is divided: half for
// decoded media and passes, a quarter each for bodies and for answers. A body is held several
// times over while it is parsed, and so is a tensor while it is written as JSON.
const (
	processBytes = 64 << 20 // the program, its stacks and connections
	leastRest    = 64 << 20 // what a server works with in any case
	bodyCopies   = 5        // buffer, old buffer while it grows, strings, decoded base64
	answerCopies = 8        // tensor, encoded values, base64, JSON, buffer while it grows
	classBytes   = 32       // of a pipeline.Class; its JSON is some 80
)

// rest is what requests may use of Memory; zero when there is no ceiling.
func (s *Server) rest() int64 {
	if s.Memory == 0 {
		return 0
	}
	return max(s.Memory/20*17-processBytes-s.Store.Loaded(), leastRest)
}

// under lowers a limit to a share of what requests may use of Memory.
func (s *Server) under(limit, share int64) int64 {
	if rest := s.rest(); rest > 0 {
		return min(limit, rest/share)
	}
	return limit
}

func (s *Server) maxBody() int64 { return s.under(or(s.MaxBody, 64<<20), 4*bodyCopies) }
func (s *Server) bodies() int64 {
	return s.under(or(s.Bodies, 4*or(s.MaxBody, 64<<20)), 4*bodyCopies)
}

// maxAnswer is how many bytes of tensors one answer may hold, answers how many all may.
func (s *Server) maxAnswer() int64 { return s.under(256<<20, 4*answerCopies) }
func (s *Server) answers() int64   { return s.under(1<<30, 4*answerCopies) }

// room is a number of bytes that passes share. First come, first served; what does not fit waits.
type room struct {
	mu      sync.Mutex
	used    int64
	waiting list.List // of *berth
}

// berth is a wait for n bytes; ready is closed when they are there.
type berth struct {
	n     int64
	ready chan struct{}
}

// enter waits for n bytes of size, and returns what gives them back. More than size is an error
// at once.
func (r *room) enter(ctx context.Context, n, size int64) (leave func(), err error) {
	if n > size {
		return nil, media.Exceeds("memory of one item: bytes", float64(size), float64(n))
	}
	r.mu.Lock()
	if r.waiting.Len() == 0 && r.used+n <= size {
		r.used += n
		r.mu.Unlock()
		return r.leave(n, size), nil
	}
	b := &berth{n, make(chan struct{})}
	at := r.waiting.PushBack(b)
	r.mu.Unlock()
	select {
	case <-b.ready:
		return r.leave(n, size), nil
	case <-ctx.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-b.ready: // at the same moment: pass it on
		r.used -= n
	default:
		r.waiting.Remove(at)
	}
	r.next(size)
	return nil, ctx.Err()
}

func (r *room) leave(n, size int64) func() {
	return sync.OnceFunc(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.used -= n
		r.next(size)
	})
}

// next lets in who waits longest, as far as there is room. The lock is held.
func (r *room) next(size int64) {
	for e := r.waiting.Front(); e != nil && (r.used == 0 || r.used+e.Value.(*berth).n <= size); e = r.waiting.Front() {
		b := r.waiting.Remove(e).(*berth)
		r.used += b.n
		close(b.ready)
	}
}

// enterRoom waits until the memory that a pass of an item needs is free.
func (s *Server) enterRoom(ctx context.Context, req *workRequest, p pipeline.Plan) (leave func(), err error) {
	pass, answer := req.need(p)
	if limit := s.maxAnswer(); answer > limit {
		return nil, media.Exceeds("answer: bytes of tensors", float64(limit), float64(answer))
	}
	rest := s.rest()
	if rest == 0 {
		return func() {}, nil
	}
	return s.room.enter(ctx, pass, rest/2)
}

// ledger counts the bytes that a request holds until it is answered: its body and what that
// becomes, media fetched by URL, and tensors on their way out.
type ledger struct {
	s       *Server
	held    atomic.Int64 // of what came in
	fetched atomic.Int64 // of these by URL
	kept    int64
}

type ledgerKey struct{}

// ledgerOf is the ledger of the request in ctx.
func (s *Server) ledgerOf(ctx context.Context) *ledger {
	if l, ok := ctx.Value(ledgerKey{}).(*ledger); ok {
		return l
	}
	return &ledger{s: s}
}

// hold counts n more bytes of what comes in: of a body, or of what it becomes. Alone, a request may
// hold what one may.
func (l *ledger) hold(n int64) error {
	own, all := l.held.Add(n), l.s.held.Add(n)
	switch most := l.s.bodies(); {
	case own > max(most, l.s.maxBody()):
		p := problem(codeBodyTooLarge, "the body, with what it describes, takes more memory than there is for bodies")
		p.Limit, p.Actual = float64(max(most, l.s.maxBody())), float64(own)
		return p
	case all > most && all > own:
		return &Saturated{RetryAfter: fullMemory}
	}
	return nil
}

// fetch counts n more bytes of media fetched by URL.
func (l *ledger) fetch(n int64) error {
	if all, most := l.fetched.Add(n), l.s.maxBody(); all > most {
		p := problem(codeBodyTooLarge, "the media named by URL pass the limit of a body together")
		p.Limit, p.Actual = float64(most), float64(all)
		return p
	}
	return l.hold(n)
}

// keep counts n more bytes of an answer that is held until it is whole.
func (l *ledger) keep(n int64) error {
	if limit := l.s.maxAnswer(); l.kept+n > limit {
		return media.Exceeds("answer: bytes of tensors", float64(limit), float64(l.kept+n))
	}
	l.kept += n
	if all := l.s.kept.Add(n); all > l.s.answers() && all > l.kept {
		l.kept -= n // nor is it held
		l.s.kept.Add(-n)
		return &Saturated{RetryAfter: fullMemory}
	}
	return nil
}

// sent says that what was kept so far has gone out.
func (l *ledger) sent() {
	l.s.kept.Add(-l.kept)
	l.kept = 0
}

// close gives everything back.
func (l *ledger) close() {
	l.sent()
	l.s.held.Add(-l.held.Load())
}

// fullMemory is when to come again after memory for bodies or answers was taken.
const fullMemory = time.Second

// need is what a pass holds at most: what its plan says, and its rows when the answer has them.
func (r *workRequest) need(p pipeline.Plan) (pass, answer int64) {
	for _, o := range r.Output {
		if o == pipeline.OutputByteArray || o == "all" {
			answer = 4 * int64(p.Rows) * int64(p.RowChannels)
		}
	}
	return p.DecodedBytes + answer, answer
}

// bytes is what the tensors of a result hold, and its classes: every byte of a text may have been
// asked for all of the vocabulary.
func (r *result) bytes() int64 {
	n := 0
	for _, t := range r.tensors() {
		n += 4 * len(t.Data)
	}
	if p := r.prediction; p != nil {
		classes := len(p.Classes)
		for _, h := range p.Heads {
			classes += len(h.Classes)
		}
		for _, m := range p.Masks {
			classes += len(m.Candidates)
		}
		n += classBytes * classes
	}
	return int64(n)
}
