package kernel

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// task is work divided into n independent parts.
type task interface{ run(part int) }

// job is one running task: parts are handed out by a counter until none is left.
type job struct {
	t       task
	n       int64
	next    atomic.Int64 // next part to hand out
	helpers atomic.Int64 // helpers still inside
	mu      sync.Mutex
	failed  any // first panic of a part
}

// work runs parts until none is left.
func (j *job) work() {
	defer j.recover()
	for {
		i := j.next.Add(1) - 1
		if i >= j.n {
			return
		}
		j.t.run(int(i))
	}
}

func (j *job) recover() {
	if r := recover(); r != nil {
		j.next.Store(j.n)
		j.mu.Lock()
		if j.failed == nil {
			j.failed = r
		}
		j.mu.Unlock()
	}
}

// pool is the set of helper goroutines. A caller takes part in its own job, so threads-1
// helpers make threads running parts.
type pool struct {
	threads atomic.Int64 // running parts allowed in all
	busy    atomic.Int64 // callers and helpers now running parts
	passes  atomic.Int64 // passes under way, in a kernel or between two
	mu      sync.Mutex
	idle    []*helper
	jobs    []*job
}

// helper is one goroutine. It looks for a job for a while before it goes to sleep.
type helper struct {
	inbox  atomic.Pointer[job]
	wake   chan struct{}
	asleep atomic.Bool
}

var workers pool

func init() { workers.threads.Store(int64(runtime.GOMAXPROCS(0))) }

// SetThreads bounds the goroutines that run kernels at once, callers included; below 1
// means GOMAXPROCS. Results do not depend on it.
func SetThreads(n int) {
	if n < 1 {
		n = runtime.GOMAXPROCS(0)
	}
	workers.threads.Store(int64(n))
}

// Threads returns the bound set by SetThreads, at first GOMAXPROCS.
func Threads() int { return int(workers.threads.Load()) }

// BeginPass says that the caller begins a pass of many kernels, and returns what ends it. A pass
// counts as a thread between its kernels too: passes under way together that fill the threads
// keep to themselves, for a helper borrowed in a gap would be missed, and waited for, at once.
func BeginPass() (end func()) {
	workers.passes.Add(1)
	return func() { workers.passes.Add(-1) }
}

type funcTask struct{ f func(int) }

func (t *funcTask) run(i int) { t.f(i) }

// Parallel calls f(0) … f(n-1), each once, on the caller and the pool's helpers, and
// returns when all are done. When all threads are busy, with other callers or because the
// call is made by a part, the work is done inline by the caller alone. A panic in a part stops the handing
// out of further parts and is raised again in the caller.
func Parallel(n int, f func(i int)) {
	if n <= 0 {
		return
	}
	if n == 1 || workers.threads.Load() <= 1 {
		for i := range n {
			f(i)
		}
		return
	}
	workers.do(n, &funcTask{f})
}

// spins bounds how often a waiting goroutine looks again before it blocks: about 30 µs.
const spins = 600

// do runs t's parts 0…n-1.
func (p *pool) do(n int, t task) {
	free := p.threads.Load() - max(p.busy.Add(1), p.passes.Load())
	defer p.busy.Add(-1)
	if n == 1 || free <= 0 {
		for i := range n {
			t.run(i)
		}
		return
	}
	j := p.getJob()
	j.t, j.n, j.failed = t, int64(n), nil
	j.next.Store(0)
	p.recruit(j, min(int(free), n-1))
	j.work()
	for i := 0; j.helpers.Load() != 0; i++ {
		if i < spins {
			pause()
		} else {
			runtime.Gosched()
		}
	}
	failed := j.failed
	j.t, j.failed = nil, nil
	p.putJob(j)
	if failed != nil {
		panic(failed)
	}
}

// recruit sends the job to up to want helpers, starting goroutines as needed.
func (p *pool) recruit(j *job, want int) {
	j.helpers.Store(int64(want))
	for range want {
		p.busy.Add(1)
		p.mu.Lock()
		var h *helper
		if k := len(p.idle); k > 0 {
			h = p.idle[k-1]
			p.idle = p.idle[:k-1]
		}
		p.mu.Unlock()
		if h == nil {
			h = &helper{wake: make(chan struct{}, 1)}
			go h.loop(p)
		}
		h.inbox.Store(j)
		if h.asleep.CompareAndSwap(true, false) {
			h.wake <- struct{}{}
		}
	}
}

func (p *pool) getJob() *job {
	p.mu.Lock()
	defer p.mu.Unlock()
	if k := len(p.jobs); k > 0 {
		j := p.jobs[k-1]
		p.jobs = p.jobs[:k-1]
		return j
	}
	return new(job)
}

func (p *pool) putJob(j *job) {
	p.mu.Lock()
	p.jobs = append(p.jobs, j)
	p.mu.Unlock()
}

// loop serves jobs for ever: look for a while, then sleep until woken.
func (h *helper) loop(p *pool) {
	for {
		j := h.await()
		j.work()
		p.mu.Lock()
		p.idle = append(p.idle, h)
		p.mu.Unlock()
		p.busy.Add(-1)
		j.helpers.Add(-1)
	}
}

func (h *helper) await() *job {
	for i := 0; ; i++ {
		if j := h.inbox.Load(); j != nil {
			h.inbox.Store(nil)
			return j
		}
		if i < spins {
			pause()
			continue
		}
		h.asleep.Store(true)
		if h.inbox.Load() != nil && h.asleep.CompareAndSwap(true, false) {
			continue
		}
		<-h.wake
		i = 0
	}
}
