package imagefile

import "math"

// Filter is a resampling filter, numbered as in Pillow and in preprocessor_config.json.
type Filter int

// The filters.
const (
	Nearest  Filter = 0
	Lanczos  Filter = 1
	Bilinear Filter = 2
	Bicubic  Filter = 3
	Box      Filter = 4
	Hamming  Filter = 5
)

// support is half the width of a filter at scale 1, and 0 for one that is not known.
func (f Filter) support() float64 {
	return map[Filter]float64{Lanczos: 3, Bilinear: 1, Bicubic: 2, Box: 0.5, Hamming: 1}[f]
}

// Known reports whether the filter is one of the above.
func (f Filter) Known() bool { return f >= Nearest && f <= Hamming }

// at is the filter's value at x. The products are rounded one by one (no fused multiply-add), so
// that every machine gives the same weights.
func (f Filter) at(x float64) float64 {
	if f == Box { // open on the left, so that a border belongs to one tap
		if x > -0.5 && x <= 0.5 {
			return 1
		}
		return 0
	}
	x = math.Abs(x)
	switch f {
	case Bicubic:
		const a = -0.5
		switch {
		case x < 1:
			return float64(float64((float64((a+2)*x)-(a+3))*x)*x) + 1
		case x < 2:
			return float64((float64((float64((x-5)*x)+8)*x) - 4) * a)
		}
	case Bilinear:
		if x < 1 {
			return 1 - x
		}
	case Lanczos:
		if x < 3 {
			return float64(sinc(x) * sinc(x/3))
		}
	case Hamming:
		if x == 0 {
			return 1
		}
		if x < 1 {
			x *= math.Pi
			return math.Sin(x) / x * (0.54 + float64(0.46*math.Cos(x)))
		}
	}
	return 0
}

func sinc(x float64) float64 {
	if x == 0 {
		return 1
	}
	x *= math.Pi
	return math.Sin(x) / x
}

// precision is the number of fraction bits of a weight.
const precision = 22

// taps are the weights of one output sample: those of inputs first, first+1, …
type taps struct {
	first   int
	weights []int32
}

// weights computes the taps of every output of a side resized from in to out, as Pillow does for
// 8-bit pictures: a window of support·max(scale,1) around (x+0.5)·scale, its weights normalised
// to sum 1 and rounded to 22 bits, half away from zero.
func weights(f Filter, in, out int) []taps {
	scale := float64(in) / float64(out)
	wide := max(scale, 1)
	support, inverse := float64(f.support()*wide), 1/wide
	all := make([]taps, out)
	w := make([]float64, int(math.Ceil(support))*2+1)
	for x := range all {
		centre := float64((float64(x) + 0.5) * scale)
		first := max(int(centre-support+0.5), 0)
		last := min(int(centre+support+0.5), in)
		sum := 0.0
		for i := first; i < last; i++ {
			v := float64(f.at(float64((float64(i) - centre + 0.5) * inverse)))
			w[i-first] = v
			sum += v
		}
		t := taps{first: first, weights: make([]int32, max(last-first, 0))}
		for i := range t.weights {
			v := w[i]
			if sum != 0 {
				v /= sum
			}
			t.weights[i] = int32(float64(v*(1<<precision)) + math.Copysign(0.5, v))
		}
		all[x] = t
	}
	return all
}

// Resize returns the picture at w×h, equal bit for bit to Pillow's 8-bit resize: the horizontal
// pass first, each pass rounded and clipped to bytes, a pass that changes nothing left out.
func (p *RGB) Resize(w, h int, f Filter) *RGB {
	if w <= 0 || h <= 0 || p.W <= 0 || p.H <= 0 || !f.Known() {
		panic("imagefile: resize: sizes and filter must be checked before")
	}
	if f == Nearest {
		return p.nearest(w, h)
	}
	out := p
	if w != p.W {
		out = out.horizontal(w, weights(f, p.W, w))
	}
	if h != p.H {
		out = out.vertical(h, weights(f, p.H, h))
	}
	return out
}

func (p *RGB) horizontal(w int, ts []taps) *RGB {
	dst := NewRGB(w, p.H)
	// Red and blue share a word: the products and sums of its halves do not meet, but for the
	// borrow of a negative lower half.
	both, green := make([]int64, p.W), make([]int32, p.W)
	const half = 1 << (precision - 1)
	for y := range p.H {
		src, out := p.Pix[3*p.W*y:3*p.W*(y+1)], dst.Pix[3*w*y:3*w*(y+1)]
		for x := range both {
			q := (*[3]uint8)(src[3*x:])
			both[x], green[x] = int64(q[0])|int64(q[2])<<32, int32(q[1])
		}
		for x, t := range ts {
			rb, g := int64(half|half<<32), int32(half)
			n := len(t.weights)
			in2, in1 := both[t.first:][:n], green[t.first:][:n]
			for i, k := range t.weights {
				rb += int64(k) * in2[i]
				g += k * in1[i]
			}
			r := int32(rb)
			b := int32((rb - int64(r)) >> 32)
			o := out[3*x : 3*x+3]
			o[0], o[1], o[2] = clip(r), clip(g), clip(b)
		}
	}
	return dst
}

func (p *RGB) vertical(h int, ts []taps) *RGB {
	dst := NewRGB(p.W, h)
	n := 3 * p.W
	sum := make([]int32, n)
	for y, t := range ts {
		for i := range sum {
			sum[i] = 1 << (precision - 1)
		}
		for i, k := range t.weights {
			for j, v := range p.Pix[n*(t.first+i):][:n] {
				sum[j] += k * int32(v)
			}
		}
		out := dst.Pix[n*y:][:n]
		for i, v := range sum {
			out[i] = clip(v)
		}
	}
	return dst
}

func clip(v int32) uint8 {
	v >>= precision
	if uint32(v) <= 255 {
		return uint8(v)
	}
	if v < 0 {
		return 0
	}
	return 255
}

// nearest takes the input pixel under each output pixel's centre.
func (p *RGB) nearest(w, h int) *RGB {
	dst := NewRGB(w, h)
	sx, sy := float64(p.W)/float64(w), float64(p.H)/float64(h)
	for y := range h {
		row := p.Pix[3*p.W*min(int((float64(y)+0.5)*sy), p.H-1):]
		for x := range w {
			i := min(int((float64(x)+0.5)*sx), p.W-1)
			copy(dst.Pix[3*(y*w+x):3*(y*w+x)+3], row[3*i:3*i+3])
		}
	}
	return dst
}
