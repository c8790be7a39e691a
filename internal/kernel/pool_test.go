package kernel

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

func withThreads(n int, f func()) {
	before := Threads()
	SetThreads(n)
	defer SetThreads(before)
	f()
}

func TestParallelRunsEachPartOnce(t *testing.T) {
	for _, threads := range []int{1, 2, 3, 8} {
		withThreads(threads, func() {
			var callers sync.WaitGroup
			for range 6 { // many callers at once
				callers.Go(func() {
					for n := range 60 {
						counts := make([]atomic.Int32, n)
						Parallel(n, func(i int) { counts[i].Add(1) })
						for i := range counts {
							if c := counts[i].Load(); c != 1 {
								t.Errorf("part %d of %d ran %d times", i, n, c)
							}
						}
					}
				})
			}
			callers.Wait()
		})
	}
}

func TestParallelNests(t *testing.T) {
	withThreads(4, func() {
		var sum atomic.Int64
		Parallel(5, func(int) {
			Parallel(7, func(int) { Parallel(3, func(j int) { sum.Add(int64(j)) }) })
		})
		if sum.Load() != 5*7*3 {
			t.Errorf("sum %d, want %d", sum.Load(), 5*7*3)
		}
	})
}

func TestParallelPanicReachesTheCaller(t *testing.T) {
	for _, threads := range []int{1, 4} {
		withThreads(threads, func() {
			for range 50 {
				func() {
					defer func() {
						if r := recover(); r != "bad part" {
							t.Errorf("recovered %v, want the part's panic", r)
						}
					}()
					Parallel(20, func(i int) {
						if i == 11 {
							panic("bad part")
						}
					})
				}()
			}
		})
	}
	if workers.busy.Load() != 0 {
		t.Errorf("%d threads still count as busy", workers.busy.Load())
	}
}

// No call allocates once its scratch is there.
func TestSteadyStateAllocatesNothing(t *testing.T) {
	const m, n, k = 150, 90, 70
	a, dst, gamma := noise(1, m*k), make([]float32, m*n), noise(2, 300)
	attn, _ := attnCase{heads: 4, qk: 24, v: 20, l: 100, s: 300, causal: true}.build()
	attn16 := *attn
	attn16.DType = BF16
	packed := map[DType]*Packed{}
	for _, dt := range []DType{F32, BF16, Int8, F16W, BF16W} {
		packed[dt] = packRows(noise(3, n*k), n, k, dt)
	}
	calls := map[string]func(){
		"attention":      func() { Attention(attn) },
		"attention bf16": func() { Attention(&attn16) },
		"layer norm":     func() { LayerNorm(dst, a, k, k, m, k, gamma, gamma, 1e-5) },
		"softmax":        func() { Softmax(dst, n, m, n) },
		"gelu":           func() { Activate(dst, dst, GELU) },
		"add":            func() { Add(dst, dst, dst) },
	}
	for dt, w := range packed {
		calls["gemm "+dt.String()] = func() { Gemm(dst, n, a, k, m, w, Epilogue{Bias: gamma, Act: GELU}) }
	}
	forEachSet(t, func(t *testing.T) {
		withThreads(2, func() {
			for name, f := range calls {
				for range 20 {
					f() // fills the free lists
				}
				if got := testing.AllocsPerRun(20, f); got >= 1 {
					t.Errorf("%s: %v allocations a call", name, got)
				}
			}
		})
	})
}

// A pass alone is helped; passes that fill the threads keep to one each.
func TestPassesShareThreads(t *testing.T) {
	defer SetThreads(0)
	SetThreads(2)
	together := func() { // ends only when two parts run at once
		var met sync.WaitGroup
		met.Add(2)
		Parallel(2, func(int) { met.Done(); met.Wait() })
	}
	together()
	end := BeginPass()
	together()
	other := BeginPass()
	var inside, most atomic.Int64
	Parallel(64, func(int) {
		most.Store(max(most.Load(), inside.Add(1)))
		runtime.Gosched()
		inside.Add(-1)
	})
	if most.Load() != 1 {
		t.Errorf("%d threads of one of two passes on two threads", most.Load())
	}
	other()
	together()
	end()
}
