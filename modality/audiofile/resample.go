package audiofile

import (
	"io"
	"math"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/modality/media"
)

// The filter of the resampler: a sinc of zeroCrossings zero crossings on each side under a Kaiser
// window. Its pass band is flat within 0.01 dB up to 0.90 of the lower Nyquist frequency and its
// stop band is 100 dB down from 1.00 of it on (BenchmarkResampler measures both).
const (
	zeroCrossings = 68
	rolloff       = 0.949 // middle of the transition, in parts of the lower Nyquist frequency
	kaiserBeta    = 10.2
)

// The limits of the filter tables, in values. More phases than fit are interpolated, which is good
// to -130 dB.
const (
	maxPhases = 4096
	maxTable  = 4 << 20
)

// Outputs are computed so many at a time; a row of the product that does it makes at least
// periodOutputs of them.
const (
	blockOutputs  = 2048
	periodOutputs = 16
)

// Resampler changes the sample rate of a signal by a rational factor. Output sample j is the
// filtered input at time j·from/to: there is no delay, and ceil(n·to/from) samples come of n.
// Beyond its ends the input counts as silence. Every sample is one sum in a fixed order, so it does
// not depend on how the signal is read.
//
// The filters repeat after a period of outputs. Where a table of them fits, a block of periods is
// one product: windows of the input (a row a period) times the period's filters, each shifted to
// its place in the window.
type Resampler struct {
	src      Signal
	up, down int64 // outputs and inputs of a period
	half     int   // taps on each side; 0: nothing to do
	window   int   // inputs that a period's outputs need
	filters  *kernel.Packed
	rows     []float32 // windows, one after the other

	phases int       // of table
	table  []float32 // filters to interpolate, when there are too many phases
	mixed  []float32

	buf        []float32 // input from place base on
	base, ends int64     // ends: input length, -1 until known
	made       int64     // outputs computed
	out        []float32 // computed
	at         int       // of which delivered
}

// NewResampler reads s, of from samples a second, as to samples a second. It fails when a rate is
// not positive or the factor is above 1000 down or 100000 up.
func NewResampler(s Signal, from, to int) (*Resampler, error) {
	if from <= 0 || to <= 0 || from/to > 1000 || to/from > 100_000 {
		return nil, media.Errorf(media.Unsupported, "audio: no resampling from %d Hz to %d Hz", from, to)
	}
	g := gcd(from, to)
	r := &Resampler{src: s, up: int64(to / g), down: int64(from / g), ends: -1}
	if from == to {
		return r, nil
	}
	stretch := max(1, float64(from)/float64(to))
	r.half = int(math.Ceil(zeroCrossings * stretch))
	r.base = -int64(r.half) + 1
	r.buf = make([]float32, r.half-1)
	if n := r.up * (r.down + int64(2*r.half)); n <= maxTable {
		r.pack(stretch)
	} else {
		r.tabulate(stretch)
	}
	return r, nil
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// ResampledLen is the number of samples that n become.
func ResampledLen(n int64, from, to int) int64 {
	if from == to || n <= 0 {
		return n
	}
	g := int64(gcd(from, to))
	up, down := int64(to)/g, int64(from)/g
	if n > math.MaxInt64/up-down {
		return math.MaxInt64
	}
	return (n*up + down - 1) / down
}

// taps writes the 2·half taps for an output that lies by shift, in [0,1], behind an input sample: tap
// k is for the input sample k-half+1 from that one. They sum to 1.
func (r *Resampler) taps(h []float64, shift, stretch float64) {
	cut, i0, sum := rolloff/stretch, bessel0(kaiserBeta), 0.0
	for k := range h {
		t := float64(k-r.half+1) - shift
		w := t / (zeroCrossings * stretch)
		h[k] = 0
		if w > -1 && w < 1 {
			h[k] = sinc(cut*t) * bessel0(kaiserBeta*math.Sqrt(1-w*w)) / i0
		}
		sum += h[k]
	}
	for k := range h {
		h[k] /= sum
	}
}

// pack prepares the product of a period, made long enough to be worth one.
func (r *Resampler) pack(stretch float64) {
	up, down := r.up, r.down
	times := (periodOutputs + up - 1) / up
	r.up, r.down = up*times, down*times
	r.window = int((r.up-1)*down/up) + 2*r.half
	h := make([]float64, 2*r.half)
	r.filters = kernel.Pack(int(r.up), r.window, kernel.F32, func(i int, dst []float32) {
		r.taps(h, float64(int64(i)*down%up)/float64(up), stretch)
		clear(dst)
		for k, v := range h {
			dst[int(int64(i)*down/up)+k] = float32(v)
		}
	})
}

// tabulate computes as many filters as fit, and one more to interpolate to.
func (r *Resampler) tabulate(stretch float64) {
	n := 2 * r.half
	r.phases = min(maxPhases, max(64, maxTable/n))
	r.table = make([]float32, (r.phases+1)*n)
	r.mixed = make([]float32, n)
	h := make([]float64, n)
	for p := range r.phases + 1 {
		r.taps(h, float64(p)/float64(r.phases), stretch)
		for k, v := range h {
			r.table[p*n+k] = float32(v)
		}
	}
}

func sinc(x float64) float64 {
	if x == 0 {
		return 1
	}
	return math.Sin(math.Pi*x) / (math.Pi * x)
}

// bessel0 is the modified Bessel function of the first kind of order 0.
func bessel0(x float64) float64 {
	sum, term := 1.0, 1.0
	for k := 1.0; term > sum*1e-17; k++ {
		term *= x / (2 * k) * x / (2 * k)
		sum += term
	}
	return sum
}

// Read implements Signal.
func (r *Resampler) Read(dst []float32) (int, error) {
	if r.half == 0 {
		return r.src.Read(dst)
	}
	if r.at == len(r.out) {
		if err := r.block(); err != nil {
			return 0, err
		}
	}
	n := copy(dst, r.out[r.at:])
	r.at += n
	return n, nil
}

// block computes the next outputs.
func (r *Resampler) block() error {
	count := int64(blockOutputs)
	if r.filters != nil {
		count = max(1, blockOutputs/r.up) * r.up
	}
	first := r.made * r.down / r.up
	last := (r.made + count - 1) * r.down / r.up
	if err := r.need(first-int64(r.half)+1, last+int64(r.half)); err != nil {
		return err
	}
	if r.ends >= 0 {
		total := int64(0)
		if r.ends > 0 {
			total = (r.ends*r.up + r.down - 1) / r.down
		}
		if count = min(count, total-r.made); count <= 0 {
			return io.EOF
		}
	}
	if r.filters != nil {
		r.multiply(int((count + r.up - 1) / r.up))
	} else {
		r.interpolate(int(count))
	}
	r.out, r.at = r.out[:count], 0
	r.made += count
	return nil
}

// multiply computes whole periods.
func (r *Resampler) multiply(periods int) {
	at := int(r.made/r.up*r.down - int64(r.half) + 1 - r.base)
	if need := periods * r.window; cap(r.rows) < need {
		r.rows = make([]float32, need)
	}
	r.rows = r.rows[:periods*r.window]
	for p := range periods {
		copy(r.rows[p*r.window:(p+1)*r.window], r.buf[at+p*int(r.down):])
	}
	n := int(r.up)
	r.out = sized(r.out, periods*n)
	kernel.Gemm(r.out, n, r.rows, r.window, periods, r.filters, kernel.Epilogue{})
}

// interpolate computes outputs one by one, each with the mean of the two nearest filters.
func (r *Resampler) interpolate(count int) {
	r.out = sized(r.out, count)
	n := 2 * r.half
	for i := range r.out {
		j := r.made + int64(i)
		place := float64(j*r.down%r.up) * float64(r.phases) / float64(r.up)
		p := int(place)
		a, b := r.table[p*n:][:n], r.table[(p+1)*n:][:n]
		f := float32(place - float64(p))
		for k, v := range a {
			r.mixed[k] = v + f*(b[k]-v)
		}
		r.out[i] = dot(r.mixed, r.buf[j*r.down/r.up-int64(r.half)+1-r.base:])
	}
}

// sized is a slice of n values in the memory of x where that suffices.
func sized(x []float32, n int) []float32 {
	if cap(x) < n {
		return make([]float32, n)
	}
	return x[:n]
}

// need makes the buffer hold input up to place to, silence behind its end, and forgets what lies
// before place from.
func (r *Resampler) need(from, to int64) error {
	if drop := min(from-r.base, int64(len(r.buf))); drop > 0 {
		r.buf = r.buf[:copy(r.buf, r.buf[drop:])]
		r.base += drop
	}
	for have := r.base + int64(len(r.buf)); have <= to; have = r.base + int64(len(r.buf)) {
		n := len(r.buf)
		if r.ends >= 0 {
			r.buf = append(r.buf, make([]float32, to-have+1)...)
			continue
		}
		if cap(r.buf) < n+mixBlock {
			r.buf = append(make([]float32, 0, 2*cap(r.buf)+2*mixBlock), r.buf...)
		}
		m, err := r.src.Read(r.buf[n : n+mixBlock])
		r.buf = r.buf[:n+m]
		if err == io.EOF {
			r.ends = r.base + int64(len(r.buf))
		} else if err != nil {
			return err
		}
	}
	return nil
}

// dot is the sum of h[k]·x[k] in eight interleaved chains, added pairwise.
func dot(h, x []float32) float32 {
	x = x[:len(h)]
	var s0, s1, s2, s3, s4, s5, s6, s7 float32
	for len(h) >= 8 {
		a, b := h[:8:8], x[:8:8]
		s0 += a[0] * b[0]
		s1 += a[1] * b[1]
		s2 += a[2] * b[2]
		s3 += a[3] * b[3]
		s4 += a[4] * b[4]
		s5 += a[5] * b[5]
		s6 += a[6] * b[6]
		s7 += a[7] * b[7]
		h, x = h[8:], x[8:]
	}
	for k, v := range h {
		s0 += v * x[k]
	}
	return ((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7))
}
