package audiofile

import (
	"io"
)

// Signal is a stream of the samples of one channel.
type Signal interface {
	// Read fills dst with the next samples and returns how many: at least one, or an error; io.EOF
	// at the end.
	Read(dst []float32) (int, error)
}

// Mixer mixes the channels of a Reader down to one, their mean.
type Mixer struct {
	r   *Reader
	buf []float32
}

// NewMixer reads r as one channel.
func NewMixer(r *Reader) *Mixer { return &Mixer{r: r} }

// mixBlock is the number of samples mixed at once.
const mixBlock = 4096

// Read implements Signal.
func (m *Mixer) Read(dst []float32) (int, error) {
	if len(dst) == 0 {
		return 0, nil
	}
	c := m.r.Channels
	if c == 1 {
		return m.r.Read(dst)
	}
	if m.buf == nil {
		m.buf = make([]float32, mixBlock*c)
	}
	n, err := m.r.Read(m.buf[:min(len(dst), mixBlock)*c])
	if c == 2 {
		for i := range n {
			dst[i] = (m.buf[2*i] + m.buf[2*i+1]) * 0.5
		}
		return n, err
	}
	scale := 1 / float32(c)
	for i := range n {
		sum := float32(0)
		for _, v := range m.buf[i*c : (i+1)*c] {
			sum += v
		}
		dst[i] = sum * scale
	}
	return n, err
}

// Picker takes one channel of a Reader and leaves the others.
type Picker struct {
	r       *Reader
	channel int
	buf     []float32
}

// NewPicker reads channel c of r, counted from 0. It panics when r has no such channel.
func NewPicker(r *Reader, c int) *Picker {
	if c < 0 || c >= r.Channels {
		panic("audiofile: no such channel")
	}
	return &Picker{r: r, channel: c, buf: make([]float32, mixBlock*r.Channels)}
}

// Read implements Signal.
func (p *Picker) Read(dst []float32) (int, error) {
	if len(dst) == 0 {
		return 0, nil
	}
	c := p.r.Channels
	n, err := p.r.Read(p.buf[:min(len(dst), mixBlock)*c])
	for i := range n {
		dst[i] = p.buf[i*c+p.channel]
	}
	return n, err
}

// Samples is a Signal in memory.
type Samples struct{ Left []float32 }

// Read implements Signal.
func (s *Samples) Read(dst []float32) (int, error) {
	if len(s.Left) == 0 {
		return 0, io.EOF
	}
	n := copy(dst, s.Left)
	s.Left = s.Left[n:]
	return n, nil
}

// Exactly is a signal cut, or continued with silence, to a number of samples.
type Exactly struct {
	Signal
	Left  int64
	ended bool
}

// Read implements Signal.
func (e *Exactly) Read(dst []float32) (int, error) {
	if e.Left == 0 {
		return 0, io.EOF
	}
	dst = dst[:min(int64(len(dst)), e.Left)]
	n := len(dst)
	if !e.ended {
		m, err := e.Signal.Read(dst)
		if err != nil && err != io.EOF {
			return 0, err
		}
		if e.ended = err == io.EOF; !e.ended {
			n = m
		}
	}
	if e.ended {
		clear(dst)
	}
	e.Left -= int64(n)
	return n, nil
}

// ReadFull fills dst as far as the signal goes. The error is nil or that of the source; io.EOF only
// when nothing was left.
func ReadFull(s Signal, dst []float32) (n int, err error) {
	for n < len(dst) && err == nil {
		var m int
		m, err = s.Read(dst[n:])
		n += m
	}
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}
