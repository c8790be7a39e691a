package audiofile

import (
	"encoding/binary"
	"errors"
	"io"

	"github.com/mmserve/mmserve/modality/media"
)

func isOgg(head []byte) bool { return len(head) >= 4 && string(head[:4]) == "OggS" }

// The flags of an Ogg page.
const (
	oggContinued = 1
	oggFirst     = 2
	oggLast      = 4
)

// oggPage is a page of an Ogg file (RFC 3533). Its bytes stay valid until the source moves on.
type oggPage struct {
	flags   byte
	granule int64 // samples up to the last packet that ends here, -1 when none does
	serial  uint32
	lacing  []byte
	body    []byte
	size    int
}

// readPage looks at the page where the source stands.
func readPage(s *source) (p oggPage, err error) {
	h, err := s.peek(27)
	if len(h) == 0 && errors.Is(err, io.ErrUnexpectedEOF) {
		return p, io.EOF
	}
	if err != nil {
		return p, err
	}
	if string(h[:4]) != "OggS" || h[4] != 0 {
		return p, media.Errorf(media.Malformed, "audio: ogg: no page at byte %d", s.pos)
	}
	n := int(h[26])
	if h, err = s.peek(27 + n); err != nil {
		return p, err
	}
	p.size = 27 + n
	for _, l := range h[27:] {
		p.size += int(l)
	}
	if h, err = s.peek(p.size); err != nil {
		return p, err
	}
	p.flags, p.granule, p.serial = h[5], int64(binary.LittleEndian.Uint64(h[6:])), binary.LittleEndian.Uint32(h[14:])
	p.lacing, p.body = h[27:27+n], h[27+n:]
	if oggSum(h) != binary.LittleEndian.Uint32(h[22:]) && !ignoreSums {
		return p, media.Errorf(media.Malformed, "audio: ogg: checksum of the page at byte %d", s.pos)
	}
	return p, nil
}

var oggTable = func() (t [256]uint32) {
	for i := range t {
		c := uint32(i) << 24
		for range 8 {
			c = c<<1 ^ 0x04c11db7*(c>>31)
		}
		t[i] = c
	}
	return t
}()

// oggSum is the checksum of a page, its own field counting as zero.
func oggSum(page []byte) (c uint32) {
	for i, v := range page {
		if i >= 22 && i < 26 {
			v = 0
		}
		c = c<<8 ^ oggTable[byte(c>>24)^v]
	}
	return c
}

// oggPackets gives the packets of one stream of a file.
type oggPackets struct {
	src    *source
	serial uint32
	page   oggPage
	at     int // bytes of the page's body used
	lace   int // entries of its lacing used
	open   bool
	buf    []byte
	last   bool  // the packet given last is the last of the stream
	end    int64 // granule of its page if it is the last that ends there, else -1
}

// maxPacket bounds a packet; real ones have some kilobytes, a comment with a picture some megabytes.
const maxPacket = 32 << 20

// next gives the next packet; it stays valid until the following call. io.EOF at the end.
func (o *oggPackets) next() ([]byte, error) {
	o.buf, o.last, o.end = o.buf[:0], false, -1
	for {
		if !o.open || o.lace == len(o.page.lacing) {
			if err := o.turn(); err != nil {
				return nil, err
			}
			continue
		}
		l := int(o.page.lacing[o.lace])
		o.buf = append(o.buf, o.page.body[o.at:o.at+l]...)
		o.lace, o.at = o.lace+1, o.at+l
		if len(o.buf) > maxPacket {
			return nil, media.Errorf(media.Malformed, "audio: ogg: packet does not end")
		}
		if l == 255 {
			continue
		}
		if o.ends() {
			o.last, o.end = o.page.flags&oggLast != 0, o.page.granule
		}
		return o.buf, nil
	}
}

// ends reports whether no further packet ends on this page.
func (o *oggPackets) ends() bool {
	for _, l := range o.page.lacing[o.lace:] {
		if l < 255 {
			return false
		}
	}
	return true
}

// turn goes to the next page of the stream.
func (o *oggPackets) turn() error {
	if o.open {
		o.open = false
		o.src.take(o.page.size)
		if o.page.flags&oggLast != 0 {
			return io.EOF
		}
	}
	for {
		p, err := readPage(o.src)
		if err != nil {
			return err
		}
		if p.serial != o.serial {
			o.src.take(p.size)
			continue
		}
		o.page, o.at, o.lace, o.open = p, 0, 0, true
		if p.flags&oggContinued != 0 && len(o.buf) == 0 { // the start of this packet was never seen
			for o.lace < len(p.lacing) {
				l := int(p.lacing[o.lace])
				o.lace, o.at = o.lace+1, o.at+l
				if l < 255 {
					break
				}
			}
		}
		return nil
	}
}

// oggCodecs are the first packets of what an Ogg file can carry.
var oggCodecs = []struct{ magic, name string }{
	{"OpusHead", "opus"}, {"\x7fFLAC", "flac"}, {"Speex   ", "speex"}, {"\x80theora", "theora"}, {"fishead", "skeleton"},
}

func openOgg(s *source, info *Info) (decoder, error) {
	info.MediaType = "audio/ogg"
	other := "unknown"
	for range 64 {
		p, err := readPage(s)
		if err != nil && other != "unknown" {
			break
		}
		if err != nil {
			return nil, cut(err, "its header")
		}
		if len(p.body) >= 7 && string(p.body[:7]) == "\x01vorbis" {
			return openVorbis(&oggPackets{src: s, serial: p.serial}, info)
		}
		for _, c := range oggCodecs {
			if len(p.body) >= len(c.magic) && string(p.body[:len(c.magic)]) == c.magic {
				other = c.name
			}
		}
		if p.flags&oggFirst == 0 {
			break
		}
		s.take(p.size)
	}
	return nil, media.Errorf(media.Unsupported, "audio: ogg: %s is not read here", other)
}

// lastGranule finds the granule of the last page of a stream, -1 when there is none: near the end
// of the file, or by going through all pages when the end belongs to something else.
func lastGranule(s *source, serial uint32, info *Info) int64 {
	first := s.pos
	defer s.seek(first)
	from := max(first, s.size-128<<10)
	s.seek(from)
	tail, _ := s.peek(int(s.size - from))
	for i, tries := len(tail)-27, 0; i >= 0 && tries < 64; i-- {
		if tail[i] != 'O' || string(tail[i:i+4]) != "OggS" {
			continue
		}
		tries++
		g, size := wholePage(tail[i:], serial)
		if size == 0 || g < 0 {
			continue
		}
		if rest := len(tail) - i - size; rest > 0 {
			info.note("%d bytes behind the stream are left out", rest)
		}
		return g
	}
	info.note("other streams behind the first are left out")
	if !s.deep && s.size-first > scanBytes {
		return -1
	}
	s.seek(first)
	last := int64(-1)
	for {
		p, err := readPage(s)
		if err != nil {
			return last
		}
		if p.serial == serial && p.granule >= 0 {
			last = p.granule
		}
		s.take(p.size)
	}
}

// wholePage reports the granule and the size of the page at the start of b; size is 0 when it
// is damaged or of another stream.
func wholePage(b []byte, serial uint32) (granule int64, size int) {
	if binary.LittleEndian.Uint32(b[14:]) != serial || len(b) < 27+int(b[26]) {
		return 0, 0
	}
	size = 27 + int(b[26])
	for _, l := range b[27:size] {
		size += int(l)
	}
	if len(b) < size || oggSum(b[:size]) != binary.LittleEndian.Uint32(b[22:]) && !ignoreSums {
		return 0, 0
	}
	return int64(binary.LittleEndian.Uint64(b[6:])), size
}
