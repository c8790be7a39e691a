package kernel

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// rate runs f for the benchmark's time and reports giga-operations a second, by the clock
// and by processor time.
func rate(b *testing.B, unit string, each float64, f func()) {
	var cpu time.Duration
	first := true
	for b.Loop() {
		if first {
			cpu, first = cpuTime(), false
		}
		f()
	}
	total := each * float64(b.N) / 1e9
	b.ReportMetric(total/b.Elapsed().Seconds(), "G"+unit+"/s")
	if cpu = cpuTime() - cpu; cpu > 0 {
		b.ReportMetric(total/cpu.Seconds(), "G"+unit+"/cpu-s")
	}
	b.ReportMetric(0, "ns/op")
}

// eachThreads runs a benchmark on one thread and on all.
func eachThreads(b *testing.B, f func(b *testing.B)) {
	all := Threads()
	defer SetThreads(all)
	for _, n := range []int{1, all} {
		SetThreads(n)
		b.Run(fmt.Sprintf("threads=%d", n), f)
	}
}

// BenchmarkPeaks is what the others are shares of.
func BenchmarkPeaks(b *testing.B) {
	var r Rates
	for b.Loop() {
		r = Peaks()
	}
	b.ReportMetric(r.F32/1e9, "f32-GFLOP/s")
	b.ReportMetric(r.BF16/1e9, "bf16-GFLOP/s")
	b.ReportMetric(r.Int8/1e9, "int8-GOP/s")
	b.ReportMetric(r.Read/1e9, "read-GB/s")
	b.ReportMetric(0, "ns/op")
}

func BenchmarkGemm(b *testing.B) {
	for _, s := range [][3]int{{512, 1024, 1024}, {512, 1024, 4096}, {512, 4096, 1024}, {256, 1280, 1280}, {50176, 261, 261}, {1, 4096, 4096}, {16, 1024, 1024}} {
		m, k, n := s[0], s[1], s[2]
		a, dst := noise(1, m*k), make([]float32, m*n)
		for _, dt := range []DType{F32, BF16, Int8, BF16W} {
			w := packRows(noise(2, n*k), n, k, dt)
			b.Run(fmt.Sprintf("%v/%dx%dx%d", dt, m, k, n), func(b *testing.B) {
				eachThreads(b, func(b *testing.B) {
					rate(b, "FLOP", 2*float64(m)*float64(n)*float64(k), func() {
						Gemm(dst, n, a, k, m, w, Epilogue{})
					})
				})
			})
		}
	}
}

func BenchmarkAttention(b *testing.B) {
	for _, c := range []attnCase{{heads: 1, qk: 261, v: 261, l: 512, s: 50176}, {heads: 8, qk: 128, v: 128, l: 512, s: 512}, {heads: 8, qk: 32, v: 160, l: 256, s: 2048}, {heads: 32, qk: 128, v: 128, l: 1, s: 2048}} {
		for _, dt := range []DType{F32, BF16} {
			w := c.heads * c.qk
			a := &AttnArgs{Heads: c.heads, QK: c.qk, V: c.v, Scale: 0.1, L: c.l, S: c.s, DType: dt,
				Q: noise(1, c.l*w), LDQ: w, K: noise(2, c.s*w), LDK: w, VV: noise(3, c.s*c.heads*c.v), LDV: c.heads * c.v,
				Out: make([]float32, c.l*c.heads*c.v), LDO: c.heads * c.v}
			b.Run(fmt.Sprintf("%v/heads=%d/%dx%dx%d", dt, c.heads, c.l, c.s, c.qk), func(b *testing.B) {
				eachThreads(b, func(b *testing.B) {
					rate(b, "FLOP", 2*float64(c.heads)*float64(c.l)*float64(c.s)*float64(c.qk+c.v), func() { Attention(a) })
				})
			})
		}
	}
}

func BenchmarkActivate(b *testing.B) {
	x, y := noise(1, 1<<14), make([]float32, 1<<14)
	for act := GELU; act <= Tanh; act++ {
		b.Run(act.String(), func(b *testing.B) {
			rate(b, "elem", float64(len(x)), func() { Activate(y, x, act) })
		})
	}
}

func BenchmarkLayerNorm(b *testing.B) {
	x, y := noise(1, 1<<14), make([]float32, 1<<14)
	rate(b, "elem", float64(len(x)), func() { LayerNorm(y, x, 1024, 1024, 16, 1024, x[:1024], x[:1024], 1e-5) })
}

func BenchmarkPack(b *testing.B) {
	const n, k = 1024, 1024
	w := noise(1, n*k)
	raw := make([]uint16, n*k)
	for dt := F32; dt <= BF16W; dt++ {
		b.Run(dt.String(), func(b *testing.B) {
			rate(b, "elem", n*k, func() { packRows(w, n, k, dt) })
		})
	}
	b.Run("raw16", func(b *testing.B) {
		rate(b, "elem", n*k, func() { PackRaw16(n, k, BF16W, raw) })
	})
}

// BenchmarkDecode reads a layer's weights once a run, as a language model does for every
// token; compare with the rate of read, on one thread.
func BenchmarkDecode(b *testing.B) {
	const n, k, copies = 4096, 4096, 3 // together beyond the caches
	a, dst := noise(1, 4*k), make([]float32, 4*n)
	raw := make([]uint16, n*k)
	for i := range raw {
		raw[i] = toBF16(float32(i%13) - 6)
	}
	for _, dt := range []DType{BF16W, F16W, BF16} {
		var w [copies]*Packed
		for i := range w {
			w[i] = PackRaw16(n, k, dt, raw)
		}
		for _, m := range []int{1, 4} {
			b.Run(fmt.Sprintf("%v/m=%d", dt, m), func(b *testing.B) {
				eachThreads(b, func(b *testing.B) {
					rate(b, "B", copies*float64(w[0].Bytes()), func() {
						for _, w := range w {
							Gemm(dst, n, a, k, m, w, Epilogue{})
						}
					})
				})
			})
		}
	}
	b.Run("read", func(b *testing.B) { // the limit: the same bytes only read
		set, x, out := current.Load(), make([]float32, copies*n*k/2), make([]float32, panel)
		for i := range x {
			x[i] = 1
		}
		rate(b, "B", 4*float64(len(x)), func() { set.maxLanes(&out[0], &x[0], len(x)) })
	})
}

// BenchmarkCallers compares the products a second of one caller and of several at once.
func BenchmarkCallers(b *testing.B) {
	const m, n, k = 256, 1024, 1024
	w := packRows(noise(2, n*k), n, k, F32)
	for _, callers := range []int{1, 2, 4} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			each := make([]func(), callers)
			for i := range each {
				a, dst := noise(1, m*k), make([]float32, m*n)
				each[i] = func() {
					for range 8 {
						Gemm(dst, n, a, k, m, w, Epilogue{})
					}
				}
			}
			rate(b, "FLOP", float64(callers)*8*2*m*n*k, func() {
				var done sync.WaitGroup
				for _, f := range each {
					done.Go(f)
				}
				done.Wait()
			})
		})
	}
}
