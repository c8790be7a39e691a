package audiofile

import (
	"encoding/binary"
	"errors"
	"io"

	mp3 "github.com/hajimehoshi/go-mp3"

	"github.com/mmserve/mmserve/modality/media"
)

// scanBytes is how much of a file without a frame count is walked to find its length; the rest
// is estimated.
const scanBytes = 64 << 20

// decoderDelay is what every layer III decoder adds at the start, in samples.
const decoderDelay = 529

func isMP3(head []byte) bool {
	if id3Length(head) > 0 {
		return true
	}
	var w mp3Walker
	for i := 0; i+4 <= len(head); i++ {
		if head[i] == 0xff && w.chain(head[i:], len(head) < 4096) {
			return true
		}
	}
	return false
}

func openMP3(s *source, info *Info) (decoder, error) {
	info.MediaType, info.Codec = "audio/mpeg", "mp3"
	if err := skipID3(s, info); err != nil {
		return nil, err
	}
	w := &mp3Walker{src: s}
	if !w.sync(searchBytes) {
		if err := s.ctx.Err(); err != nil {
			return nil, err
		}
		if w.free {
			return nil, media.Errorf(media.Unsupported, "audio: mp3: free bit rate is not read here")
		}
		return nil, media.Errorf(media.Malformed, "audio: mp3: no frames")
	}
	if w.junk > 0 {
		info.note("%d bytes of junk before the first frame", w.junk)
	}
	b, err := s.peek(4)
	if err != nil {
		return nil, err
	}
	w.first, _ = readMP3Header(b)
	if err := w.first.supported(); err != nil {
		return nil, err
	}
	info.Rate, info.Channels = w.first.rate, w.first.channels
	d := &mp3Decoder{walk: w, info: info, channels: w.first.channels, left: -1}
	if w.first.version == 2 {
		d.repack = &mp3Repacker{walk: w}
	}
	return d, d.length(info)
}

// skipID3 passes the tags in front. A tag that claims to be longer than the file is passed by its
// header only; the search for a frame does the rest.
func skipID3(s *source, info *Info) error {
	for range 8 {
		head, err := s.peek(10)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		n := id3Length(head)
		switch {
		case n == 0:
			return nil
		case s.left() >= 0 && int64(n) > s.left():
			info.note("ID3 tag claims %d bytes", n)
			n = 10
		default:
			info.note("ID3v2.%d tag of %d bytes", head[3], n)
		}
		if err := s.skip(int64(n)); err != nil {
			return err
		}
	}
	return nil
}

// mp3Decoder fences go-mp3: it is given whole frames of one stream only, one at a time, never a
// Seeker, so nothing it does depends on what else is in the file. A frame it refuses, or one that
// refers to data before the start, becomes silence of the same length.
type mp3Decoder struct {
	walk     *mp3Walker
	info     *Info
	channels int
	skip     int64 // samples of encoder delay still to drop
	left     int64 // frames to deliver, -1: all
	frame    []byte
	stock    int // bytes of main data that go-mp3 can look back on
	dec      *mp3.Decoder
	pcm      [1152 * 4]byte
	at, end  int // what of pcm is not yet delivered
	failed   error
	muted    int
	repack   *mp3Repacker // for MPEG-2
}

// length finds how long the sound is: from the Xing or VBRI frame, or by walking the frames. It
// leaves the source at the first frame of sound.
func (d *mp3Decoder) length(info *Info) error {
	s := d.walk.src
	first, err := s.peek(d.walk.first.size)
	if err != nil {
		return err
	}
	x, isInfo := readXing(first, d.walk.first)
	if isInfo {
		s.take(d.walk.first.size)
		d.skip = x.delay
	}
	if isInfo && x.frames > 0 && x.plausible(s.left(), d.walk.first) {
		info.Frames, info.Exact = max(0, x.frames*int64(d.walk.first.samples)-x.trimmed()), true
		info.note("%d frames by its %s header, %d+%d samples of padding trimmed", x.frames, x.kind, x.start, x.pad)
		d.left = info.Frames
		return nil
	}
	if !s.random() {
		return nil
	}
	from := s.pos
	walker := mp3Walker{src: s, first: d.walk.first}
	for s.deep || s.pos-from < scanBytes {
		h, _, err := walker.next()
		if err != nil {
			return err
		}
		if h.size == 0 {
			info.Exact = true
			break
		}
		s.take(h.size)
	}
	info.Frames = walker.frames * int64(d.walk.first.samples)
	if passed := s.pos - from; !info.Exact && passed > 0 {
		info.Frames = int64(float64(info.Frames) * float64(s.size-from) / float64(passed))
		info.note("length estimated from the first %d bytes", passed)
	}
	info.Frames = max(0, info.Frames-x.delay)
	s.seek(from)
	return nil
}

// xing is what an information frame says.
type xing struct {
	kind       string
	frames     int64
	bytes      int64 // of all frames, this one included
	start, pad int64 // samples the encoder added before and behind
	delay      int64 // samples to drop from what a decoder gives
}

func (x xing) trimmed() int64 { return x.start + x.pad }

// plausible holds the counts against the bytes there are: a frame has at least its side
// information, and a file that was cut is shorter than it says.
func (x xing) plausible(left int64, h mp3Header) bool {
	return left < 0 || x.frames*int64(h.sideAt()+h.sideBytes()) <= left && x.bytes-int64(h.size) <= left
}

// readXing reads the Xing, Info or VBRI header that the first frame may be.
func readXing(frame []byte, h mp3Header) (x xing, ok bool) {
	if at := 36; len(frame) >= at+18 && string(frame[at:at+4]) == "VBRI" {
		return xing{kind: "VBRI", frames: int64(binary.BigEndian.Uint32(frame[at+14:]))}, true
	}
	for _, at := range []int{4 + h.sideBytes(), 6 + h.sideBytes()} {
		if len(frame) < at+8 {
			return x, false
		}
		if kind := string(frame[at : at+4]); kind == "Xing" || kind == "Info" {
			x.kind = kind
			x.read(frame[at+4:])
			return x, true
		}
	}
	return x, false
}

func (x *xing) read(b []byte) {
	flags := binary.BigEndian.Uint32(b)
	b = b[4:]
	if flags&1 != 0 && len(b) >= 4 {
		x.frames = int64(binary.BigEndian.Uint32(b))
	}
	if at := 4 * int(flags&1); flags&2 != 0 && len(b) >= at+4 {
		x.bytes = int64(binary.BigEndian.Uint32(b[at:]))
	}
	at := 0
	for bit, n := range []int{4, 4, 100, 4} {
		if flags>>bit&1 != 0 {
			at += n
		}
	}
	if len(b) < at+24 || b[at] < ' ' { // no encoder named
		return
	}
	v := int64(b[at+21])<<16 | int64(b[at+22])<<8 | int64(b[at+23])
	if x.start, x.pad = v>>12, v&0xfff; x.start+x.pad > 0 {
		x.delay = x.start + decoderDelay
	}
}

// Read gives go-mp3 its bytes: the coming frame, then the next.
func (d *mp3Decoder) Read(p []byte) (int, error) {
	if len(d.frame) == 0 {
		if err := d.feed(); err != nil {
			return 0, err
		}
	}
	n := copy(p, d.frame)
	d.frame = d.frame[n:]
	return n, nil
}

// feed fetches the next frame.
func (d *mp3Decoder) feed() error {
	if d.repack != nil {
		frame, muted, err := d.repack.next(d.frame[:0])
		if muted {
			d.muted++
		}
		d.frame, d.failed = frame, err
		return err
	}
	h, b, err := d.walk.next()
	if b == nil {
		d.failed = errOrEOF(err)
		return d.failed
	}
	d.frame = append(d.frame[:0], b...)
	d.walk.src.take(len(b))
	d.mute(h)
	return nil
}

func errOrEOF(err error) error {
	if err == nil {
		return io.EOF
	}
	return err
}

// mute silences a frame that refers further back than there is data, which happens at the start of a
// cut file: its side information then describes no data, but still all that later frames may need.
func (d *mp3Decoder) mute(h mp3Header) {
	side := d.frame[h.sideAt():][:h.sideBytes()]
	back, most := int(side[0]), 255
	if h.version == 3 {
		back, most = back<<1|int(side[1]>>7), 511
	}
	if back > d.stock {
		back = min(d.stock, most)
		clear(side)
		side[0] = byte(back)
		if h.version == 3 {
			side[0], side[1] = byte(back>>1), byte(back<<7)
		}
		d.muted++
	}
	d.stock = back + len(d.frame) - h.sideAt() - h.sideBytes()
}

func (d *mp3Decoder) decode(dst []float32) (int, error) {
	if d.left == 0 {
		d.failed = io.EOF
		return 0, d.ended()
	}
	for d.at == d.end {
		if err := d.block(); err != nil {
			return 0, err
		}
	}
	n := min(len(dst)/d.channels, (d.end-d.at)/4)
	if d.left > 0 {
		n = int(min(int64(n), d.left))
		d.left -= int64(n)
	}
	if d.channels == 2 {
		readS16LE(dst[:2*n], d.pcm[d.at:])
	} else {
		for i := range n { // both channels of go-mp3 are the one there is
			dst[i] = float32(int16(binary.LittleEndian.Uint16(d.pcm[d.at+4*i:]))) / (1 << 15)
		}
	}
	d.at += 4 * n
	return n, nil
}

// block decodes the next frame into pcm.
func (d *mp3Decoder) block() error {
	d.at, d.end = 0, 4*d.walk.first.samples
	if err := d.synth(); err != nil {
		if d.failed != nil {
			return d.ended()
		}
		clear(d.pcm[:d.end]) // go-mp3 refused this frame
		d.dec, d.frame, d.stock = nil, nil, 0
		if d.repack != nil {
			d.repack.from = d.repack.cut
		}
		d.muted++
	}
	if drop := min(d.skip, int64(d.walk.first.samples)); drop > 0 {
		d.skip -= drop
		d.at += 4 * int(drop)
	}
	return nil
}

// ended is what the end of the frames means.
func (d *mp3Decoder) ended() error {
	if d.muted > 0 {
		d.info.note("%d frames could not be decoded and are silent", d.muted)
		d.muted = 0
	}
	if d.failed == io.EOF && d.left > 0 && d.left < 2*int64(d.walk.first.samples) {
		// The decoder's delay reaches past the last frame.
		d.end = 4 * int(min(d.left, int64(d.walk.first.samples)))
		clear(d.pcm[:d.end])
		return nil
	}
	return d.failed
}

func (d *mp3Decoder) synth() (err error) {
	defer rescue(&err, "audio: mp3")
	if d.dec == nil {
		if d.dec, err = mp3.NewDecoder(onlyReader{d}); err != nil {
			return err
		}
	}
	_, err = io.ReadFull(d.dec, d.pcm[:d.end])
	return err
}

// onlyReader hides everything but Read.
type onlyReader struct{ io.Reader }
