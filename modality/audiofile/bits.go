package audiofile

import (
	"encoding/binary"
	"io"
	"math/bits"
)

// bitReader reads bits, the highest of a byte first, from the coming bytes of a source without
// taking them: a unit that turns out not to be what it seemed can be looked at again. After the
// end of the bytes it reads zeros and short is set.
type bitReader struct {
	src   *source
	win   []byte // from the start of the unit
	at    int    // next byte of win to load
	acc   uint64 // the next bits, from the top
	n     uint   // how many of them count
	max   int    // longest unit in bytes
	short error  // why there are no more bits
}

// start begins a unit of at most max bytes where the source stands.
func (b *bitReader) start(src *source, max int) {
	*b = bitReader{src: src, max: max}
	b.win, _ = src.peek(1)
	b.win = src.buf[src.r:src.w]
}

// load makes at least 56 bits ready.
func (b *bitReader) load() {
	if b.at+8 <= len(b.win) {
		b.acc |= binary.BigEndian.Uint64(b.win[b.at:]) >> b.n
		b.at += int(63-b.n) >> 3
		b.n |= 56
		return
	}
	b.slow()
}

// slow loads byte by byte, asking the source for more.
func (b *bitReader) slow() {
	b.acc &= ^uint64(0) << (64 - b.n) // drop the part of a byte that does not count yet
	for b.n <= 56 {
		if b.at < len(b.win) || b.more() {
			b.acc |= uint64(b.win[b.at]) << (56 - b.n)
		}
		b.at++
		b.n += 8
	}
}

// more lengthens the window.
func (b *bitReader) more() bool {
	if b.short != nil {
		return false
	}
	have := len(b.win)
	if have >= b.max {
		b.short = errTooLong
		return false
	}
	_, err := b.src.peek(min(have+have/2+1, b.max))
	b.win = b.src.buf[b.src.r:b.src.w]
	if len(b.win) > have {
		return true
	}
	b.short = io.ErrUnexpectedEOF
	if err != nil {
		b.short = err
	}
	return false
}

// read gives the next k bits, k ≤ 56.
func (b *bitReader) read(k uint) uint64 {
	if b.n < k {
		b.load()
	}
	v := b.acc >> (64 - k)
	b.acc <<= k
	b.n -= k
	return v
}

// signed is read with the first bit as the sign.
func (b *bitReader) signed(k uint) int64 {
	if k == 0 {
		return 0
	}
	return int64(b.read(k)<<(64-k)) >> (64 - k)
}

// unary counts zeros up to the next one, which it passes.
func (b *bitReader) unary() uint64 {
	q := uint64(0)
	for {
		if b.n == 0 {
			b.load()
		}
		if z := uint(bits.LeadingZeros64(b.acc)); z < b.n {
			b.acc <<= z + 1
			b.n -= z + 1
			return q + uint64(z)
		}
		q += uint64(b.n)
		b.acc, b.n = 0, 0
		if b.short != nil {
			return q
		}
	}
}

// align passes the bits up to the next byte and returns that byte's place in win.
func (b *bitReader) align() int {
	b.read(b.n & 7)
	return b.at - int(b.n/8)
}

// err is what is wrong when bits beyond the end were used.
func (b *bitReader) err() error {
	if b.at*8-int(b.n) > len(b.win)*8 {
		return b.short
	}
	return nil
}
