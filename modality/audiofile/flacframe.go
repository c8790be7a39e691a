package audiofile

import (
	"encoding/binary"
	"math/bits"

	"github.com/mmserve/mmserve/modality/media"
)

// maxFLACHeader is the longest header of a frame, in bytes.
const maxFLACHeader = 16

// flacHeader is the header of a frame.
type flacHeader struct {
	variable bool // number counts samples; otherwise frames
	block    int  // samples per channel
	rate     int  // 0: as in the stream info
	channels int
	stereo   uint8 // 8 left+side, 9 side+right, 10 mid+side, otherwise plain
	bits     int   // 0: as in the stream info
	number   uint64
}

var (
	flacRates = [12]int{0, 88200, 176400, 192000, 8000, 16000, 22050, 24000, 32000, 44100, 48000, 96000}
	flacBits  = [8]int{0, 8, 12, -1, 16, 20, 24, 32}
)

// readFLACHeader reads the header of a frame at the start of b and returns its length.
func readFLACHeader(b []byte) (h flacHeader, n int, ok bool) {
	if len(b) < 6 || b[0] != 0xff || b[1]&0xfe != 0xf8 {
		return h, 0, false
	}
	h.variable = b[1]&1 == 1
	blockCode, rateCode, channelCode, bitsCode := b[2]>>4, b[2]&15, b[3]>>4, b[3]>>1&7
	if blockCode == 0 || rateCode == 15 || channelCode > 10 || bitsCode == 3 || b[3]&1 != 0 {
		return h, 0, false
	}
	h.stereo, h.channels, h.bits = channelCode, int(channelCode)+1, flacBits[bitsCode]
	if channelCode >= 8 {
		h.channels = 2
	}
	h.number, n, ok = codedNumber(b[4:])
	n += 4
	need := n + 1 + extraBytes(blockCode == 6, blockCode == 7) + extraBytes(rateCode == 12, rateCode == 13 || rateCode == 14)
	if !ok || len(b) < need {
		return h, 0, false
	}
	h.block, n = flacBlock(blockCode, b, n)
	h.rate, n = flacRate(rateCode, b, n)
	return h, n + 1, crc8(b[:n]) == b[n] || ignoreSums
}

func extraBytes(one, two bool) int {
	switch {
	case one:
		return 1
	case two:
		return 2
	}
	return 0
}

func flacBlock(code byte, b []byte, n int) (block, next int) {
	switch {
	case code == 1:
		return 192, n
	case code <= 5:
		return 576 << (code - 2), n
	case code == 6:
		return int(b[n]) + 1, n + 1
	case code == 7:
		return int(binary.BigEndian.Uint16(b[n:])) + 1, n + 2
	}
	return 256 << (code - 8), n
}

func flacRate(code byte, b []byte, n int) (rate, next int) {
	switch code {
	case 12:
		return int(b[n]) * 1000, n + 1
	case 13:
		return int(binary.BigEndian.Uint16(b[n:])), n + 2
	case 14:
		return int(binary.BigEndian.Uint16(b[n:])) * 10, n + 2
	}
	return flacRates[code], n
}

// codedNumber reads a number written as UTF-8 would write it, of up to 36 bits.
func codedNumber(b []byte) (v uint64, n int, ok bool) {
	ones := bits.LeadingZeros8(^b[0])
	if ones == 0 {
		return uint64(b[0]), 1, true
	}
	if ones == 1 || ones == 8 || len(b) < ones {
		return 0, 0, false
	}
	v = uint64(b[0]) & (0x7f >> ones)
	for _, c := range b[1:ones] {
		if c&0xc0 != 0x80 {
			return 0, 0, false
		}
		v = v<<6 | uint64(c&0x3f)
	}
	return v, ones, true
}

// end is the number of samples up to and with this frame, first being the fixed block size.
func (h flacHeader) end(first int) int64 {
	if h.variable {
		return int64(h.number) + int64(h.block)
	}
	return int64(h.number)*int64(first) + int64(h.block)
}

// width is the bits of a sample of channel ch: differences need one more.
func (h flacHeader) width(ch int) uint {
	if h.stereo == 9 && ch == 0 || (h.stereo == 8 || h.stereo == 10) && ch == 1 {
		return uint(h.bits) + 1
	}
	return uint(h.bits)
}

// decorrelate turns sums and differences back into channels.
func (h flacHeader) decorrelate(x [][]int64) {
	switch h.stereo {
	case 8:
		for i, l := range x[0] {
			x[1][i] = l - x[1][i]
		}
	case 9:
		for i, r := range x[1] {
			x[0][i] += r
		}
	case 10:
		for i, m := range x[0] {
			s := x[1][i]
			m = m<<1 | s&1
			x[0][i], x[1][i] = (m+s)>>1, (m-s)>>1
		}
	}
}

// readSubframe decodes the samples of one channel, width bits each.
func readSubframe(b *bitReader, x []int64, width uint) error {
	if b.read(1) != 0 {
		return media.Errorf(media.Malformed, "audio: flac: subframe does not start with a zero")
	}
	kind, wasted := int(b.read(6)), uint64(0)
	if b.read(1) == 1 {
		wasted = b.unary() + 1
	}
	if wasted >= uint64(width) {
		return media.Errorf(media.Malformed, "audio: flac: %d of %d bits wasted", wasted, width)
	}
	width -= uint(wasted)
	if err := readPrediction(b, x, width, kind); err != nil {
		return err
	}
	if wasted > 0 {
		for i := range x {
			x[i] <<= wasted
		}
	}
	return nil
}

func readPrediction(b *bitReader, x []int64, width uint, kind int) error {
	switch {
	case kind == 0:
		v := b.signed(width)
		for i := range x {
			x[i] = v
		}
	case kind == 1:
		for i := range x {
			x[i] = b.signed(width)
		}
	case kind >= 8 && kind <= 12:
		return readFixed(b, x, width, kind-8)
	case kind >= 32:
		return readLinear(b, x, width, kind-31)
	default:
		return media.Errorf(media.Malformed, "audio: flac: subframe of type %d", kind)
	}
	return nil
}

func readFixed(b *bitReader, x []int64, width uint, order int) error {
	if err := readResidual(b, x, width, order); err != nil {
		return err
	}
	for i := order; i < len(x); i++ {
		switch order {
		case 1:
			x[i] += x[i-1]
		case 2:
			x[i] += 2*x[i-1] - x[i-2]
		case 3:
			x[i] += 3*x[i-1] - 3*x[i-2] + x[i-3]
		case 4:
			x[i] += 4*x[i-1] - 6*x[i-2] + 4*x[i-3] - x[i-4]
		}
	}
	return nil
}

func readLinear(b *bitReader, x []int64, width uint, order int) error {
	if order > len(x) {
		return media.Errorf(media.Malformed, "audio: flac: order %d in a block of %d", order, len(x))
	}
	for i := range order {
		x[i] = b.signed(width)
	}
	precision := uint(b.read(4)) + 1
	shift := b.signed(5)
	if precision == 16 || shift < 0 {
		return media.Errorf(media.Malformed, "audio: flac: predictor of %d bits, shift %d", precision, shift)
	}
	var coef [32]int64
	for i := range order {
		coef[order-1-i] = b.signed(precision)
	}
	if err := readRice(b, x, order); err != nil {
		return err
	}
	c := coef[:order]
	for i := order; i < len(x); i++ {
		sum := int64(0)
		past := x[i-order : i]
		past = past[:len(c)]
		for j, v := range c {
			sum += v * past[j]
		}
		x[i] += sum >> uint(shift)
	}
	return nil
}

// readResidual reads order plain samples and the residuals that follow.
func readResidual(b *bitReader, x []int64, width uint, order int) error {
	if order > len(x) {
		return media.Errorf(media.Malformed, "audio: flac: order %d in a block of %d", order, len(x))
	}
	for i := range order {
		x[i] = b.signed(width)
	}
	return readRice(b, x, order)
}

// readRice reads the residuals x[order:].
func readRice(b *bitReader, x []int64, order int) error {
	method, parts := b.read(2), uint(b.read(4))
	per := len(x) >> parts
	if method > 1 || per<<parts != len(x) || per < order {
		return media.Errorf(media.Malformed, "audio: flac: residual coding %d, 2^%d partitions of %d samples", method, parts, len(x))
	}
	paramBits := uint(4 + method)
	for p := range 1 << parts {
		from := p * per
		if p == 0 {
			from = order
		}
		readPartition(b, x[from:(p+1)*per], paramBits)
		if err := b.err(); err != nil {
			return err
		}
	}
	return nil
}

func readPartition(b *bitReader, x []int64, paramBits uint) {
	k := uint(b.read(paramBits))
	if k == 1<<paramBits-1 {
		k = uint(b.read(5))
		for i := range x {
			x[i] = b.signed(k)
		}
		return
	}
	for i := range x {
		q := b.unary()
		v := q<<k | b.read(k)
		x[i] = int64(v>>1) ^ -int64(v&1)
		if b.short != nil && b.err() != nil {
			return
		}
	}
}

// ignoreSums is for fuzzing only.
var ignoreSums bool

var crc8Table, crc16Table = makeCRC()

func makeCRC() (t8 [256]uint8, t16 [256]uint16) {
	for i := range 256 {
		a, c := uint8(i), uint16(i)<<8
		for range 8 {
			a = a<<1 ^ 0x07*(a>>7)
			c = c<<1 ^ 0x8005*(c>>15)
		}
		t8[i], t16[i] = a, c
	}
	return t8, t16
}

func crc8(b []byte) (c uint8) {
	for _, v := range b {
		c = crc8Table[c^v]
	}
	return c
}

func crc16(b []byte) (c uint16) {
	for _, v := range b {
		c = c<<8 ^ crc16Table[byte(c>>8)^v]
	}
	return c
}
