package kernel

import (
	"runtime"
	"time"
)

// Rates are limits of the machine as measured by Peaks, by all of Threads() together.
type Rates struct {
	Threads int     `json:"threads"`
	F32     float64 `json:"f32"`  // FLOP/s of float32 multiply-adds in the kernel set in use
	BF16    float64 `json:"bf16"` // FLOP/s of bfloat16 dot products; 0 where there are none
	Int8    float64 `json:"int8"` // operations/s of 8-bit dot products; 0 where there are none
	Read    float64 `json:"read"` // bytes/s read from memory
	Copy    float64 `json:"copy"` // bytes/s copied in memory, reads and writes counted
}

// peakBytes is the memory that Peaks reads and copies, all threads together: well beyond
// the caches.
const peakBytes = 192 << 20

// Peaks measures the rates of the machine with the kernel set in use, the best of several
// short runs each: about half a second and 192 MiB in all. A busy neighbour lowers
// them as it lowers everything else.
func Peaks() Rates {
	n := Threads()
	set := current.Load()
	r := Rates{Threads: n, F32: peakRate(n, 2*12*float64(set.lanes), set.peak)}
	if set.dots != nil {
		r.BF16 = peakRate(n, 4*12*16, set.dots.peakBF16)
		r.Int8 = peakRate(n, 8*12*16, set.dots.peakInt8)
	}
	bufs := make([][]float32, n)
	for i := range bufs {
		bufs[i] = make([]float32, peakBytes/4/n/64*64)
		for k := range bufs[i] {
			bufs[i][k] = 1
		}
	}
	size := len(bufs[0])
	half := size / 2
	r.Copy = 2 * float64(n*half*4) / best(n, func(i int) { copy(bufs[i][:half], bufs[i][half:]) })
	out := make([]float32, n*panel)
	r.Read = float64(n*size*4) / best(n, func(i int) { set.maxLanes(&out[i*panel], &bufs[i][0], len(bufs[i])) })
	return r
}

// peakRate times a loop of known work an iteration on n threads.
func peakRate(n int, each float64, loop func(n int)) float64 {
	const times = 1 << 19
	return float64(n) * times * each / best(n, func(int) { loop(times) })
}

// best returns the least seconds of several runs of f on n threads at once.
func best(n int, f func(i int)) float64 {
	least := time.Duration(1 << 62)
	for range 7 {
		start := time.Now()
		done := make(chan struct{})
		for i := range n {
			go func() {
				runtime.LockOSThread()
				f(i)
				done <- struct{}{}
			}()
		}
		for range n {
			<-done
		}
		least = min(least, time.Since(start))
	}
	return max(least, 1).Seconds()
}
