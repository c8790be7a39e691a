package audiofile

import (
	"encoding/binary"
	"errors"
	"io"

	"github.com/mmserve/mmserve/modality/media"
)

// The format tags of WAVE files that are read.
const (
	tagPCM        = 1
	tagFloat      = 3
	tagALaw       = 6
	tagMuLaw      = 7
	tagExtensible = 0xfffe
)

// maxChunks is how many chunks may precede the samples.
const maxChunks = 1024

func isWAV(head []byte) bool {
	if len(head) < 12 || string(head[8:12]) != "WAVE" {
		return false
	}
	switch string(head[:4]) {
	case "RIFF", "RIFX", "RF64", "BW64":
		return true
	}
	return false
}

// waveFormat is the "fmt " chunk.
type waveFormat struct {
	tag      uint16
	channels int
	rate     int
	align    int // bytes of a frame, 0 where the file does not say
	bits     int // of a sample, as stored
	valid    int // of which used; 0: all
}

// wave is the state of walking a RIFF file.
type wave struct {
	src    *source
	info   *Info
	order  binary.ByteOrder
	format *waveFormat
	long   uint64 // size of the samples from RF64's ds64 chunk, 0 when there is none
}

func openWAV(s *source, info *Info) (decoder, error) {
	info.MediaType = "audio/wav"
	w := wave{src: s, info: info, order: binary.LittleEndian}
	head, _ := s.peek(12)
	if string(head[:4]) == "RIFX" {
		w.order = binary.BigEndian
	}
	s.take(12)
	for range maxChunks {
		var h [8]byte
		if err := s.full(h[:]); err != nil {
			return nil, w.missing(err)
		}
		size := w.order.Uint32(h[4:])
		if string(h[:4]) == "data" {
			return w.data(size)
		}
		if err := w.chunk(string(h[:4]), size); err != nil {
			return nil, err
		}
	}
	return nil, media.Errorf(media.Malformed, "audio: wav: no samples within %d chunks", maxChunks)
}

// missing says what the file ended without.
func (w *wave) missing(err error) error {
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	if w.format == nil {
		return media.Errorf(media.Truncated, "audio: wav: ends before its format")
	}
	return media.Errorf(media.Truncated, "audio: wav: ends before its samples")
}

// chunk reads or passes one chunk before the samples, with its padding to an even size.
func (w *wave) chunk(id string, size uint32) error {
	used := int64(0)
	var err error
	switch id {
	case "fmt ":
		used, err = w.readFormat(size)
	case "ds64":
		used, err = w.readLong(size)
	}
	if err != nil {
		return err
	}
	return w.src.skip(int64(size) + int64(size&1) - used)
}

func (w *wave) readLong(size uint32) (int64, error) {
	var b [16]byte
	if size < 24 {
		return 0, media.Errorf(media.Malformed, "audio: wav: ds64 chunk of %d bytes", size)
	}
	if err := w.src.full(b[:]); err != nil {
		return 0, w.missing(err)
	}
	w.long = w.order.Uint64(b[8:])
	return 16, nil
}

func (w *wave) readFormat(size uint32) (int64, error) {
	if size < 14 || size > 64<<10 {
		return 0, media.Errorf(media.Malformed, "audio: wav: format chunk of %d bytes", size)
	}
	b := make([]byte, min(size, 40))
	if err := w.src.full(b); err != nil {
		return 0, w.missing(err)
	}
	f := &waveFormat{
		tag:      w.order.Uint16(b),
		channels: int(w.order.Uint16(b[2:])),
		rate:     int(w.order.Uint32(b[4:])),
		align:    int(w.order.Uint16(b[12:])),
	}
	if len(b) >= 16 {
		f.bits = int(w.order.Uint16(b[14:]))
	}
	if f.tag == tagExtensible {
		if len(b) < 26 {
			return 0, media.Errorf(media.Malformed, "audio: wav: extensible format of %d bytes", size)
		}
		f.valid = int(w.order.Uint16(b[18:]))
		f.tag = w.order.Uint16(b[24:])
	}
	w.format = f
	return int64(len(b)), nil
}

// data starts decoding at the first sample. size is what the chunk claims.
func (w *wave) data(size uint32) (decoder, error) {
	f := w.format
	if f == nil {
		return nil, media.Errorf(media.Malformed, "audio: wav: samples before their format")
	}
	w.info.Rate, w.info.Channels = f.rate, f.channels
	if f.channels == 0 || f.rate == 0 {
		return nil, media.Errorf(media.Malformed, "audio: wav: %d channels at %d Hz", f.channels, f.rate)
	}
	enc, err := w.encoding(f)
	if err != nil {
		return nil, err
	}
	w.info.Codec = enc.name
	d := &pcmDecoder{src: w.src, enc: enc, channels: f.channels, left: w.frames(size, int64(enc.bytes)*int64(f.channels))}
	w.info.Frames = d.left
	w.info.Exact = d.left >= 0
	return d, nil
}

// frames is how many frames there really are: what is claimed or what the file holds, whichever
// is less; -1 for a stream of unknown length.
func (w *wave) frames(size uint32, frame int64) int64 {
	claim, open := int64(size), size >= 0xffffff00
	if w.long > 0 && size == 0xffffffff {
		claim, open = int64(min(w.long, 1<<62)), false
	}
	have := w.src.left()
	switch {
	case open && have < 0:
		return -1
	case open:
		w.info.note("length left open by its writer")
		return have / frame
	case have >= 0 && have < claim:
		w.info.note("claims %d bytes of samples, holds %d", claim, have)
		return have / frame
	}
	return claim / frame
}

// encoding chooses how samples are read. The bytes of a sample follow from the size of a frame,
// the bits are a fallback: files with 24 bits in four bytes and with a frame size of 0 exist.
func (w *wave) encoding(f *waveFormat) (encoding, error) {
	size := (f.bits + 7) / 8
	if f.align > 0 && f.align%f.channels == 0 {
		size = f.align / f.channels
	} else {
		w.info.note("frame size of %d bytes for %d channels", f.align, f.channels)
	}
	var enc encoding
	ok := false
	switch f.tag {
	case tagPCM:
		enc, ok = pcm(size, w.order, true)
		if ok && size == 4 && (f.bits == 24 || f.valid == 24) && w.order == binary.LittleEndian && !w.leftJustified() {
			enc = low24LE
		}
	case tagFloat:
		enc, ok = float(size, w.order)
	case tagALaw:
		enc, ok = aLaw, size == 1
	case tagMuLaw:
		enc, ok = muLaw, size == 1
	default:
		return enc, media.Errorf(media.Unsupported, "audio: wav: codec 0x%04x", f.tag)
	}
	if !ok {
		return enc, media.Errorf(media.Unsupported, "audio: wav: codec 0x%04x with %d bits in %d bytes", f.tag, f.bits, size)
	}
	return enc, nil
}

// leftJustified tells the two ways of storing 24 bits in four bytes apart: by the standard the
// lowest byte is zero; some writers leave the highest one unused instead.
func (w *wave) leftJustified() bool {
	b, _ := w.src.peek(4096)
	for i := 0; i+4 <= len(b); i += 4 {
		if b[i] != 0 {
			return false
		}
	}
	return true
}
