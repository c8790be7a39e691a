package audiofile

import (
	"encoding/binary"
	"errors"
	"io"

	"github.com/mmserve/mmserve/modality/media"
)

// errTooLong says that a frame did not end within the longest one the format allows.
var errTooLong = errors.New("frame does not end")

// maxFLACFrame is above the longest frame: 65536 samples of 8 channels, stored as they are.
const maxFLACFrame = 4 << 20

func isFLAC(head []byte) bool {
	if n := id3Length(head); n > 0 && n+4 <= len(head) {
		head = head[n:]
	}
	return len(head) >= 4 && string(head[:4]) == "fLaC"
}

// flacDecoder reads a FLAC stream (RFC 9639) frame by frame.
type flacDecoder struct {
	src     *source
	info    *Info
	bits    int   // of a sample, where a frame does not say
	left    int64 // frames still to deliver; -1: to the end
	header  flacHeader
	samples [][]int64 // one slice a channel, the block being delivered
	next    int       // first sample of it not yet delivered
	br      bitReader
}

func openFLAC(s *source, info *Info) (decoder, error) {
	info.MediaType, info.Codec = "audio/flac", "flac"
	if head, _ := s.peek(10); id3Length(head) > 0 {
		if err := s.skip(int64(id3Length(head))); err != nil {
			return nil, err
		}
	}
	s.take(4)
	d := &flacDecoder{src: s, info: info, left: -1}
	for first := true; ; first = false {
		var h [4]byte
		if err := s.full(h[:]); err != nil {
			return nil, err
		}
		size := int64(h[1])<<16 | int64(h[2])<<8 | int64(h[3])
		if kind := h[0] & 0x7f; first != (kind == 0) || kind == 127 {
			return nil, media.Errorf(media.Malformed, "audio: flac: metadata block of type %d", kind)
		}
		if first {
			if err := d.streamInfo(size); err != nil {
				return nil, err
			}
		} else if err := s.skip(size); err != nil {
			return nil, err
		}
		if h[0]&0x80 != 0 {
			break
		}
	}
	return d, d.length()
}

func (d *flacDecoder) streamInfo(size int64) error {
	var b [34]byte
	if size != 34 {
		return media.Errorf(media.Malformed, "audio: flac: stream info of %d bytes", size)
	}
	if err := d.src.full(b[:]); err != nil {
		return err
	}
	v := binary.BigEndian.Uint64(b[10:])
	d.info.Rate = int(v >> 44)
	d.info.Channels = int(v>>41&7) + 1
	d.bits = int(v>>36&31) + 1
	if total := int64(v & (1<<36 - 1)); total > 0 {
		d.info.Frames, d.info.Exact, d.left = total, true, total
	}
	return nil
}

// length finishes the header: a file that holds no frame is refused, and where the stream info
// leaves the number of samples open, the last frame of the file tells it.
func (d *flacDecoder) length() error {
	b, err := d.src.peek(maxFLACHeader)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	if len(b) == 0 {
		return media.Errorf(media.Truncated, "audio: flac: ends before its samples")
	}
	if d.info.Frames >= 0 || !d.src.random() {
		return nil
	}
	first := d.src.pos
	defer d.src.seek(first)
	from := max(first, d.src.size-256<<10)
	d.src.seek(from)
	tail, _ := d.src.peek(int(d.src.size - from))
	for i := len(tail) - 6; i >= 0; i-- {
		h, _, ok := readFLACHeader(tail[i:])
		if ok && h.channels == d.info.Channels && (h.rate == 0 || h.rate == d.info.Rate) {
			d.info.Frames, d.info.Exact = h.end(d.fixedBlock(first)), true
			d.info.note("length taken from the last frame")
			return nil
		}
	}
	return nil
}

// fixedBlock is the block size that frame numbers count in: that of the first frame.
func (d *flacDecoder) fixedBlock(first int64) int {
	d.src.seek(first)
	b, _ := d.src.peek(maxFLACHeader)
	h, _, _ := readFLACHeader(b)
	return h.block
}

func (d *flacDecoder) decode(dst []float32) (int, error) {
	if d.left == 0 {
		return 0, io.EOF
	}
	if len(d.samples) == 0 || d.next == len(d.samples[0]) {
		if err := d.frame(); err != nil {
			return 0, err
		}
	}
	c := len(d.samples)
	n := min(len(dst)/c, len(d.samples[0])-d.next)
	if d.left > 0 {
		n = int(min(int64(n), d.left))
		d.left -= int64(n)
	}
	scale := 1 / float64(int64(1)<<(d.header.bits-1))
	for ch, x := range d.samples {
		x = x[d.next : d.next+n]
		for i, v := range x {
			dst[i*c+ch] = float32(float64(v) * scale)
		}
	}
	d.next += n
	return n, nil
}

// frame decodes the next frame into samples.
func (d *flacDecoder) frame() error {
	b, err := d.src.peek(maxFLACHeader)
	switch {
	case err != nil && !errors.Is(err, io.ErrUnexpectedEOF):
		return err
	case len(b) == 0 || d.trailer(b):
		if d.left > 0 {
			return media.Errorf(media.Truncated, "audio: flac: ends %d samples before its announced length", d.left)
		}
		return io.EOF
	}
	h, n, ok := readFLACHeader(b)
	if !ok {
		if len(b) < maxFLACHeader {
			return io.ErrUnexpectedEOF
		}
		return media.Errorf(media.Malformed, "audio: flac: no frame at byte %d", d.src.pos)
	}
	if h.bits == 0 {
		h.bits = d.bits
	}
	if h.channels != d.info.Channels || h.rate != 0 && h.rate != d.info.Rate {
		return media.Errorf(media.Malformed, "audio: flac: frame of %d channels at %d Hz in a stream of %d at %d", h.channels, h.rate, d.info.Channels, d.info.Rate)
	}
	d.header = h
	return d.body(n)
}

// trailer reports an ID3v1 or APE tag behind the frames.
func (d *flacDecoder) trailer(b []byte) bool {
	return len(b) >= 8 && (string(b[:3]) == "TAG" || string(b[:8]) == "APETAGEX") || len(b) >= 3 && allZero(b)
}

func allZero(b []byte) bool {
	for _, v := range b {
		if v != 0 {
			return false
		}
	}
	return true
}

// body decodes the subframes behind a header of n bytes and checks the frame's sum.
func (d *flacDecoder) body(n int) error {
	d.next = 0
	if len(d.samples) != d.header.channels {
		d.samples = make([][]int64, d.header.channels)
	}
	b := &d.br
	b.start(d.src, maxFLACFrame)
	for range n {
		b.read(8)
	}
	for ch := range d.samples {
		if cap(d.samples[ch]) < d.header.block {
			d.samples[ch] = make([]int64, d.header.block)
		}
		d.samples[ch] = d.samples[ch][:d.header.block]
		if err := readSubframe(b, d.samples[ch], d.header.width(ch)); err != nil {
			return err
		}
	}
	end := b.align()
	b.read(16)
	if err := b.err(); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return media.Errorf(media.Truncated, "audio: flac: ends within a frame")
		}
		return err
	}
	if crc16(b.win[:end]) != binary.BigEndian.Uint16(b.win[end:]) && !ignoreSums {
		return media.Errorf(media.Malformed, "audio: flac: checksum of the frame at byte %d", d.src.pos)
	}
	d.src.take(end + 2)
	d.header.decorrelate(d.samples)
	return nil
}
