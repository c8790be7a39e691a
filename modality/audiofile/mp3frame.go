package audiofile

import (
	"encoding/binary"

	"github.com/mmserve/mmserve/modality/media"
)

// mp3Header is the four-byte header of an MPEG audio frame.
type mp3Header struct {
	word     uint32
	version  int // 0: MPEG-2.5, 2: MPEG-2, 3: MPEG-1
	layer    int // 1, 2, 3
	rate     int // samples a second
	channels int
	size     int // bytes of the frame, header included; 0 for free format
	samples  int // per channel
	crc      bool
}

var (
	mp3Rates  = [3]int{44100, 48000, 32000}
	mp3Kbits1 = [15]int{0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320}
	mp2Kbits1 = [15]int{0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384}
	mp3Kbits2 = [15]int{0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160}
)

// readMP3Header reads a frame header of layer II or III.
func readMP3Header(b []byte) (h mp3Header, ok bool) {
	if len(b) < 4 || b[0] != 0xff || b[1]&0xe0 != 0xe0 {
		return h, false
	}
	h.word = binary.BigEndian.Uint32(b)
	h.version, h.layer = int(b[1]>>3&3), 4-int(b[1]>>1&3)
	rate, kbits := b[2]>>2&3, b[2]>>4
	if h.version == 1 || h.layer == 4 || h.layer == 1 || rate == 3 || kbits == 15 || b[3]&3 == 2 {
		return h, false
	}
	h.crc = b[1]&1 == 0
	h.channels = 2
	if b[3]>>6 == 3 {
		h.channels = 1
	}
	h.rate, h.samples = mp3Rates[rate], 1152
	table := &mp3Kbits1
	switch {
	case h.version != 3:
		table = &mp3Kbits2
		h.rate /= 2
		if h.version == 0 {
			h.rate /= 2
		}
		if h.layer == 3 {
			h.samples = 576
		}
	case h.layer == 2:
		table = &mp2Kbits1
	}
	if table[kbits] > 0 {
		h.size = h.samples/8*table[kbits]*1000/h.rate + int(b[2]>>1&1)
	}
	return h, true
}

// like reports whether two frames can belong to one stream.
func (h mp3Header) like(o mp3Header) bool {
	return h.version == o.version && h.layer == o.layer && h.rate == o.rate
}

// sideBytes is the length of the side information of a layer III frame.
func (h mp3Header) sideBytes() int {
	switch {
	case h.version == 3 && h.channels == 2:
		return 32
	case h.version == 3 || h.channels == 2:
		return 17
	}
	return 9
}

// sideAt is where the side information starts.
func (h mp3Header) sideAt() int {
	if h.crc {
		return 6
	}
	return 4
}

// supported says why a stream of such frames is not read here.
func (h mp3Header) supported() error {
	switch {
	case h.layer != 3:
		return media.Errorf(media.Unsupported, "audio: mp2: mpeg layer II is not read here")
	case h.version == 0:
		return media.Errorf(media.Unsupported, "audio: mp3: mpeg 2.5 (%d Hz) is not read here", h.rate)
	}
	return nil
}

// id3Length is the whole length of an ID3v2 tag at the start of b, 0 when there is none. Sizes
// are seven bits a byte; a tag with a higher bit set was written by a program that did not know
// and is taken at its word.
func id3Length(b []byte) int {
	if len(b) < 10 || string(b[:3]) != "ID3" || b[3] == 0xff || b[4] == 0xff {
		return 0
	}
	n := int(b[6])<<21 | int(b[7])<<14 | int(b[8])<<7 | int(b[9])
	if (b[6]|b[7]|b[8]|b[9])&0x80 != 0 {
		n = int(min(binary.BigEndian.Uint32(b[6:]), 1<<30))
	}
	n += 10
	if b[5]&0x10 != 0 {
		n += 10
	}
	return n
}

// mp3Walker goes from frame to frame, past anything that is none.
type mp3Walker struct {
	src    *source
	first  mp3Header
	frames int64
	junk   int64 // bytes passed that belong to no frame
	free   bool  // frames of a free bit rate were met
	tries  int   // how often they were looked for
}

// searchBytes is how far a first frame is looked for behind the tags.
const searchBytes = 1 << 20

// sync finds the next place where frames follow each other, within limit bytes.
func (w *mp3Walker) sync(limit int64) bool {
	for passed := int64(0); passed <= limit; {
		b, _ := w.src.peek(8192)
		if len(b) < 4 {
			return false
		}
		last := max(1, len(b)-4096)
		if len(b) < 8192 {
			last = len(b) - 3
		}
		for i := range last {
			if w.chain(b[i:], len(b) < 8192) {
				w.src.take(i)
				w.junk += int64(i)
				return true
			}
		}
		w.src.take(last)
		w.junk += int64(last)
		passed += int64(last)
	}
	return false
}

// chain reports whether b starts with three frames that belong together: fewer where the file
// ends.
func (w *mp3Walker) chain(b []byte, end bool) bool {
	if b[0] != 0xff {
		return false
	}
	h, ok := readMP3Header(b)
	if !ok || w.first.rate != 0 && !h.like(w.first) {
		return false
	}
	if h.size == 0 {
		if w.tries++; !w.free && w.tries <= 100 {
			w.free = freeFormat(b, h)
		}
		return false
	}
	for range 2 {
		if h.size > len(b) {
			return false
		}
		b = b[h.size:]
		if len(b) < 4 || trailingTag(b) {
			return end
		}
		n, ok := readMP3Header(b)
		if !ok || !n.like(h) || n.size == 0 {
			return false
		}
		h = n
	}
	return true
}

// freeFormat reports whether another header of the same kind follows, as frames of a free bit
// rate have no length to go by.
func freeFormat(b []byte, h mp3Header) bool {
	seen := 0
	for i := 24; i+4 <= len(b) && i < 4096; i++ {
		if n, ok := readMP3Header(b[i:]); ok && (n.word^h.word)&^0x0230 == 0 {
			if seen++; seen == 2 {
				return true
			}
		}
	}
	return false
}

// trailingTag reports tags that stand behind the last frame.
func trailingTag(b []byte) bool {
	for _, t := range []string{"TAG", "APETAGEX", "LYRICSBEGIN", "3DI", "ID3"} {
		if len(b) >= len(t) && string(b[:len(t)]) == t {
			return true
		}
	}
	return false
}

// next returns the next whole frame, which stays in the source until the following call of
// next, or nil at the end. It must be taken by the caller.
func (w *mp3Walker) next() (mp3Header, []byte, error) {
	for {
		b, err := w.src.peek(4)
		if len(b) < 4 {
			return mp3Header{}, nil, endOf(err)
		}
		h, ok := readMP3Header(b)
		if ok && h.like(w.first) && h.size > h.sideAt()+h.sideBytes() {
			if b, err = w.src.peek(h.size); len(b) < h.size {
				return mp3Header{}, nil, endOf(err)
			}
			w.frames++
			return h, b, nil
		}
		if trailingTag(b) && w.tail() {
			return mp3Header{}, nil, nil
		}
		w.src.take(1)
		w.junk++
		if !w.sync(searchBytes) {
			if err := w.src.ctx.Err(); err != nil {
				return mp3Header{}, nil, err
			}
			return mp3Header{}, nil, nil
		}
	}
}

// tail reports whether what starts here is the end of the file rather than damage within it.
func (w *mp3Walker) tail() bool {
	n := w.src.left()
	return n >= 0 && n <= 64<<10
}

// endOf is the error behind a short look ahead, nil at the plain end of the file.
func endOf(err error) error {
	if err == nil || err.Error() == "unexpected EOF" {
		return nil
	}
	return err
}
