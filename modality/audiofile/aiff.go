package audiofile

import (
	"encoding/binary"
	"math"

	"github.com/mmserve/mmserve/modality/media"
)

func isAIFF(head []byte) bool {
	return len(head) >= 12 && string(head[:4]) == "FORM" && (string(head[8:12]) == "AIFF" || string(head[8:12]) == "AIFC")
}

// aiffCommon is the COMM chunk.
type aiffCommon struct {
	channels int
	frames   int64
	bits     int
	rate     float64
	codec    string // AIFC's compression type, "NONE" for plain AIFF
}

func openAIFF(s *source, info *Info) (decoder, error) {
	info.MediaType = "audio/aiff"
	s.take(12)
	var common *aiffCommon
	for range maxChunks {
		var h [8]byte
		if err := s.full(h[:]); err != nil {
			return nil, err
		}
		size := int64(binary.BigEndian.Uint32(h[4:]))
		switch string(h[:4]) {
		case "COMM":
			b := make([]byte, min(size, 22))
			if err := s.full(b); err != nil {
				return nil, err
			}
			if common = readCommon(b); common == nil {
				return nil, media.Errorf(media.Malformed, "audio: aiff: common chunk of %d bytes", size)
			}
			size -= int64(len(b)) - size&1
		case "SSND":
			if common == nil {
				return nil, media.Errorf(media.Malformed, "audio: aiff: samples before their format")
			}
			return common.open(s, info)
		default:
			size += size & 1
		}
		if err := s.skip(size); err != nil {
			return nil, err
		}
	}
	return nil, media.Errorf(media.Malformed, "audio: aiff: no samples within %d chunks", maxChunks)
}

func readCommon(b []byte) *aiffCommon {
	if len(b) < 18 {
		return nil
	}
	c := &aiffCommon{
		channels: int(binary.BigEndian.Uint16(b)),
		frames:   int64(binary.BigEndian.Uint32(b[2:])),
		bits:     int(binary.BigEndian.Uint16(b[6:])),
		rate:     extended(b[8:18]),
		codec:    "NONE",
	}
	if len(b) >= 22 {
		c.codec = string(b[18:22])
	}
	return c
}

// extended reads an 80-bit float.
func extended(b []byte) float64 {
	e := int(binary.BigEndian.Uint16(b)) & 0x7fff
	return math.Ldexp(float64(binary.BigEndian.Uint64(b[2:])), e-16383-63)
}

func (c *aiffCommon) open(s *source, info *Info) (decoder, error) {
	var h [8]byte
	if err := s.full(h[:]); err != nil {
		return nil, err
	}
	if err := s.skip(int64(binary.BigEndian.Uint32(h[:]))); err != nil {
		return nil, err
	}
	if !(c.rate >= 1 && c.rate < 1<<31) || c.channels == 0 {
		return nil, media.Errorf(media.Malformed, "audio: aiff: %d channels at %g Hz", c.channels, c.rate)
	}
	enc, ok := c.encoding()
	if !ok {
		return nil, media.Errorf(media.Unsupported, "audio: aiff: codec %q with %d bits", c.codec, c.bits)
	}
	info.Codec, info.Rate, info.Channels = enc.name, int(math.Round(c.rate)), c.channels
	info.Frames, info.Exact = c.frames, true
	if have := s.left(); have >= 0 && have/int64(enc.bytes*c.channels) < c.frames {
		info.Frames = have / int64(enc.bytes*c.channels)
		info.note("claims %d frames, holds %d", c.frames, info.Frames)
	}
	return &pcmDecoder{src: s, enc: enc, channels: c.channels, left: info.Frames}, nil
}

func (c *aiffCommon) encoding() (encoding, bool) {
	switch c.codec {
	case "NONE", "twos":
		return pcm((c.bits+7)/8, binary.BigEndian, false)
	case "sowt":
		return pcm((c.bits+7)/8, binary.LittleEndian, false)
	case "fl32", "FL32":
		return float(4, binary.BigEndian)
	case "fl64", "FL64":
		return float(8, binary.BigEndian)
	case "ulaw", "ULAW":
		return muLaw, true
	case "alaw", "ALAW":
		return aLaw, true
	}
	return encoding{}, false
}
