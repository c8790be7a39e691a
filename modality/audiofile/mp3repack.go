package audiofile

// mp3Repacker rewrites the frames of MPEG-2 streams for go-mp3 v0.3.4, which takes a padded frame
// of theirs to be one byte shorter than it is whenever 144·rate/frequency is even, and then
// mixes up the main data of the frames behind it (22.05 kHz sound turns into noise). The main
// data of a layer III stream is one run of bytes, in which frames only mark places: it is cut
// anew into frames without padding, of the bit rates that keep every frame's data in reach.
//
// Places in that run: a frame's slot starts at slot, its data at slot-back, and the data ends at
// end. The rewritten frame's slot starts at cut.
type mp3Repacker struct {
	walk  *mp3Walker
	queue []mp3Piece // frames read and not yet written
	main  []byte     // the run of main data from place base on
	base  int
	cut   int
	from  int // first place that go-mp3 still holds
	done  error
}

// mp3Piece is a frame of the run.
type mp3Piece struct {
	header    mp3Header
	side      [32]byte
	slot, end int
	back      int
}

func (p mp3Piece) start() int { return p.slot - p.back }

// need reads frames until n are queued or the main data reaches place to.
func (r *mp3Repacker) need(n, to int) {
	for r.done == nil && (len(r.queue) < n || r.base+len(r.main) < to) {
		h, b, err := r.walk.next()
		if err != nil || b == nil {
			r.done = errOrEOF(err)
			return
		}
		p := mp3Piece{header: h, slot: r.base + len(r.main)}
		at := h.sideAt() + copy(p.side[:h.sideBytes()], b[h.sideAt():])
		p.back = int(p.side[0])
		p.end = p.start() + (p.dataBits()+7)/8
		r.main = append(r.main, b[at:]...)
		r.queue = append(r.queue, p)
		r.walk.src.take(len(b))
	}
}

// dataBits is the length of a frame's data: a sum over its channels.
func (p mp3Piece) dataBits() int {
	first := 10
	if p.header.channels == 1 {
		first = 9
	}
	total := 0
	for ch := range p.header.channels {
		for i := range 12 {
			bit := first + 63*ch + i
			total += int(p.side[bit/8]>>(7-bit%8)&1) << (11 - i)
		}
	}
	return total
}

// next writes the next frame into dst and reports whether it had to be silenced.
func (r *mp3Repacker) next(dst []byte) (frame []byte, muted bool, err error) {
	r.need(2, 0)
	if len(r.queue) == 0 {
		return nil, false, r.done
	}
	p := r.queue[0]
	r.queue = r.queue[1:]
	back := r.cut - p.start()
	if back < 0 || back > 255 || p.start() < r.from {
		muted, back = true, min(r.cut-r.from, 255)
		p.end = r.cut
		clear(p.side[:])
	}
	p.side[0] = byte(back)
	word, size := r.choose(p)
	slot := size - 4 - p.header.sideBytes()
	r.need(0, r.cut+slot)
	dst = append(dst[:0], byte(word>>24), byte(word>>16), byte(word>>8), byte(word))
	dst = append(dst, p.side[:p.header.sideBytes()]...)
	have := r.main[min(len(r.main), r.cut-r.base):]
	dst = append(dst, have[:min(slot, len(have))]...)
	for len(dst) < size {
		dst = append(dst, 0)
	}
	r.from = r.cut - back
	r.cut += slot
	r.forget()
	return dst, muted, nil
}

// choose finds the bit rate that makes the next cut: not before this frame's data ends and the
// next frame's data starts, if possible not behind the next frame's slot, and never so far behind
// its data that it cannot point back to it.
func (r *mp3Repacker) choose(p mp3Piece) (word uint32, size int) {
	least, most := p.end, p.end+255
	if len(r.queue) > 0 {
		n := r.queue[0]
		least = max(least, n.start())
		most = min(n.start()+255, n.slot)
	}
	side, best := 4+p.header.sideBytes(), 0
	for index := 1; index < 15; index++ {
		s := 144 * mp3Kbits2[index] * 1000 / p.header.rate / 2
		if s <= side {
			continue
		}
		if to := r.cut + s - side; best == 0 || to <= most || r.cut+size-side < least {
			best, size = index, s
		}
	}
	return p.header.word&^0xf200 | uint32(best)<<12 | 1<<16, size
}

// forget drops main data that no coming frame can point to.
func (r *mp3Repacker) forget() {
	if keep := r.cut - 1024 - r.base; keep > 8192 {
		keep = min(keep, len(r.main))
		r.main = r.main[:copy(r.main, r.main[keep:])]
		r.base += keep
	}
}
