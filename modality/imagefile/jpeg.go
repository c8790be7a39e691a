package imagefile

import (
	"bufio"
	"bytes"
	"errors"
	"image"
	"image/jpeg"
	"io"

	"github.com/mmserve/mmserve/modality/media"
)

// jpegScanWork bounds scans × pixels, in units of the pixel limit: each scan of a progressive
// picture visits every block, however few bytes it has.
const jpegScanWork = 8

// jpegHeader is what a walk over the markers finds.
type jpegHeader struct {
	w, h, components int
	sof              byte // the frame marker, 0 before it
	scans            int
	adobe            int // the transform of the Adobe marker, -1 without one
	orientation      int
	icc              bool
}

// jpegConfig walks the markers of the whole file, skipping what lies between them.
func jpegConfig(s *source) (Config, error) {
	r := bufio.NewReaderSize(s.reader(), 16<<10)
	j := jpegHeader{adobe: -1}
	err := s.jpegWalk(r, &j)
	s.jpeg = j
	if err != nil && (j.sof == 0 || j.scans == 0 || media.CodeOf(err) == media.TooLarge) {
		return Config{}, err
	}
	held := int64(3 + 4)
	if j.components == 4 {
		held = 4 + 4
	}
	if j.sof == 0xC2 {
		held += 4 * int64(j.components) // coefficients of a progressive picture are kept
	}
	if err := s.l.Picture(s.what, int64(j.w), int64(j.h), held); err != nil {
		return Config{}, err
	}
	pixels := int64(j.w) * int64(j.h)
	c := Config{Width: j.w, Height: j.h, Orientation: j.orientation, Scans: j.scans, DecodedBytes: held * pixels}
	if work := int64(j.scans) * pixels; work > jpegScanWork*s.l.Pixels {
		return c, media.Exceeds(s.what+": scans × pixels", float64(jpegScanWork*s.l.Pixels), float64(work))
	}
	if j.icc {
		c.Notes = append(c.Notes, noteICC)
	}
	if j.components == 4 {
		c.Notes = append(c.Notes, "CMYK made RGB")
	}
	// A block takes at least two bits in a sequential picture and one in a progressive one.
	blocks := int64((j.w+7)/8) * int64((j.h+7)/8)
	per := 4.0
	if j.sof == 0xC2 {
		per = 8
	}
	return c, s.plausible(blocks, s.size, per, pixels)
}

// jpegWalk reads markers to the end of the picture. It stops with TooLarge at too many scans.
func (s *source) jpegWalk(r *bufio.Reader, j *jpegHeader) error {
	if _, err := r.Discard(2); err != nil {
		return s.fault(err)
	}
	for {
		m, err := nextMarker(r)
		if err != nil {
			if errors.Is(err, io.EOF) && j.sof == 0 && !s.whole {
				return s.errorf(media.NotReplayable, "header goes beyond the first %d bytes of a stream", s.size)
			}
			return s.fault(err)
		}
		switch {
		case m == 0xD9: // end of image
			return s.errorf(media.Truncated, "ends before its picture")
		case m == 0xD8, m >= 0xD0 && m <= 0xD7, m == 0x01:
			continue
		}
		n, err := segment(r)
		if err != nil {
			return s.fault(err)
		}
		if err := s.jpegSegment(r, m, n, j); err != nil {
			return err
		}
		if m == 0xDA {
			j.scans++
			if j.scans > s.l.Scans {
				return media.Exceeds(s.what+": scans", float64(s.l.Scans), float64(j.scans))
			}
			end, err := skipScan(r)
			if err != nil || end {
				if errors.Is(err, io.EOF) {
					return nil // cut short: the decoder decides
				}
				return err
			}
		}
	}
}

// nextMarker skips to the next marker: 0xFF, any fill bytes, then its code.
func nextMarker(r *bufio.Reader) (byte, error) {
	for {
		b, err := r.ReadByte()
		if err != nil {
			return 0, err
		}
		for b == 0xFF {
			if b, err = r.ReadByte(); err != nil {
				return 0, err
			}
			if b != 0xFF && b != 0 {
				return b, nil
			}
		}
	}
}

// segment reads the length of a segment's body.
func segment(r *bufio.Reader) (int, error) {
	var p [2]byte
	if _, err := io.ReadFull(r, p[:]); err != nil {
		return 0, err
	}
	n := be16(p[:]) - 2
	if n < 0 {
		return 0, errors.New("segment length below 2")
	}
	return n, nil
}

// jpegSegment consumes the n bytes of a segment's body and notes what it says.
func (s *source) jpegSegment(r *bufio.Reader, m byte, n int, j *jpegHeader) error {
	sof := m >= 0xC0 && m <= 0xCF && m != 0xC4 && m != 0xC8 && m != 0xCC
	if !sof && m != 0xE1 && m != 0xE2 && m != 0xEE {
		_, err := r.Discard(n)
		return s.fault(err)
	}
	p := make([]byte, n)
	if _, err := io.ReadFull(r, p); err != nil {
		return s.fault(err)
	}
	switch {
	case sof:
		return s.jpegFrame(m, p, j)
	case m == 0xE1 && has(p, 0, "Exif\x00\x00") && j.orientation == 0:
		j.orientation = exifOrientation(p)
	case m == 0xE2 && has(p, 0, "ICC_PROFILE\x00"):
		j.icc = true
	case m == 0xEE && has(p, 0, "Adobe") && n >= 12:
		j.adobe = int(p[11])
	}
	return nil
}

// jpegFrame reads a start-of-frame segment.
func (s *source) jpegFrame(m byte, p []byte, j *jpegHeader) error {
	switch {
	case j.sof != 0:
		return s.errorf(media.Malformed, "two frames")
	case m > 0xC2:
		return s.errorf(media.Unsupported, "coding process %d (lossless, hierarchical or arithmetic)", m-0xC0)
	case len(p) < 6:
		return s.errorf(media.Malformed, "frame segment of %d bytes", len(p))
	case p[0] != 8:
		return s.errorf(media.Unsupported, "%d bits a sample", p[0])
	}
	j.sof, j.h, j.w, j.components = m, be16(p[1:]), be16(p[3:]), int(p[5])
	if j.w == 0 || j.h == 0 {
		return s.errorf(media.Empty, "%d×%d pixels", j.w, j.h)
	}
	switch j.components {
	case 1, 3, 4:
	default:
		return s.errorf(media.Unsupported, "%d components", j.components)
	}
	if len(p) < 6+3*j.components {
		return s.errorf(media.Malformed, "frame segment of %d bytes", len(p))
	}
	return nil
}

// skipScan reads over entropy-coded data to the next marker, which it leaves unread; end is
// set at the end of the picture.
func skipScan(r *bufio.Reader) (end bool, err error) {
	for {
		if _, err := r.Peek(2); err != nil {
			return false, err
		}
		p, _ := r.Peek(r.Buffered())
		at, marker := scanMarker(p)
		if _, err := r.Discard(at); err != nil || marker != 0 {
			return marker == 0xD9, err
		}
	}
}

// scanMarker finds the next marker in entropy-coded data of at least two bytes: where it begins
// and its code, or how many bytes hold none and zero.
func scanMarker(p []byte) (at int, marker byte) {
	for {
		i := bytes.IndexByte(p[at:], 0xFF)
		if i < 0 {
			return len(p), 0
		}
		if at += i; at+1 == len(p) {
			return at, 0
		}
		switch m := p[at+1]; {
		case m == 0xFF: // fill
			at++
		case m == 0, m >= 0xD0 && m <= 0xD7: // a byte of data, a restart
			at += 2
		default:
			return at, m
		}
	}
}

func jpegDecode(s *source, c Config) (*image.NRGBA, error) {
	var r io.Reader = s.reader()
	bare := s.jpeg.components == 4 && s.jpeg.adobe < 0
	if bare {
		r = io.MultiReader(newAdobe(), skipping(r, 2))
	}
	img, err := jpeg.Decode(r)
	if err != nil {
		if _, ok := errors.AsType[jpeg.UnsupportedError](err); ok {
			return nil, &media.Error{Code: media.Unsupported, Detail: s.what, Err: err}
		}
		return nil, err
	}
	if cmyk, ok := img.(*image.CMYK); ok && bare {
		for i := range cmyk.Pix {
			cmyk.Pix[i] = 255 - cmyk.Pix[i]
		}
	}
	return toNRGBA(s.ctx, img)
}
