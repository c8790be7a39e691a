package imagefile

import (
	"image"
	"image/color"
	"math/bits"

	"github.com/mmserve/mmserve/modality/media"
)

// The compressions of a BMP.
const (
	bmpRaw, bmpRLE8, bmpRLE4, bmpFields, bmpAlphaFields = 0, 1, 2, 3, 6
)

// bmpHeader is what the file and information headers say.
type bmpHeader struct {
	w, h     int
	topDown  bool
	depth    int
	compress int
	palette  []color.NRGBA
	masks    [4]uint32 // red, green, blue, alpha
	data     int64     // offset of the pixels
}

// stride is the bytes of a stored row.
func (b bmpHeader) stride() int64 { return (int64(b.w)*int64(b.depth) + 31) / 32 * 4 }

func bmpConfig(s *source) (Config, error) {
	b, err := s.bmpHeader()
	if err != nil {
		return Config{}, err
	}
	return Config{Width: b.w, Height: b.h, DecodedBytes: 5 * int64(b.w) * int64(b.h)}, nil
}

// bmpHeader reads the headers: OS/2's of 12 bytes and Windows' of 40 to 124.
func (s *source) bmpHeader() (b bmpHeader, err error) {
	p, err := s.read(0, 18)
	if err != nil {
		return b, err
	}
	b.data = int64(le32(p[10:]))
	size := le32(p[14:])
	if size < 12 || size > 4096 || size > 12 && size < 16 {
		return b, s.errorf(media.Malformed, "information header of %d bytes", size)
	}
	info, err := s.read(14, size)
	if err != nil {
		return b, err
	}
	entry, colours := 4, 0
	if size == 12 {
		entry = 3
		b.w, b.h, b.depth = le16(info[4:]), le16(info[6:]), le16(info[10:])
	} else {
		b.w, b.h, b.depth = int(int32(le32(info[4:]))), int(int32(le32(info[8:]))), le16(info[14:])
		if size >= 20 {
			b.compress = le32(info[16:])
		}
		if size >= 36 {
			colours = le32(info[32:])
		}
	}
	if b.h < 0 {
		b.h, b.topDown = -b.h, true
	}
	if b.w <= 0 || b.h <= 0 {
		return b, s.errorf(media.Malformed, "sides %d×%d", b.w, b.h)
	}
	if err := s.l.Picture(s.what, int64(b.w), int64(b.h), 5); err != nil {
		return b, err
	}
	at := int64(14 + size)
	if at, err = s.bmpMasks(&b, info, at); err != nil {
		return b, err
	}
	if b.depth <= 8 {
		if err := s.bmpPalette(&b, at, entry, colours); err != nil {
			return b, err
		}
	}
	return b, s.bmpFits(b)
}

// bmpMasks checks depth against compression and finds the channel masks.
func (s *source) bmpMasks(b *bmpHeader, info []byte, at int64) (int64, error) {
	bad := s.errorf(media.Malformed, "compression %d at %d bits", b.compress, b.depth)
	switch b.depth {
	case 1, 4, 8:
		if b.compress != bmpRaw && !(b.compress == bmpRLE8 && b.depth == 8) && !(b.compress == bmpRLE4 && b.depth == 4) {
			return at, bad
		}
		return at, nil
	case 16:
		b.masks = [4]uint32{0x7C00, 0x03E0, 0x001F}
	case 24, 32:
		b.masks = [4]uint32{0xFF0000, 0xFF00, 0xFF}
	default:
		return at, s.errorf(media.Malformed, "%d bits a pixel", b.depth)
	}
	switch b.compress {
	case bmpRaw:
		return at, nil
	case bmpFields, bmpAlphaFields:
		if b.depth == 24 {
			return at, bad
		}
	case 4, 5:
		return at, s.errorf(media.Unsupported, "JPEG or PNG inside")
	default:
		return at, bad
	}
	n := 3
	if b.compress == bmpAlphaFields || len(info) >= 56 {
		n = 4
	}
	p := info[min(40, len(info)):]
	if len(p) < 4*n {
		q, err := s.read(at, 4*n)
		if err != nil {
			return at, err
		}
		p, at = q, at+int64(4*n)
	}
	for i := range n {
		b.masks[i] = uint32(le32(p[4*i:]))
	}
	if b.masks[0]|b.masks[1]|b.masks[2] == 0 {
		return at, s.errorf(media.Malformed, "empty colour masks")
	}
	return at, nil
}

func (s *source) bmpPalette(b *bmpHeader, at int64, entry, colours int) error {
	full := 1 << b.depth
	if colours == 0 {
		colours = full
	}
	if colours < 0 || colours > full {
		return s.errorf(media.Malformed, "palette of %d colours at %d bits", colours, b.depth)
	}
	if room := (b.data - at) / int64(entry); int64(colours) > room && room > 0 {
		colours = int(room) // short palettes before the pixels are common
	}
	p, err := s.read(at, entry*colours)
	if err != nil {
		return err
	}
	b.palette = make([]color.NRGBA, 256)
	for i := range b.palette {
		b.palette[i].A = 255
		if i < colours {
			q := p[entry*i:]
			b.palette[i] = color.NRGBA{q[2], q[1], q[0], 255}
		}
	}
	return nil
}

// bmpFits checks that the pixels are in the file.
func (s *source) bmpFits(b bmpHeader) error {
	if !s.whole {
		return nil
	}
	if b.data < 14 || b.data >= s.size {
		return s.errorf(media.Malformed, "pixels at offset %d of %d", b.data, s.size)
	}
	if b.compress == bmpRLE4 || b.compress == bmpRLE8 {
		return s.plausible(0, s.size, 1, int64(b.w)*int64(b.h))
	}
	if need := b.stride() * int64(b.h); b.data+need > s.size {
		return s.errorf(media.Truncated, "%d bytes of pixels at offset %d of %d", need, b.data, s.size)
	}
	return nil
}

func bmpDecode(s *source, c Config) (*image.NRGBA, error) {
	b, err := s.bmpHeader()
	if err != nil {
		return nil, err
	}
	img := image.NewNRGBA(image.Rect(0, 0, b.w, b.h))
	if b.compress == bmpRLE4 || b.compress == bmpRLE8 {
		return img, s.bmpRuns(b, img)
	}
	row := b.rowFunc()
	for y := range b.h {
		p, err := s.read(b.data+int64(y)*b.stride(), int(b.stride()))
		if err != nil {
			return nil, err
		}
		row(b.line(img, y), p)
	}
	return img, nil
}

// line is where stored row y goes.
func (b bmpHeader) line(img *image.NRGBA, y int) []uint8 {
	if !b.topDown {
		y = b.h - 1 - y
	}
	return img.Pix[y*img.Stride:][:4*b.w]
}

// rowFunc converts a stored row of pixels.
func (b bmpHeader) rowFunc() func(dst, src []uint8) {
	if b.depth <= 8 {
		per, mask := 8/b.depth, byte(1<<b.depth-1)
		return func(dst, src []uint8) {
			for x := range b.w {
				v := src[x/per] >> (8 - b.depth*(x%per+1)) & mask
				c := b.palette[v]
				set(dst[4*x:], c.R, c.G, c.B, 255)
			}
		}
	}
	if b.depth == 24 {
		return func(dst, src []uint8) {
			for x := range b.w {
				set(dst[4*x:], src[3*x+2], src[3*x+1], src[3*x], 255)
			}
		}
	}
	n := b.depth / 8
	return func(dst, src []uint8) {
		for x := range b.w {
			v := uint32(src[n*x]) | uint32(src[n*x+1])<<8
			if n == 4 {
				v |= uint32(src[4*x+2])<<16 | uint32(src[4*x+3])<<24
			}
			a := uint8(255)
			if b.masks[3] != 0 {
				a = field(v, b.masks[3])
			}
			set(dst[4*x:], field(v, b.masks[0]), field(v, b.masks[1]), field(v, b.masks[2]), a)
		}
	}
}

// field takes the bits of a mask and widens them to a byte, rounding down as Pillow does.
func field(v, mask uint32) uint8 {
	if mask == 0 {
		return 0
	}
	v = v & mask >> bits.TrailingZeros32(mask)
	top := mask >> bits.TrailingZeros32(mask)
	return uint8(uint64(v) * 255 / uint64(top))
}

// bmpRuns decodes run lengths. Pixels that no run reaches keep colour 0.
func (s *source) bmpRuns(b bmpHeader, img *image.NRGBA) error {
	for y := range b.h {
		row := img.Pix[y*img.Stride:]
		for x := range b.w {
			set(row[4*x:], b.palette[0].R, b.palette[0].G, b.palette[0].B, 255)
		}
	}
	most := (4*int64(b.w) + 16) * int64(b.h) // beyond what any sane run-length picture takes
	p, err := s.read(b.data, int(min(s.size-b.data, most)))
	if err != nil {
		return err
	}
	r := bmpRunner{b: b, img: img}
	for len(p) >= 2 {
		n, v := int(p[0]), p[1]
		p = p[2:]
		switch {
		case n > 0:
			err = r.run(s, n, v)
		case v == 0:
			r.x, r.y = 0, r.y+1
		case v == 1:
			return nil
		case v == 2:
			if len(p) < 2 {
				return s.errorf(media.Truncated, "run lengths end in a jump")
			}
			r.x, r.y, p = r.x+int(p[0]), r.y+int(p[1]), p[2:]
		default:
			p, err = r.literal(s, int(v), p)
		}
		if err != nil {
			return err
		}
	}
	return s.errorf(media.Truncated, "run lengths without an end")
}

// bmpRunner is the place in a run-length picture.
type bmpRunner struct {
	b    bmpHeader
	img  *image.NRGBA
	x, y int
}

func (r *bmpRunner) put(v uint8) {
	c := r.b.palette[v]
	set(r.b.line(r.img, r.y)[4*r.x:], c.R, c.G, c.B, 255)
	r.x++
}

func (r *bmpRunner) fits(s *source, n int) error {
	if r.y >= r.b.h || r.x+n > r.b.w {
		return s.errorf(media.Malformed, "a run of %d pixels at %d,%d of %d×%d", n, r.x, r.y, r.b.w, r.b.h)
	}
	return nil
}

// run puts n pixels of one value (RLE8) or of two in turn (RLE4).
func (r *bmpRunner) run(s *source, n int, v uint8) error {
	// A run may be padded past the end of its row; what hangs over is dropped.
	if r.y >= r.b.h || r.x > r.b.w {
		return r.fits(s, n)
	}
	n = min(n, r.b.w-r.x)
	for i := range n {
		switch {
		case r.b.depth == 8:
			r.put(v)
		case i&1 == 0:
			r.put(v >> 4)
		default:
			r.put(v & 15)
		}
	}
	return nil
}

// literal puts n pixels given one by one, padded to two bytes.
func (r *bmpRunner) literal(s *source, n int, p []byte) ([]byte, error) {
	size := n
	if r.b.depth == 4 {
		size = (n + 1) / 2
	}
	if len(p) < size {
		return nil, s.errorf(media.Truncated, "run lengths end in a literal")
	}
	if r.y >= r.b.h || r.x > r.b.w {
		return nil, r.fits(s, n)
	}
	for i := range min(n, r.b.w-r.x) {
		switch {
		case r.b.depth == 8:
			r.put(p[i])
		case i&1 == 0:
			r.put(p[i/2] >> 4)
		default:
			r.put(p[i/2] & 15)
		}
	}
	return p[min(size+size&1, len(p)):], nil
}
