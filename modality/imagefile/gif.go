package imagefile

import (
	"bufio"
	"compress/lzw"
	"errors"
	"image"
	"image/color"
	"io"

	"github.com/mmserve/mmserve/modality/media"
)

// gifExpansion is the most pixels one byte of LZW data can stand for: a code of at least nine
// bits near the end of a table of 4096 strings.
const gifExpansion = 4096

// gifConfig walks the blocks: the canvas, the frames, how much data they have.
func gifConfig(s *source) (Config, error) {
	g := &gif{s: s, r: bufio.NewReaderSize(s.reader(), 16<<10), skip: true}
	if err := g.screen(); err != nil {
		return Config{}, err
	}
	held := int64(4 + 1) // canvas, indices of a frame
	if err := s.l.Picture(s.what, int64(g.w), int64(g.h), held); err != nil {
		return Config{}, err
	}
	pixels := int64(g.w) * int64(g.h)
	c := Config{Width: g.w, Height: g.h, DecodedBytes: held * pixels}
	for {
		err := g.next()
		if errors.Is(err, io.EOF) && g.frames > 0 {
			break
		}
		if err != nil {
			if g.frames == 0 || media.CodeOf(err) == media.TooLarge {
				return c, err
			}
			break // the frames before the fault stand
		}
	}
	c.Frames = g.frames
	if c.Frames > 1 {
		c.Notes = append(c.Notes, "animated: the first frame only, as a picture")
	}
	return c, s.plausible(int64(g.first.Dx())*int64(g.first.Dy()), g.firstData, gifExpansion, pixels)
}

func gifDecode(s *source, c Config) (*image.NRGBA, error) {
	g := &gif{s: s, r: bufio.NewReaderSize(s.reader(), 16<<10)}
	if err := g.screen(); err != nil {
		return nil, err
	}
	f, err := g.frame()
	if err != nil {
		return nil, err
	}
	canvas := g.blank(f)
	f.draw(canvas)
	return canvas, nil
}

// gif reads the blocks of a GIF. With skip set, frames are walked over and not decoded.
type gif struct {
	s          *source
	r          *bufio.Reader
	skip       bool
	w, h       int
	global     color.Palette
	background int
	frames     int
	first      image.Rectangle // of the first frame
	firstData  int64           // its bytes

	transparent int // of the graphic control before the next frame; -1: none
}

// screen reads the header, the logical screen and the global palette.
func (g *gif) screen() error {
	var p [13]byte
	if _, err := io.ReadFull(g.r, p[:]); err != nil {
		return g.s.fault(err)
	}
	if v := string(p[:6]); v != "GIF87a" && v != "GIF89a" {
		return g.s.errorf(media.Malformed, "version %q", v)
	}
	g.w, g.h, g.background, g.transparent = le16(p[6:]), le16(p[8:]), int(p[11]), -1
	var err error
	if p[10]&0x80 != 0 {
		g.global, err = g.palette(p[10])
	}
	return err
}

func (g *gif) palette(flags byte) (color.Palette, error) {
	n := 1 << (flags&7 + 1)
	p := make([]byte, 3*n)
	if _, err := io.ReadFull(g.r, p); err != nil {
		return nil, g.s.fault(err)
	}
	out := make(color.Palette, n)
	for i := range out {
		out[i] = color.NRGBA{p[3*i], p[3*i+1], p[3*i+2], 255}
	}
	return out, nil
}

// gifFrame is one frame as stored.
type gifFrame struct {
	rect        image.Rectangle
	palette     color.Palette
	index       []uint8
	transparent int
}

// next walks to the next frame and over it; io.EOF at the end.
func (g *gif) next() error {
	_, err := g.frame()
	return err
}

// frame reads blocks up to and with the next frame. It returns io.EOF at the trailer, or where
// the file ends after a frame without one.
func (g *gif) frame() (*gifFrame, error) {
	for {
		b, err := g.r.ReadByte()
		if err != nil {
			if errors.Is(err, io.EOF) && g.frames > 0 {
				return nil, io.EOF
			}
			return nil, g.s.fault(err)
		}
		switch b {
		case 0x3B:
			if g.frames == 0 {
				return nil, g.s.errorf(media.Empty, "no frames")
			}
			return nil, io.EOF
		case 0x21:
			err = g.extension()
		case 0x2C:
			return g.picture()
		case 0x00: // padding some writers leave between blocks
		default:
			if g.frames > 0 {
				return nil, io.EOF // rubbish after the last frame
			}
			return nil, g.s.errorf(media.Malformed, "block 0x%02x", b)
		}
		if err != nil {
			return nil, g.s.fault(err)
		}
	}
}

// extension reads a graphic control and skips any other.
func (g *gif) extension() error {
	label, err := g.r.ReadByte()
	if err != nil {
		return err
	}
	if label == 0xF9 {
		var p [6]byte
		if _, err := io.ReadFull(g.r, p[:]); err != nil {
			return err
		}
		if p[0] != 4 || p[5] != 0 {
			return g.s.errorf(media.Malformed, "graphic control of %d bytes", p[0])
		}
		g.transparent = -1
		if p[1]&1 != 0 {
			g.transparent = int(p[4])
		}
		return nil
	}
	_, err = g.skipBlocks()
	return err
}

// skipBlocks reads over a chain of sub-blocks and returns their bytes.
func (g *gif) skipBlocks() (int64, error) {
	total := int64(0)
	for {
		n, err := g.r.ReadByte()
		if err != nil || n == 0 {
			return total, err
		}
		if _, err := g.r.Discard(int(n)); err != nil {
			return total, err
		}
		total += int64(n)
	}
}

// picture reads an image descriptor and its data.
func (g *gif) picture() (*gifFrame, error) {
	var p [9]byte
	if _, err := io.ReadFull(g.r, p[:]); err != nil {
		return nil, g.s.fault(err)
	}
	x, y, w, h := le16(p[0:]), le16(p[2:]), le16(p[4:]), le16(p[6:])
	f := &gifFrame{rect: image.Rect(x, y, x+w, y+h), palette: g.global, transparent: g.transparent}
	g.transparent = -1
	if w == 0 || h == 0 || x+w > g.w || y+h > g.h {
		return nil, g.s.errorf(media.Malformed, "frame %d×%d at %d,%d outside the screen of %d×%d", w, h, x, y, g.w, g.h)
	}
	if p[8]&0x80 != 0 {
		local, err := g.palette(p[8])
		if err != nil {
			return nil, err
		}
		f.palette = local
	}
	if len(f.palette) == 0 {
		return nil, g.s.errorf(media.Malformed, "frame without a palette")
	}
	width, err := g.r.ReadByte()
	if err != nil {
		return nil, g.s.fault(err)
	}
	if width < 2 || width > 8 {
		return nil, g.s.errorf(media.Malformed, "LZW code size %d", width)
	}
	if err := media.Check(g.s.what+": frames", g.s.l.Frames, g.frames+1); err != nil {
		return nil, err
	}
	if g.skip {
		n, err := g.skipBlocks()
		if g.frames == 0 {
			g.first, g.firstData = f.rect, n
		}
		if err != nil && !(errors.Is(err, io.EOF) && n > 0) {
			return nil, g.s.fault(err)
		}
		g.frames++
		return f, nil
	}
	if err := g.indices(f, int(width)); err != nil {
		return nil, err
	}
	if p[8]&0x40 != 0 {
		f.deinterlace()
	}
	g.frames++
	return f, nil
}

// indices decodes a frame's LZW data.
func (g *gif) indices(f *gifFrame, width int) error {
	f.index = make([]uint8, f.rect.Dx()*f.rect.Dy())
	blocks := &subBlocks{r: g.r}
	d := lzw.NewReader(blocks, lzw.LSB, width)
	defer d.Close()
	for off := 0; off < len(f.index); {
		if err := g.s.ctx.Err(); err != nil {
			return media.Wrap(err, media.Canceled, g.s.what)
		}
		n, err := io.ReadFull(d, f.index[off:min(off+1<<16, len(f.index))])
		off += n
		if err != nil && off < len(f.index) {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return g.s.errorf(media.Truncated, "frame %d: %d of %d pixels", g.frames, off, len(f.index))
			}
			return g.s.fault(err)
		}
	}
	for i, v := range f.index {
		if int(v) >= len(f.palette) {
			if int(v) == f.transparent {
				continue
			}
			return g.s.errorf(media.Malformed, "frame %d: colour %d of %d at pixel %d", g.frames, v, len(f.palette), i)
		}
	}
	return blocks.drain()
}

// subBlocks reads the bytes of a chain of sub-blocks.
type subBlocks struct {
	r    *bufio.Reader
	left int
	end  bool
}

// ReadByte implements io.ByteReader, which keeps the LZW reader from reading ahead.
func (b *subBlocks) ReadByte() (byte, error) {
	if b.left == 0 {
		if b.end {
			return 0, io.EOF
		}
		n, err := b.r.ReadByte()
		if err != nil {
			return 0, io.ErrUnexpectedEOF
		}
		if n == 0 {
			b.end = true
			return 0, io.EOF
		}
		b.left = int(n)
	}
	b.left--
	c, err := b.r.ReadByte()
	if err != nil {
		return 0, io.ErrUnexpectedEOF
	}
	return c, nil
}

// Read implements io.Reader.
func (b *subBlocks) Read(p []byte) (int, error) {
	for i := range p {
		c, err := b.ReadByte()
		if err != nil {
			return i, err
		}
		p[i] = c
	}
	return len(p), nil
}

// drain reads to the end of the chain. A file that ends here has its whole frame.
func (b *subBlocks) drain() error {
	for {
		if _, err := b.ReadByte(); err != nil {
			return nil
		}
	}
}

// deinterlace puts the rows of a four-pass frame in order.
func (f *gifFrame) deinterlace() {
	w, h := f.rect.Dx(), f.rect.Dy()
	out := make([]uint8, len(f.index))
	at := 0
	for _, pass := range [4][2]int{{0, 8}, {4, 8}, {2, 4}, {1, 2}} {
		for y := pass[0]; y < h; y += pass[1] {
			copy(out[y*w:(y+1)*w], f.index[at:at+w])
			at += w
		}
	}
	f.index = out
}

// blank is the canvas under the first frame: the transparent colour where there is one, else
// the background colour, as Pillow fills it.
func (g *gif) blank(f *gifFrame) *image.NRGBA {
	img := image.NewNRGBA(image.Rect(0, 0, g.w, g.h))
	if f.rect == img.Rect {
		return img
	}
	var fill color.NRGBA
	switch {
	case f.transparent >= 0 && f.transparent < len(f.palette):
		fill = f.palette[f.transparent].(color.NRGBA)
		fill.A = 0
	case g.background < len(g.global):
		fill = g.global[g.background].(color.NRGBA)
	}
	for i := 0; i < len(img.Pix); i += 4 {
		set(img.Pix[i:], fill.R, fill.G, fill.B, fill.A)
	}
	return img
}

// draw paints a frame over the canvas. A transparent pixel keeps its palette's colour under
// alpha 0.
func (f *gifFrame) draw(canvas *image.NRGBA) {
	i := 0
	for y := f.rect.Min.Y; y < f.rect.Max.Y; y++ {
		row := canvas.Pix[canvas.PixOffset(f.rect.Min.X, y):]
		for x := range f.rect.Dx() {
			v := int(f.index[i])
			i++
			p := row[4*x : 4*x+4]
			if v == f.transparent {
				if p[3] == 0 && v < len(f.palette) {
					c := f.palette[v].(color.NRGBA)
					p[0], p[1], p[2] = c.R, c.G, c.B
				}
				continue
			}
			c := f.palette[v].(color.NRGBA)
			set(p, c.R, c.G, c.B, 255)
		}
	}
}
