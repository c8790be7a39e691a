package audiofile

import (
	"io"
	"math"

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

// The limits of the table of filters. More phases than fit are interpolated, which is good to
// -130 dB.
const (
	maxPhases = 4096
	maxTable  = 4 << 20
)

// Resampler changes the sample rate of a signal by a rational factor. Output sample j is the
// filtered input at time j·from/to: there is no delay, and ceil(n·to/from) samples come of n.
// Beyond its ends the input counts as silence. Every sample is one sum in a fixed order, so it does
// not depend on how the signal is read.
type Resampler struct {
	src        Signal
	up, down   int64 // to/g, from/g
	half       int   // taps on each side
	phases     int   // of the table, up when it holds every phase
	table      []float32
	buf        []float32 // input from place base on
	base, ends int64     // ends: input length, -1 until known
	at, phase  int64     // the next output lies at at + phase/up
	mixed      []float32 // scratch for an interpolated filter
}

// NewResampler reads s, of from samples a second, as to samples a second. It fails when a rate is
// not positive or the factor is above 1000 either way.
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
	r.phases = int(min(r.up, maxPhases, max(64, int64(maxTable/(2*r.half)))))
	r.fill(stretch)
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

// fill computes the filters of all phases, one more than there are for interpolation. Each sums to 1.
func (r *Resampler) fill(stretch float64) {
	n := 2 * r.half
	r.table = make([]float32, (r.phases+1)*n)
	cut := rolloff / stretch
	i0 := bessel0(kaiserBeta)
	h := make([]float64, n)
	for p := range r.phases + 1 {
		sum := 0.0
		for k := range h {
			t := float64(k-r.half+1) - float64(p)/float64(r.phases)
			w := t / (zeroCrossings * stretch)
			h[k] = 0
			if w > -1 && w < 1 {
				h[k] = sinc(cut*t) * bessel0(kaiserBeta*math.Sqrt(1-w*w)) / i0
			}
			sum += h[k]
		}
		for k, v := range h {
			r.table[p*n+k] = float32(v / sum)
		}
	}
	r.mixed = make([]float32, n)
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
	for i := range dst {
		from := r.at - int64(r.half) + 1
		if err := r.need(from, r.at+int64(r.half)); err != nil {
			if i > 0 {
				return i, nil // the error comes again with the next read
			}
			return 0, err
		}
		if r.ends >= 0 && r.at >= r.ends {
			if i == 0 {
				return 0, io.EOF
			}
			return i, nil
		}
		x := r.buf[from-r.base:]
		dst[i] = dot(r.filter(), x)
		r.at += r.down / r.up
		if r.phase += r.down % r.up; r.phase >= r.up {
			r.phase -= r.up
			r.at++
		}
	}
	return len(dst), nil
}

// filter is the filter of the next output.
func (r *Resampler) filter() []float32 {
	n := 2 * r.half
	if int64(r.phases) == r.up {
		return r.table[int(r.phase)*n:][:n]
	}
	place := float64(r.phase) * float64(r.phases) / float64(r.up)
	p := int(place)
	a, b := r.table[p*n:][:n], r.table[(p+1)*n:][:n]
	f := float32(place - float64(p))
	for k, v := range a {
		r.mixed[k] = v + f*(b[k]-v)
	}
	return r.mixed
}

// need makes the buffer hold input up to place to, silence behind its end, and forgets what lies
// before place from.
func (r *Resampler) need(from, to int64) error {
	for have := r.base + int64(len(r.buf)); have <= to; have = r.base + int64(len(r.buf)) {
		if drop := from - r.base; drop > 4*int64(r.half)+mixBlock {
			r.buf = r.buf[:copy(r.buf, r.buf[drop:])]
			r.base = from
		}
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
