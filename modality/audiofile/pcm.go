package audiofile

import (
	"encoding/binary"
	"io"
	"math"
)

// encoding is how one sample is stored: its bytes, and the loop that reads them.
type encoding struct {
	name  string
	bytes int
	read  func(dst []float32, src []byte)
}

// pcm chooses an encoding of integers: size bytes a sample, full scale 1.0 at -2^(8·size-1).
func pcm(size int, order binary.ByteOrder, unsigned8 bool) (encoding, bool) {
	end := "le"
	big := order == binary.BigEndian
	if big {
		end = "be"
	}
	switch {
	case size == 1 && unsigned8:
		return encoding{"pcm_u8", 1, readU8}, true
	case size == 1:
		return encoding{"pcm_s8", 1, readS8}, true
	case size == 2:
		return encoding{"pcm_s16" + end, 2, pick(big, readS16BE, readS16LE)}, true
	case size == 3:
		return encoding{"pcm_s24" + end, 3, pick(big, readS24BE, readS24LE)}, true
	case size == 4:
		return encoding{"pcm_s32" + end, 4, pick(big, readS32BE, readS32LE)}, true
	}
	return encoding{}, false
}

// float chooses an encoding of floats, which are taken as they are.
func float(size int, order binary.ByteOrder) (encoding, bool) {
	end := "le"
	big := order == binary.BigEndian
	if big {
		end = "be"
	}
	switch size {
	case 4:
		return encoding{"pcm_f32" + end, 4, pick(big, readF32BE, readF32LE)}, true
	case 8:
		return encoding{"pcm_f64" + end, 8, pick(big, readF64BE, readF64LE)}, true
	}
	return encoding{}, false
}

func pick(big bool, be, le func([]float32, []byte)) func([]float32, []byte) {
	if big {
		return be
	}
	return le
}

var (
	muLaw   = encoding{"pcm_mulaw", 1, readMuLaw}
	aLaw    = encoding{"pcm_alaw", 1, readALaw}
	low24LE = encoding{"pcm_s24le_in_32", 4, readLow24LE} // 24 bits in the low three of four bytes
)

func readU8(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = float32(int(src[i])-128) / 128
	}
}

func readS8(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = float32(int8(src[i])) / 128
	}
}

func readS16LE(dst []float32, src []byte) {
	src = src[:2*len(dst)]
	for i := range dst {
		dst[i] = float32(int16(binary.LittleEndian.Uint16(src[2*i:]))) / (1 << 15)
	}
}

func readS16BE(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = float32(int16(binary.BigEndian.Uint16(src[2*i:]))) / (1 << 15)
	}
}

func readS24LE(dst []float32, src []byte) {
	for i := range dst {
		b := src[3*i : 3*i+3]
		dst[i] = float32(int32(uint32(b[0])<<8|uint32(b[1])<<16|uint32(b[2])<<24)) / (1 << 31)
	}
}

func readS24BE(dst []float32, src []byte) {
	for i := range dst {
		b := src[3*i : 3*i+3]
		dst[i] = float32(int32(uint32(b[2])<<8|uint32(b[1])<<16|uint32(b[0])<<24)) / (1 << 31)
	}
}

func readLow24LE(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = float32(int32(binary.LittleEndian.Uint32(src[4*i:])<<8)) / (1 << 31)
	}
}

func readS32LE(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = float32(float64(int32(binary.LittleEndian.Uint32(src[4*i:]))) / (1 << 31))
	}
}

func readS32BE(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = float32(float64(int32(binary.BigEndian.Uint32(src[4*i:]))) / (1 << 31))
	}
}

func readF32LE(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
	}
}

func readF32BE(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = math.Float32frombits(binary.BigEndian.Uint32(src[4*i:]))
	}
}

func readF64LE(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = float32(math.Float64frombits(binary.LittleEndian.Uint64(src[8*i:])))
	}
}

func readF64BE(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = float32(math.Float64frombits(binary.BigEndian.Uint64(src[8*i:])))
	}
}

// readMuLaw expands ITU-T G.711 µ-law.
func readMuLaw(dst []float32, src []byte) {
	for i := range dst {
		u := ^src[i]
		v := ((int32(u&0xf)<<3 + 0x84) << (u >> 4 & 7)) - 0x84
		if u&0x80 != 0 {
			v = -v
		}
		dst[i] = float32(v) / (1 << 15)
	}
}

// readALaw expands ITU-T G.711 A-law.
func readALaw(dst []float32, src []byte) {
	for i := range dst {
		a := src[i] ^ 0x55
		v := int32(a&0xf)<<4 + 8
		if seg := a >> 4 & 7; seg > 0 {
			v = (v + 0x100) << (seg - 1)
		}
		if a&0x80 == 0 {
			v = -v
		}
		dst[i] = float32(v) / (1 << 15)
	}
}

// pcmDecoder reads samples that lie one after the other.
type pcmDecoder struct {
	src      *source
	enc      encoding
	channels int
	left     int64 // frames; -1: to the end of the file
}

func (d *pcmDecoder) decode(dst []float32) (int, error) {
	frame := d.enc.bytes * d.channels
	n := min(len(dst)/d.channels, max(1, bufferBytes/frame))
	if d.left >= 0 {
		n = int(min(int64(n), d.left))
	}
	if n == 0 {
		return 0, io.EOF
	}
	b, err := d.src.peek(n * frame)
	if err != nil && err != io.ErrUnexpectedEOF {
		return 0, err
	}
	if n = len(b) / frame; n == 0 {
		return 0, io.EOF
	}
	d.enc.read(dst[:n*d.channels], b[:n*frame])
	d.src.take(n * frame)
	if d.left >= 0 {
		d.left -= int64(n)
	}
	return n, nil
}
