package audiofile

// lowBits reads bits, the lowest of a byte first, from a packet. Behind its end it reads zeros and
// over is set.
type lowBits struct {
	b    []byte
	acc  uint64
	n    uint
	over bool
}

// load makes n bits ready, n ≤ 32.
func (r *lowBits) load(n uint) {
	for r.n < n {
		if len(r.b) == 0 {
			r.n += 64 - r.n&^7 // zeros
			r.over = true
			return
		}
		r.acc |= uint64(r.b[0]) << r.n
		r.b = r.b[1:]
		r.n += 8
	}
}

// read gives the next n bits, n ≤ 32.
func (r *lowBits) read(n uint) uint32 {
	if r.n < n {
		r.load(n)
	}
	v := uint32(r.acc & (1<<n - 1))
	r.acc >>= n
	r.n -= n
	return v
}

// flag gives the next bit.
func (r *lowBits) flag() bool { return r.read(1) == 1 }

// integer is read as an int.
func (r *lowBits) integer(n uint) int { return int(r.read(n)) }
