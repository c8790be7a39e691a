package imagefile

import (
	"bytes"
	"encoding/binary"
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
			if c.Frames == 0 {
				if err := s.webpFrame(at+8, n, c); err != nil {
					return c, err
				}
				found = true
			}
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
	if !found && s.whole {
		return c, s.errorf(media.Truncated, "a canvas of %d×%d and no picture", c.Width, c.Height)
	}
	if c.Frames > 0 {
		c.Notes = append(c.Notes, "animated: the first frame only, as a picture")
	}
	return c, s.plausible(0, s.size, 1, int64(c.Width)*int64(c.Height))
}

// webpAnimated is the first frame of an animation: where its chunks lie and its place on the
// canvas.
type webpAnimated struct {
	at, n      int64
	x, y, w, h int
	alpha      bool
}

// webpFrame reads the head of an animation's first frame, at being its body of n bytes.
func (s *source) webpFrame(at, n int64, c Config) error {
	p, err := s.read(at, 16)
	if err != nil {
		return err
	}
	f := webpAnimated{at: at + 16, n: n - 16, x: 2 * le24(p), y: 2 * le24(p[3:]), w: 1 + le24(p[6:]), h: 1 + le24(p[9:])}
	if f.n < 8 || f.x+f.w > c.Width || f.y+f.h > c.Height {
		return s.errorf(media.Malformed, "frame of %d×%d at %d,%d on a canvas of %d×%d", f.w, f.h, f.x, f.y, c.Width, c.Height)
	}
	if s.whole && f.at+f.n > s.size {
		return s.errorf(media.Truncated, "frame of %d bytes at offset %d of %d", n, at, s.size)
	}
	for at := f.at; at+8 <= f.at+f.n; {
		if p, err = s.read(at, 8); err != nil {
			return err
		}
		switch kind := string(p[:4]); kind {
		case "ALPH":
			f.alpha = true
		case "VP8 ", "VP8L":
			w, h, err := s.webpSize(kind, at+8)
			if err == nil && (w != f.w || h != f.h) {
				err = s.errorf(media.Malformed, "first frame of %d×%d where its head says %d×%d", w, h, f.w, f.h)
			}
			s.webp = f
			return err
		}
		size := int64(uint32(le32(p[4:])))
		at += 8 + size + size&1
	}
	return s.errorf(media.Malformed, "first frame without a picture")
}

// still is the frame as a WebP file of its own.
func (f webpAnimated) still(s *source) io.Reader {
	var head []byte
	head = append(head, "RIFF\x00\x00\x00\x00WEBP"...)
	if f.alpha {
		head = append(head, "VP8X\x0a\x00\x00\x00\x10\x00\x00\x00"...)
		for _, v := range []int{f.w - 1, f.h - 1} {
			head = append(head, byte(v), byte(v>>8), byte(v>>16))
		}
	}
	binary.LittleEndian.PutUint32(head[4:], uint32(int64(len(head))-8+f.n))
	body := media.NewReader(s.ctx, io.NewSectionReader(s.at, f.at, f.n), f.n)
	return io.MultiReader(bytes.NewReader(head), body)
}

// place puts the frame on its canvas, transparent around it.
func (f webpAnimated) place(img *image.NRGBA, c Config) *image.NRGBA {
	canvas := image.NewNRGBA(image.Rect(0, 0, c.Width, c.Height))
	for y := range min(f.h, img.Rect.Dy()) {
		copy(canvas.Pix[canvas.PixOffset(f.x, f.y+y):][:4*f.w], img.Pix[y*img.Stride:])
	}
	return canvas
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
	if s.webp.n > 0 {
		w, h := c.stored()
		img, err := webpStill(s, s.webp.still(s))
		if err != nil {
			return nil, err
		}
		return s.webp.place(img, Config{Width: w, Height: h}), nil
	}
	// The size in the RIFF header is put right: it adds nothing to the chunks' own.
	head, err := s.read(0, 12)
	if err != nil {
		return nil, err
	}
	binary.LittleEndian.PutUint32(head[4:], uint32(s.size-8))
	return webpStill(s, io.MultiReader(bytes.NewReader(head), skipping(s.reader(), 12)))
}

func webpStill(s *source, r io.Reader) (*image.NRGBA, error) {
	img, err := webp.Decode(r)
	if err != nil {
		return nil, err
	}
	if m, ok := img.(*image.YCbCr); ok { // the same colours, and not a JPEG's
		img = &image.NYCbCrA{YCbCr: *m}
	}
	return toNRGBA(s.ctx, img)
}
