package audiofile

import (
	"encoding/binary"
	"errors"
	"io"
	"math/bits"

	"github.com/mmserve/mmserve/modality/media"
)

// vorbisDecoder decodes a Vorbis I stream. A block overlaps the one before it by half of each; what
// comes out with a block are the samples from the middle of the one before to its own middle.
type vorbisDecoder struct {
	packets *oggPackets
	setup   *vorbisSetup
	size    [2]int // short and long block
	window  [2][]float32
	mdct    [2]*mdct
	offset  int64 // samples before the first, in a stream cut out of a longer one
	done    int64 // samples decoded
	left    int64 // frames to deliver; -1: to the end

	spectrum [][]float32 // per channel: residue, then spectrum; half of a long block
	curve    []float32
	quiet    []bool
	block    [][]float32 // per channel: the block of the last transform
	tail     [][]float32 // per channel: the second half of the block before
	prior    int         // size of that block, 0 before the first
	out      [][]float32 // per channel: samples not yet delivered
	next     int
	classes  [][]int
	interim  []float32
}

func openVorbis(p *oggPackets, info *Info) (decoder, error) {
	info.Codec = "vorbis"
	id, err := p.next()
	if err != nil {
		return nil, cut(err, "its header")
	}
	if len(id) < 30 || binary.LittleEndian.Uint32(id[7:]) != 0 || id[29]&1 == 0 {
		return nil, badVorbis("identification of %d bytes", len(id))
	}
	d := &vorbisDecoder{packets: p, left: -1}
	info.Channels, info.Rate = int(id[11]), int(binary.LittleEndian.Uint32(id[12:]))
	short, long := int(id[28]&15), int(id[28]>>4)
	if short < 6 || long > 13 || short > long || info.Channels == 0 || info.Rate <= 0 {
		return nil, badVorbis("%d channels at %d Hz in blocks of 2^%d and 2^%d", info.Channels, info.Rate, short, long)
	}
	d.size = [2]int{1 << short, 1 << long}
	for _, want := range []string{"\x03vorbis", "\x05vorbis"} {
		b, err := p.next()
		if err != nil {
			return nil, cut(err, "its setup")
		}
		if len(b) < 7 || string(b[:7]) != want {
			return nil, badVorbis("header of type %d missing", want[0])
		}
		if want[0] == 5 {
			if d.setup, err = readSetup(b[7:], info.Channels); err != nil {
				return nil, err
			}
		}
	}
	d.prepare(info.Channels)
	return d, d.length(info)
}

func cut(err error, what string) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return media.Errorf(media.Truncated, "audio: vorbis: ends before %s", what)
	}
	return err
}

// prepare makes the tables and buffers.
func (d *vorbisDecoder) prepare(channels int) {
	for i, n := range d.size {
		d.window[i] = slope(n / 2)
		d.mdct[i] = newMDCT(n)
	}
	half := d.size[1] / 2
	d.curve, d.quiet = make([]float32, half), make([]bool, channels)
	d.interim = make([]float32, half*channels)
	for range channels {
		d.spectrum = append(d.spectrum, make([]float32, half))
		d.block = append(d.block, make([]float32, 2*half))
		d.tail = append(d.tail, make([]float32, half))
		d.out = append(d.out, nil)
		d.classes = append(d.classes, nil)
	}
}

// length finds how long the sound is from the granules of the first and the last page. Packets say
// their size in their first bits.
func (d *vorbisDecoder) length(info *Info) error {
	p := d.packets
	if p.src.ctx.Err() != nil {
		return p.src.ctx.Err()
	}
	if !p.open || p.lace < len(p.page.lacing) {
		return nil // a setup that shares its page with sound; not what the standard says
	}
	if err := p.turn(); err != nil {
		return cut(err, "its samples")
	}
	if p.page.flags&oggLast == 0 && p.page.granule >= 0 {
		d.offset = max(0, p.page.granule-d.pageSamples(p.page, p.lace, p.at))
	}
	if !p.src.random() {
		return nil
	}
	last := lastGranule(p.src, p.serial, info)
	page, err := readPage(p.src) // the source may have moved its buffer
	if err != nil {
		return err
	}
	p.page = page
	if last < d.offset {
		return nil
	}
	info.Frames, info.Exact = last-d.offset, true
	d.left = info.Frames
	return nil
}

// pageSamples is the number of samples that the packets ending on the first page of sound give.
func (d *vorbisDecoder) pageSamples(p oggPage, lace, at int) (n int64) {
	prior, whole, start := 0, true, at
	for _, l := range p.lacing[lace:] {
		at += int(l)
		if l == 255 {
			continue
		}
		if start < at && whole {
			if size := d.blockSize(p.body[start]); size > 0 {
				if prior > 0 {
					n += int64(prior/4 + size/4)
				}
				prior = size
			}
		}
		start = at
	}
	return n
}

// blockSize is that of a packet by its first byte, 0 when it is no sound.
func (d *vorbisDecoder) blockSize(first byte) int {
	mode := int(first>>1) & (1<<bits.Len(uint(len(d.setup.modes)-1)) - 1)
	if first&1 != 0 || mode >= len(d.setup.modes) {
		return 0
	}
	return d.size[b2i(d.setup.modes[mode].long)]
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (d *vorbisDecoder) decode(dst []float32) (int, error) {
	for d.next == len(d.out[0]) {
		if d.left == 0 {
			return 0, io.EOF
		}
		if err := d.packet(); err != nil {
			return 0, d.ended(err)
		}
	}
	c := len(d.out)
	n := min(len(dst)/c, len(d.out[0])-d.next)
	if d.left >= 0 {
		n = int(min(int64(n), d.left))
		d.left -= int64(n)
	}
	if n == 0 {
		return 0, io.EOF
	}
	for ch, x := range d.out {
		for i, v := range x[d.next : d.next+n] {
			dst[i*c+ch] = v
		}
	}
	d.next += n
	return n, nil
}

// ended is what the end of the packets means.
func (d *vorbisDecoder) ended(err error) error {
	if errors.Is(err, io.EOF) && d.left > 0 {
		return media.Errorf(media.Truncated, "audio: vorbis: ends %d samples early", d.left)
	}
	return err
}

// packet decodes the next packet; it may give no samples.
func (d *vorbisDecoder) packet() error {
	d.next = 0
	for ch := range d.out {
		d.out[ch] = d.out[ch][:0]
	}
	b, err := d.packets.next()
	if err != nil {
		return err
	}
	if len(b) == 0 || b[0]&1 == 1 { // a header in the middle, or nothing at all
		return nil
	}
	r := &lowBits{b: b}
	r.read(1)
	mode := r.integer(uint(bits.Len(uint(len(d.setup.modes) - 1))))
	if mode >= len(d.setup.modes) {
		return badVorbis("block of mode %d", mode)
	}
	m := d.setup.modes[mode]
	before, behind := false, false
	if m.long {
		before, behind = r.flag(), r.flag()
	}
	n := d.size[b2i(m.long)]
	if err := d.spectra(r, &d.setup.mappings[m.mapping], n/2); err != nil {
		return err
	}
	for ch, x := range d.spectrum {
		d.mdct[b2i(m.long)].inverse(d.block[ch][:n], x[:n/2])
		d.shape(d.block[ch][:n], m.long, before, behind)
		d.overlap(ch, n)
	}
	d.prior = n
	d.done += int64(len(d.out[0]))
	if end := d.packets.end; end >= 0 && d.packets.last { // the last block is longer than the sound
		if extra := min(d.done-(end-d.offset), int64(len(d.out[0]))); extra > 0 {
			for ch := range d.out {
				d.out[ch] = d.out[ch][:int64(len(d.out[ch]))-extra]
			}
		}
	}
	return nil
}

// shape applies the window: a slope up over the overlap with the block before, one down over that
// with the block behind. Next to a short block the overlap is short.
func (d *vorbisDecoder) shape(x []float32, long, before, behind bool) {
	up, down := d.window[b2i(long && before)], d.window[b2i(long && behind)]
	n := len(x)
	from := n/4 - len(up)/2
	clear(x[:from])
	for i, w := range up {
		x[from+i] *= w
	}
	from = n*3/4 - len(down)/2
	for i, w := range down {
		x[from+len(down)-1-i] *= w
	}
	clear(x[from+len(down):])
}

// overlap adds the first half of a block to what was kept of the one before.
func (d *vorbisDecoder) overlap(ch, n int) {
	x := d.block[ch][:n]
	if d.prior > 0 {
		count := d.prior/4 + n/4
		shift := d.prior/4 - n/4 // where this block starts, from the middle of the one before
		tail := d.tail[ch][:d.prior/2]
		for i := range count {
			v := float32(0)
			if i < len(tail) {
				v = tail[i]
			}
			if j := i - shift; j >= 0 && j < n/2 {
				v += x[j]
			}
			d.out[ch] = append(d.out[ch], v)
		}
	}
	copy(d.tail[ch], x[n/2:])
}
