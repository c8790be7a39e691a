package imagefile

import (
	"bytes"
	"hash/crc32"
	"image"
	"image/png"
	"math"

	"github.com/mmserve/mmserve/modality/media"
)

// pngChunks bounds the chunks walked: a real file has one for every few kilobytes.
const pngChunks = 1 << 17

// pngConfig reads IHDR and walks the chunk headers: how much data there is, whether there is a
// colour profile, EXIF or an animation.
func pngConfig(s *source) (Config, error) {
	p, err := s.read(8, 25)
	if err != nil {
		return Config{}, err
	}
	if be32(p) != 13 || string(p[4:8]) != "IHDR" {
		return Config{}, s.errorf(media.Malformed, "no IHDR chunk first")
	}
	if crc32.ChecksumIEEE(p[4:21]) != uint32(be32(p[21:])) {
		return Config{}, s.errorf(media.Malformed, "IHDR checksum")
	}
	w, h, depth, kind := be32(p[8:]), be32(p[12:]), int(p[16]), int(p[17])
	if w < 0 || h < 0 || w > math.MaxInt32 || h > math.MaxInt32 {
		return Config{}, s.errorf(media.Malformed, "sides %d×%d", w, h)
	}
	samples := map[int]int{0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
	if samples == 0 || !pngDepth(kind, depth) {
		return Config{}, s.errorf(media.Malformed, "colour type %d of %d bits", kind, depth)
	}
	held := int64(4) // the decoder's own pixels and ours, unless they are the same
	switch {
	case depth == 16:
		held = 12
	case kind == 0 || kind == 3:
		held = 5
	case kind == 4:
		held = 4
	}
	if err := s.l.Picture(s.what, int64(w), int64(h), held); err != nil {
		return Config{}, err
	}
	c := Config{Width: w, Height: h, DecodedBytes: held * int64(w) * int64(h)}
	if depth == 16 {
		c.Notes = append(c.Notes, "16 bits a channel cut to 8")
	}
	if p[20] != 0 && p[20] != 1 {
		return c, s.errorf(media.Malformed, "interlace method %d", p[20])
	}
	data, err := s.pngWalk(&c)
	if err != nil {
		return c, err
	}
	raw := (int64(w)*int64(samples*depth)+7)/8*int64(h) + int64(h)
	return c, s.plausible(raw, data, 1032, int64(w)*int64(h))
}

func pngDepth(kind, depth int) bool {
	switch depth {
	case 8:
		return true
	case 16:
		return kind != 3
	case 1, 2, 4:
		return kind == 0 || kind == 3
	}
	return false
}

// pngWalk visits the chunks after IHDR and returns the bytes of image data.
func (s *source) pngWalk(c *Config) (data int64, err error) {
	at := int64(33)
	for range pngChunks {
		p, err := s.read(at, 8)
		if err != nil {
			if data > 0 && !s.whole {
				return data, nil
			}
			return 0, err
		}
		n, kind := int64(uint32(be32(p))), string(p[4:8])
		if n > math.MaxInt32 {
			return 0, s.errorf(media.Malformed, "chunk of %d bytes", n)
		}
		if kind == "IEND" {
			return data, nil
		}
		if s.whole && at+12+n > s.size {
			return 0, s.errorf(media.Truncated, "%q chunk of %d bytes at offset %d of %d", kind, n, at, s.size)
		}
		switch kind {
		case "IDAT":
			data += n
		case "iCCP":
			c.Notes = append(c.Notes, noteICC)
		case "acTL":
			c.Notes = append(c.Notes, "animated PNG: the still picture only")
		case "eXIf":
			if body, err := s.read(at+8, int(min(n, 64<<10))); err == nil {
				c.Orientation = exifOrientation(body)
			}
		}
		at += 12 + n
	}
	return 0, s.errorf(media.TooLarge, "more than %d chunks", pngChunks)
}

func pngDecode(s *source, c Config) (*image.NRGBA, error) {
	img, err := png.Decode(s.reader())
	if err != nil {
		return nil, err
	}
	return toNRGBA(s.ctx, img)
}

// EncodePNG writes a picture as PNG.
func EncodePNG(img *image.NRGBA) ([]byte, error) {
	var b bytes.Buffer
	err := png.Encode(&b, img)
	return b.Bytes(), err
}
