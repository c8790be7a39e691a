//go:build linux || darwin

package kernel

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"syscall"
	"testing"
	"unsafe"
)

// fence hands out memory that ends, or begins, at a page that may not be touched: whatever
// reads or writes beyond faults.
type fence struct {
	slots [][]byte // between such pages
	used  int
	end   bool // the memory ends at the page after it, else it begins at the page before it
}

const fenceBytes = 1 << 21 // of a slot

func newFence(t *testing.T, slots int) *fence {
	page := syscall.Getpagesize()
	f := new(fence)
	for range slots {
		m, err := syscall.Mmap(-1, 0, fenceBytes+2*page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { syscall.Munmap(m) })
		for _, p := range [][]byte{m[:page], m[page+fenceBytes:]} {
			if err := syscall.Mprotect(p, syscall.PROT_NONE); err != nil {
				t.Fatal(err)
			}
		}
		f.slots = append(f.slots, m[page:page+fenceBytes])
	}
	return f
}

// fenced returns a copy of x in the next slot.
func fenced[T any](f *fence, x []T) []T {
	if len(x) == 0 {
		return x
	}
	size := len(x) * int(unsafe.Sizeof(x[0]))
	slot := f.slots[f.used]
	f.used++
	if f.end {
		slot = slot[len(slot)-size:]
	}
	y := unsafe.Slice((*T)(unsafe.Pointer(&slot[:size][0])), len(x))
	copy(y, x)
	return y
}

// noise returns n values in the next slot.
func (f *fence) noise(n int) []float32 { return fenced(f, noise(uint64(f.used), n)) }

// packed returns w packed and moved into the next slots.
func (f *fence) packed(n, k int, dt DType) *Packed {
	p := packRows(f.noise(n*k), n, k, dt)
	p.f32, p.u16, p.i8, p.scale, p.sums = fenced(f, p.f32), fenced(f, p.u16), fenced(f, p.i8), fenced(f, p.scale), fenced(f, p.sums)
	return p
}

// try runs one call between untouchable pages, at either end; a fault fails the test.
func (f *fence) try(t *testing.T, what string, call func()) {
	t.Helper()
	for _, f.end = range []bool{true, false} {
		f.used = 0
		func() {
			defer func() {
				if r := recover(); r != nil {
					t.Fatalf("%s (memory at the end of its page: %v): %v", what, f.end, r)
				}
			}()
			call()
		}()
	}
}

// fencedSets runs test under every kernel set, on this goroutine alone, whose faults panic.
func fencedSets(t *testing.T, slots int, test func(t *testing.T, f *fence)) {
	forEachSet(t, func(t *testing.T) {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
		withThreads(1, func() { test(t, newFence(t, slots)) })
	})
}

// The fences hold: a read beyond one is noticed.
func TestFenceIsNoticed(t *testing.T) {
	fencedSets(t, 1, func(t *testing.T, f *fence) {
		for _, f.end = range []bool{true, false} {
			f.used = 0
			x := f.noise(64)
			at := 64
			if !f.end {
				at = -1
			}
			func() {
				defer func() {
					if recover() == nil {
						t.Error("touched what must not be")
					}
				}()
				p := add32(&x[0], at)
				current.Load().add(p, p, p, current.Load().lanes)
			}()
		}
	})
}

func TestGemmStaysInside(t *testing.T) {
	fencedSets(t, 10, func(t *testing.T, f *fence) {
		shapes := [][3]int{{130, 70, 600}, {40, 40, 1100}, {300, 33, 20}}
		for i := 1; i <= 67; i++ {
			shapes = append(shapes, [3]int{1 + i*7%31, i, 1 + i*5%37}, [3]int{1 + i%17, 1 + i*3%41, i})
		}
		for i, s := range shapes {
			m, n, k := s[0], s[1], s[2]
			for dt := F32; dt <= BF16W; dt++ {
				f.try(t, fmt.Sprintf("%v %d×%d×%d", dt, m, n, k), func() {
					e := Epilogue{Act: Act(i % int(Tanh+1)), Add: i%3 == 0, Scale: float32(i % 2)}
					lda, ldd := k+i%3, n+i%2
					dst := f.noise((m-1)*ldd + n)
					if i%4 != 0 {
						e.Bias = f.noise(n)
					}
					switch i % 3 {
					case 1:
						e.Residual, e.LDR = dst, ldd
					case 2:
						e.LDR = n + 1
						e.Residual = f.noise((m-1)*e.LDR + n)
					}
					Gemm(dst, ldd, f.noise((m-1)*lda+k), lda, m, f.packed(n, k, dt), e)
				})
			}
			f.try(t, fmt.Sprintf("unpacked %d×%d×%d", m, n, k), func() {
				dst, a := f.noise(m*n), f.noise(m*k)
				GemmNT(dst, n, a, k, f.noise(n*k), k, m, n, k, Epilogue{})
				GemmNN(dst, n, a, k, f.noise(k*n), n, m, n, k, Epilogue{})
			})
		}
	})
}

func TestPackStaysInside(t *testing.T) {
	fencedSets(t, 4, func(t *testing.T, f *fence) {
		for n := 1; n <= 35; n++ {
			k := 1 + n*11%40
			for dt := F32; dt <= BF16W; dt++ {
				f.try(t, fmt.Sprintf("%v %d×%d", dt, n, k), func() { f.packed(n, k, dt) })
			}
		}
	})
}

func TestAttentionStaysInside(t *testing.T) {
	fencedSets(t, 8, func(t *testing.T, f *fence) {
		for i := 1; i <= 40; i++ {
			c := attnCase{heads: 1 + i%3, qk: i, v: 1 + i*7%37, l: 1 + i*5%43, s: 1 + i*13%250}
			for _, dt := range []DType{F32, BF16} {
				f.try(t, fmt.Sprintf("%v %+v", dt, c), func() {
					a := AttnArgs{Heads: c.heads, QK: c.qk, V: c.v, L: c.l, S: c.s, Scale: 0.1, DType: dt, Causal: i%4 == 0}
					a.LDQ, a.LDK, a.LDV, a.LDO = c.heads*c.qk+i%2, c.heads*c.qk, c.heads*c.v+i%3, c.heads*c.v
					a.Q, a.K = f.noise((c.l-1)*a.LDQ+c.heads*c.qk), f.noise(c.s*a.LDK)
					a.VV, a.Out = f.noise((c.s-1)*a.LDV+c.heads*c.v), f.noise(c.l*a.LDO)
					if i%2 == 0 {
						a.KeyBias = f.noise(c.s)
					}
					if i%3 == 0 {
						a.Mask, a.LDM = f.noise(c.l*c.s), c.s
					}
					Attention(&a)
					var s Stream
					s.DType = dt
					s.Start(c.heads, 0, c.qk, c.v, c.l, 0.1, a.Q, a.LDQ)
					s.Add(a.K, a.LDK, a.VV, a.LDV, c.s, a.KeyBias)
					s.Finish(a.Out, a.LDO)
				})
			}
		}
	})
}

func TestGridsStayInside(t *testing.T) {
	fencedSets(t, 12, func(t *testing.T, f *fence) {
		for i := 1; i <= 40; i++ {
			n, h, w, c, v := i, 1+i%3, 1+i*11%70, i%19, 1+i*3%35
			f.try(t, fmt.Sprintf("%d queries of %d×%d×%d", n, h, w, c), func() {
				var g Grid
				q := f.noise(n*c + 1)[:n*c]
				g.Start(GridArgs{N: n, H: h, W: w, F: c, Q: q, LDQ: c, QMean: f.noise(n), SH: f.noise(n * h), SW: f.noise(n * w)})
				feat, mean, inv := f.noise(h*w*c), f.noise(h*w), f.noise(h*w)
				g.Add(feat, c, mean, inv, h)
				g.Finish(f.noise(n*c), c, f.noise(n), f.noise(n*h), f.noise(n*w))
			})
			f.try(t, fmt.Sprintf("%d keys of %d×%d×%d", n, h, w, c), func() {
				var g GridQuery
				g.Start(GridQueryArgs{S: n, H: h, W: w, F: c, V: v, K: f.noise(n * c), LDK: c, KMean: f.noise(n), SH: f.noise(n * h),
					SW: f.noise(n * w), Bias: f.noise(n), Values: f.noise(n * v), LDV: v})
				g.Attend(f.noise(h*w*v), v, f.noise(h*w*c), c, f.noise(h*w), f.noise(h*w), 0, h)
			})
		}
	})
}

func TestRowsStayInside(t *testing.T) {
	fencedSets(t, 4, func(t *testing.T, f *fence) {
		for n := 1; n <= 70; n++ {
			f.try(t, fmt.Sprintf("rows of %d", n), func() {
				const rows = 3
				x, y, gamma, beta := f.noise(rows*n), f.noise(rows*n), f.noise(n), f.noise(n)
				LayerNorm(y, x, n, n, rows, n, gamma, beta, 1e-5)
				RMSNorm(y, x, n, n, rows, n, gamma, 1e-5)
				Softmax(y, n, rows, n)
				for act := Identity; act <= Tanh; act++ {
					Activate(y, x, act)
				}
				Add(y, y, x)
				Mul(y, y, x)
				Scale(y, 0.5)
				AddRowVector(y, n, rows, n, gamma)
			})
		}
	})
}

// The loops themselves, without what surrounds them.
func TestLoopsStayInside(t *testing.T) {
	fencedSets(t, 3, func(t *testing.T, f *fence) {
		set := current.Load()
		tiles := map[string]func(*tileArgs){"f32": set.tile}
		if set.dots != nil {
			tiles["bf16"], tiles["int8"] = set.dots.tileBF16, set.dots.tileInt8
		}
		for name, tile := range tiles {
			for rows := 1; rows <= set.mr; rows++ {
				for _, cols := range []int{8, 16, 32} {
					for _, k := range []int{1, 2, 5, 50} {
						f.try(t, fmt.Sprintf("%s tile of %d×%d×%d", name, rows, cols, k), func() {
							aks, bks := rows+k%3, cols+k%2
							c := f.noise((rows-1)*panel + cols)
							tile(&tileArgs{c: &c[0], a: &f.noise((k-1)*aks + rows)[0], b: &f.noise((k-1)*bks + cols)[0], k: k, aks: aks, bks: bks,
								acc: k % 2, rows: rows, cols: cols, touch: &c[0], ldt: 4 * panel})
						})
					}
				}
			}
		}
		for rows := 1; rows <= 33; rows++ {
			for k := 1; k <= 35; k++ {
				f.try(t, fmt.Sprintf("transposing %d×%d", rows, k), func() {
					ds, ls := rows+k%2, k+rows%2
					set.transposed(f.noise((k-1)*ds+rows), ds, f.noise((rows-1)*ls+k), ls, rows, k)
				})
			}
		}
	})
}
