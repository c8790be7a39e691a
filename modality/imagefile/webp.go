package imagefile

import (
	"bytes"
	"image"
	"io"

	"golang.org/x/image/webp"

	"github.com/mmserve/mmserve/modality/media"
)

// webpChunks bounds the chunks walked.
const webpChunks = 1 << 16

// webpConfig reads the canvas size and walks the chunks for the picture's data.
func webpConfig(s *source) (Config, error) {
	var c Config
	at, canvas, found := int64(12), false, false
	for range webpChunks {
		if at+8 > s.size && s.whole {
			break
		}
		p, err := s.read(at, 8)
		if err != nil {
			return c, err
		}
		kind, n := string(p[:4]), int64(uint32(le32(p[4:])))
		switch kind {
		case "VP8X":
			if p, err = s.read(at+8, 10); err != nil {
				return c, err
			}
			c.Width, c.Height, canvas = 1+le24(p[4:]), 1+le24(p[7:]), true
			if p[0]&0x20 != 0 {
				c.Notes = append(c.Notes, noteICC)
			}
		case "VP8 ", "VP8L":
			w, h, err := s.webpSize(kind, at+8)
			if err != nil {
				return c, err
			}
			if canvas && (w != c.Width || h != c.Height) {
				return c, s.errorf(media.Malformed, "canvas of %d×%d, picture of %d×%d", c.Width, c.Height, w, h)
			}
			c.Width, c.Height, found = w, h, true
			if s.whole && at+8+n > s.size {
				return c, s.errorf(media.Truncated, "%q chunk of %d bytes at offset %d of %d", kind, n, at, s.size)
			}
		case "EXIF":
			if body, err := s.read(at+8, int(min(n, 64<<10))); err == nil {
				c.Orientation = exifOrientation(body)
			}
		case "ANMF":
			c.Frames++
			if err := media.Check(s.what+": frames", s.l.Frames, c.Frames); err != nil {
				return c, err
			}
		}
		if at += 8 + n + n&1; found && !canvas || !s.whole && at > s.size {
			break // a simple file holds one chunk
		}
	}
	if c.Width == 0 {
		return c, s.errorf(media.Truncated, "no picture")
	}
	held := int64(4 + 4 + 4)
	if err := s.l.Picture(s.what, int64(c.Width), int64(c.Height), held); err != nil {
		return c, err
	}
	c.DecodedBytes = held * int64(c.Width) * int64(c.Height)
	switch {
	case c.Frames > 0:
		return c, s.errorf(media.Unsupported, "animation of %d frames", c.Frames)
	case !found && s.whole:
		return c, s.errorf(media.Truncated, "a canvas of %d×%d and no picture", c.Width, c.Height)
	}
	return c, s.plausible(0, s.size, 1, int64(c.Width)*int64(c.Height))
}

// webpSize reads the size from a picture chunk's own header.
func (s *source) webpSize(kind string, at int64) (w, h int, err error) {
	if kind == "VP8L" {
		p, err := s.read(at, 5)
		if err != nil {
			return 0, 0, err
		}
		if p[0] != 0x2F {
			return 0, 0, s.errorf(media.Malformed, "lossless signature")
		}
		v := le32(p[1:])
		return 1 + v&0x3FFF, 1 + v>>14&0x3FFF, nil
	}
	p, err := s.read(at, 10)
	if err != nil {
		return 0, 0, err
	}
	if !has(p, 3, "\x9d\x01\x2a") {
		return 0, 0, s.errorf(media.Malformed, "lossy signature")
	}
	return le16(p[6:]) & 0x3FFF, le16(p[8:]) & 0x3FFF, nil
}

func le24(p []byte) int { return int(p[0]) | int(p[1])<<8 | int(p[2])<<16 }

func webpDecode(s *source, c Config) (*image.NRGBA, error) {
	// The size in the RIFF header is put right: it adds nothing to the chunks' own.
	head, err := s.read(0, 12)
	if err != nil {
		return nil, err
	}
	n := uint32(s.size - 8)
	copy(head[4:], []byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)})
	img, err := webp.Decode(io.MultiReader(bytes.NewReader(head), skipping(s.reader(), 12)))
	if err != nil {
		return nil, err
	}
	if m, ok := img.(*image.YCbCr); ok { // the same colours, and not a JPEG's
		img = &image.NYCbCrA{YCbCr: *m}
	}
	return toNRGBA(s.ctx, img)
}
