package audiofile

import (
	"math"
	"math/bits"

	"gonum.org/v1/gonum/dsp/fourier"
)

// decode reads the number of an entry, -1 at the end of the packet or for a word that is none.
func (b *vorbisBook) decode(r *lowBits) int {
	if r.n < fastBits && len(r.b) > 0 {
		r.load(min(fastBits, r.n+8*uint(len(r.b))))
	}
	if r.n >= fastBits {
		if f := b.fast[r.acc&(1<<fastBits-1)]; f > 0 {
			r.acc >>= uint(f & 0xff)
			r.n -= uint(f & 0xff)
			return int(f >> 8)
		}
	}
	node := int32(0)
	for {
		node = b.tree[node][r.read(1)]
		if node < 0 && !r.over {
			return int(^node)
		}
		if node <= 0 {
			r.over = true
			return -1
		}
	}
}

// spectra decodes the spectrum of every channel, half values each.
func (d *vorbisDecoder) spectra(r *lowBits, m *vorbisMapping, half int) error {
	curves := make([][]int, len(d.spectrum))
	for ch := range d.spectrum {
		curves[ch] = d.setup.floors[m.floor[m.mux[ch]]].decode(r, d.setup.books)
		d.quiet[ch] = curves[ch] == nil
		clear(d.spectrum[ch][:half])
	}
	skip := append([]bool(nil), d.quiet...)
	for _, c := range m.coupling {
		if !skip[c[0]] || !skip[c[1]] {
			skip[c[0]], skip[c[1]] = false, false
		}
	}
	for s := range m.submaps {
		var x [][]float32
		silent := true
		var quiet []bool
		for ch, sub := range m.mux {
			if sub == s {
				x, quiet = append(x, d.spectrum[ch][:half]), append(quiet, skip[ch])
				silent = silent && skip[ch]
			}
		}
		if len(x) == 0 || silent {
			continue
		}
		d.residue(r, &d.setup.residues[m.residue[s]], x, quiet)
	}
	for i := len(m.coupling) - 1; i >= 0; i-- {
		decouple(d.spectrum[m.coupling[i][0]][:half], d.spectrum[m.coupling[i][1]][:half])
	}
	for ch, x := range d.spectrum {
		if d.quiet[ch] {
			clear(x[:half])
			continue
		}
		d.setup.floors[m.floor[m.mux[ch]]].render(d.curve[:half], curves[ch])
		for i, v := range d.curve[:half] {
			x[i] *= v
		}
	}
	return nil
}

// decouple turns magnitude and angle into two channels.
func decouple(m, a []float32) {
	for i, mag := range m {
		ang := a[i]
		switch {
		case mag > 0 && ang > 0:
			a[i] = mag - ang
		case mag > 0:
			a[i], m[i] = mag, mag+ang
		case ang > 0:
			a[i] = mag + ang
		default:
			a[i], m[i] = mag, mag-ang
		}
	}
}

var floorRange = [4]int{256, 128, 86, 64}

// decode reads the heights of a floor curve; nil for a channel that is silent.
func (f *vorbisFloor) decode(r *lowBits, books []vorbisBook) []int {
	if !r.flag() {
		return nil
	}
	y := make([]int, 0, len(f.x))
	width := uint(bits.Len(uint(floorRange[f.multiplier-1] - 1)))
	y = append(y, r.integer(width), r.integer(width))
	for _, k := range f.classes {
		c := &f.class[k]
		value := 0
		if c.subclasses > 0 {
			value = max(0, books[c.master].decode(r))
		}
		for range c.dims {
			book := c.books[value&(1<<c.subclasses-1)]
			value >>= c.subclasses
			v := 0
			if book >= 0 {
				v = max(0, books[book].decode(r))
			}
			y = append(y, v)
		}
	}
	if r.over {
		return nil
	}
	return y
}

// render draws the curve through the heights, which are written as differences to a prediction.
func (f *vorbisFloor) render(dst []float32, y []int) {
	most := floorRange[f.multiplier-1]
	set := make([]bool, len(y))
	final := make([]int, len(y))
	set[0], set[1], final[0], final[1] = true, true, y[0], y[1]
	for i := 2; i < len(y); i++ {
		lo, hi := f.low[i], f.high[i]
		guess := between(f.x[lo], final[lo], f.x[hi], final[hi], f.x[i])
		final[i] = guess
		if y[i] == 0 {
			continue
		}
		set[lo], set[hi], set[i] = true, true, true
		final[i] = min(max(guess+offset(y[i], guess, most-guess), 0), most-1)
	}
	lx, ly := 0, final[0]*f.multiplier
	for _, i := range f.sorted[1:] {
		if set[i] {
			hy := final[i] * f.multiplier
			line(dst, lx, ly, f.x[i], hy)
			lx, ly = f.x[i], hy
		}
	}
	line(dst, lx, ly, len(dst), ly)
}

// offset is the difference that a value stands for, with room below and above the prediction.
func offset(v, below, above int) int {
	room := 2 * min(below, above)
	switch {
	case v >= room && above > below:
		return v - below
	case v >= room:
		return above - v - 1
	case v&1 == 1:
		return -(v + 1) / 2
	}
	return v / 2
}

func between(x0, y0, x1, y1, x int) int {
	dy, dx := y1-y0, x1-x0
	if dy < 0 {
		return y0 - -dy*(x-x0)/dx
	}
	return y0 + dy*(x-x0)/dx
}

// decibels are the amplitudes of the 256 heights: 35/64 dB a step up to 1.
var decibels = func() (t [256]float32) {
	for i := range t {
		t[i] = float32(math.Pow(10, float64(i-255)*35/64/20))
	}
	return t
}()

// line draws from (x0,y0) up to, not with, x1, in whole steps.
func line(dst []float32, x0, y0, x1, y1 int) {
	if x0 >= x1 {
		return
	}
	dy, dx := y1-y0, x1-x0
	step, sign := dy/dx, 1
	if dy < 0 {
		dy, sign = -dy, -1
	}
	rest, err, y := dy%dx, 0, y0
	for x := x0; x < min(x1, len(dst)); x++ {
		dst[x] = decibels[min(max(y, 0), 255)]
		y += step
		if err += rest; err >= dx {
			err -= dx
			y += sign
		}
	}
}

// residue adds what the floors leave to the spectra of the channels of a submap.
func (d *vorbisDecoder) residue(r *lowBits, s *vorbisResidue, x [][]float32, quiet []bool) {
	if s.kind < 2 {
		d.partitions(r, s, x, quiet)
		return
	}
	flat := d.interim[:len(x)*len(x[0])]
	clear(flat)
	d.partitions(r, s, [][]float32{flat}, []bool{false})
	for ch, c := range x {
		for i := range c {
			c[i] = flat[i*len(x)+ch]
		}
	}
}

// partitions decodes the vectors in up to eight passes, each finer than the one before.
func (d *vorbisDecoder) partitions(r *lowBits, s *vorbisResidue, x [][]float32, quiet []bool) {
	begin, end := min(s.begin, len(x[0])), min(s.end, len(x[0]))
	count := (end - begin) / s.size
	book := &d.setup.books[s.book]
	for ch := range x {
		if cap(d.classes[ch]) < count+book.dims {
			d.classes[ch] = make([]int, count+book.dims)
		}
		d.classes[ch] = d.classes[ch][:count+book.dims]
	}
	for pass := range 8 {
		for p := 0; p < count; {
			if pass == 0 {
				for ch := range x {
					if !quiet[ch] && !readClasses(r, book, s.classes, d.classes[ch][p:p+book.dims]) {
						return
					}
				}
			}
			for i := 0; i < book.dims && p < count; i++ {
				for ch, v := range x {
					if quiet[ch] {
						continue
					}
					if b := s.books[d.classes[ch][p]][pass]; b >= 0 {
						at := begin + p*s.size
						if !d.setup.books[b].add(r, v[at:at+s.size], s.kind) {
							return
						}
					}
				}
				p++
			}
		}
	}
}

// readClasses reads the classes of the coming partitions, written as the digits of one number.
func readClasses(r *lowBits, book *vorbisBook, base int, dst []int) bool {
	v := book.decode(r)
	if v < 0 {
		return false
	}
	for i := len(dst) - 1; i >= 0; i-- {
		dst[i] = v % base
		v /= base
	}
	return true
}

// add decodes vectors and adds them to a partition; false at the end of the packet.
func (b *vorbisBook) add(r *lowBits, x []float32, kind int) bool {
	step := len(x) / b.dims
	for i := 0; i < len(x)/b.dims; i++ {
		e := b.decode(r)
		if e < 0 {
			return false
		}
		v := b.vectors[e*b.dims:][:b.dims]
		if kind == 0 {
			for j, w := range v {
				x[i+j*step] += w
			}
			continue
		}
		for j, w := range v {
			x[i*b.dims+j] += w
		}
	}
	return true
}

// slope is the rising half of Vorbis's window, n values.
func slope(n int) []float32 {
	w := make([]float32, n)
	for i := range w {
		s := math.Sin((float64(i) + 0.5) / float64(n) * math.Pi / 2)
		w[i] = float32(math.Sin(math.Pi / 2 * s * s))
	}
	return w
}

// mdct is the inverse modified discrete cosine transform of blocks of n samples:
// y[i] = Σ x[k]·cos(2π/n·(i+1/2+n/4)·(k+1/2)), k < n/2.
type mdct struct {
	fft   *fourier.CmplxFFT
	twist []complex128 // exp(-iπ(8k+1)/(4n)), n/4 values
	work  []complex128
	dct   []float32
}

func newMDCT(n int) *mdct {
	m := &mdct{fft: fourier.NewCmplxFFT(n / 4), twist: make([]complex128, n/4), work: make([]complex128, n/4), dct: make([]float32, n/2)}
	for k := range m.twist {
		s, c := math.Sincos(-math.Pi * float64(8*k+1) / float64(4*n))
		m.twist[k] = complex(c, s)
	}
	return m
}

// inverse transforms x, n/2 values, into y, n values: by a DCT-IV, whose symmetries give the rest.
func (m *mdct) inverse(y, x []float32) {
	h := len(x)
	for k := range m.work {
		m.work[k] = complex(float64(x[2*k]), float64(x[h-1-2*k])) * m.twist[k]
	}
	m.fft.Coefficients(m.work, m.work)
	c := m.dct
	for k, v := range m.work {
		v *= m.twist[k]
		c[2*k], c[h-1-2*k] = float32(real(v)), float32(-imag(v))
	}
	copy(y[:h/2], c[h/2:])
	for i := h / 2; i < h+h/2; i++ {
		y[i] = -c[h+h/2-1-i]
	}
	for i := h + h/2; i < 2*h; i++ {
		y[i] = -c[i-h-h/2]
	}
}
