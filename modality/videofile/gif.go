package videofile

import (
	"bufio"
	"bytes"
	"context"
	"image"
	"image/draw"
	"image/gif"
	"io"

	"github.com/mmserve/mmserve/modality/imagefile"
	"github.com/mmserve/mmserve/modality/media"
)

// gifFrame is where one picture of an animation lies, and how it is put on the canvas.
type gifFrame struct {
	at, end  int64 // image descriptor to the end of its data
	delay    int   // hundredths of a second
	disposal byte
	control  [8]byte // its graphic control extension
	has      bool
	box      image.Rectangle
}

// gifVideo decodes frames in order onto a canvas of its own, so that no more than one frame
// and the canvas are ever held.
type gifVideo struct {
	f      *file
	pre    []byte // signature, screen and global colours: what each frame needs in front of it
	frames []gifFrame
	canvas *image.NRGBA
	saved  *image.NRGBA // for disposal 3
	next   int          // the frame that comes next; the canvas shows the one before, not yet disposed of
	config Config
}

// openGIF walks the blocks of the file.
func openGIF(f *file) (*Video, error) {
	w := &gifWalk{r: bufio.NewReaderSize(media.NewReader(f.ctx, io.NewSectionReader(f.at, 0, f.size), f.size), 16<<10)}
	g := &gifVideo{f: f}
	width, height, err := w.screen()
	if err != nil {
		return nil, err
	}
	g.pre = w.pre
	// Canvas, decoded frame, and the copy that disposal 3 keeps.
	if err := f.limits.Picture("video: gif", int64(width), int64(height), 4+1+4); err != nil {
		return nil, err
	}
	hundredths := 0
	for {
		fr, ok, err := w.frame()
		if err != nil {
			return nil, media.Wrap(err, media.Malformed, "video: gif")
		}
		if !ok {
			break
		}
		if !fr.box.In(image.Rect(0, 0, width, height)) {
			return nil, media.Errorf(media.Malformed, "video: gif: frame %d: %v outside the screen of %d×%d", len(g.frames), fr.box, width, height)
		}
		g.frames = append(g.frames, fr)
		hundredths += fr.delay
		if err := media.Check("video: frames", f.limits.Frames, len(g.frames)); err != nil {
			return nil, err
		}
	}
	if len(g.frames) == 0 {
		return nil, media.Errorf(media.Empty, "video: gif: no frames")
	}
	g.config = Config{MediaType: "image/gif", Width: width, Height: height, Frames: len(g.frames),
		Seconds: float64(hundredths) / 100, DecodedBytes: int64(width) * int64(height) * 9}
	if hundredths > 0 {
		g.config.Rate = float64(len(g.frames)) / g.config.Seconds
	}
	return &Video{Config: g.config, frames: g}, nil
}

// gifWalk reads the block structure of a GIF (89a specification, appendix A).
type gifWalk struct {
	r   *bufio.Reader
	at  int64
	pre []byte
}

func (w *gifWalk) read(n int) ([]byte, error) {
	b := make([]byte, n)
	k, err := io.ReadFull(w.r, b)
	w.at += int64(k)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}

func (w *gifWalk) screen() (width, height int, err error) {
	b, err := w.read(13)
	if err != nil {
		return 0, 0, media.Wrap(err, media.Truncated, "video: gif: header")
	}
	if s := string(b[:6]); s != "GIF87a" && s != "GIF89a" {
		return 0, 0, media.Errorf(media.Malformed, "video: gif: signature %q", s)
	}
	w.pre = b
	if b[10]&0x80 != 0 {
		table, err := w.read(3 << (b[10]&7 + 1))
		if err != nil {
			return 0, 0, media.Wrap(err, media.Truncated, "video: gif: colours")
		}
		w.pre = append(w.pre, table...)
	}
	return int(b[6]) | int(b[7])<<8, int(b[8]) | int(b[9])<<8, nil
}

// frame walks to the end of the next picture; false at the trailer or the end of the file.
func (w *gifWalk) frame() (f gifFrame, ok bool, err error) {
	for {
		kind, err := w.r.ReadByte()
		if err == io.EOF {
			return f, false, nil
		}
		if err != nil {
			return f, false, err
		}
		w.at++
		switch kind {
		case 0x3b:
			return f, false, nil
		case 0x21:
			if err := w.extension(&f); err != nil {
				return f, false, err
			}
		case 0x2c:
			f.at = w.at - 1
			return f, true, w.picture(&f)
		default:
			return f, false, media.Errorf(media.Malformed, "video: gif: block of kind %#02x at %d", kind, w.at-1)
		}
	}
}

func (w *gifWalk) extension(f *gifFrame) error {
	label, err := w.read(1)
	if err != nil {
		return err
	}
	if label[0] != 0xf9 {
		return w.blocks()
	}
	b, err := w.read(6)
	if err != nil {
		return err
	}
	if b[0] != 4 || b[5] != 0 {
		return media.Errorf(media.Malformed, "video: gif: graphic control of %d bytes", b[0])
	}
	f.control = [8]byte{0x21, 0xf9, b[0], b[1], b[2], b[3], b[4], b[5]}
	f.has, f.disposal, f.delay = true, b[1]>>2&7, int(b[2])|int(b[3])<<8
	return nil
}

func (w *gifWalk) picture(f *gifFrame) error {
	b, err := w.read(9)
	if err != nil {
		return err
	}
	x, y := int(b[0])|int(b[1])<<8, int(b[2])|int(b[3])<<8
	f.box = image.Rect(x, y, x+(int(b[4])|int(b[5])<<8), y+(int(b[6])|int(b[7])<<8))
	if b[8]&0x80 != 0 {
		if _, err := w.read(3 << (b[8]&7 + 1)); err != nil {
			return err
		}
	}
	if _, err := w.read(1); err != nil { // code size
		return err
	}
	err = w.blocks()
	f.end = w.at
	return err
}

// blocks passes over data sub-blocks.
func (w *gifWalk) blocks() error {
	for {
		n, err := w.r.ReadByte()
		if err != nil {
			return io.ErrUnexpectedEOF
		}
		w.at++
		if n == 0 {
			return nil
		}
		k, err := w.r.Discard(int(n))
		w.at += int64(k)
		if err != nil {
			return io.ErrUnexpectedEOF
		}
	}
}

// frame implements source: it shows frames up to i on the canvas, from the first when i lies
// behind.
func (g *gifVideo) frame(ctx context.Context, i int) (*imagefile.Image, error) {
	if i < g.next {
		g.next = 0
	}
	for ; g.next <= i; g.next++ {
		if err := g.show(ctx, g.next); err != nil {
			return nil, inFrame(g.next, err)
		}
	}
	out := image.NewNRGBA(g.canvas.Rect)
	copy(out.Pix, g.canvas.Pix)
	c := imagefile.Config{MediaType: "image/gif", Width: g.config.Width, Height: g.config.Height, Orientation: 1, Frames: 1}
	return &imagefile.Image{Config: c, NRGBA: out}, nil
}

// show disposes of the frame before and draws frame i.
func (g *gifVideo) show(ctx context.Context, i int) error {
	if i == 0 {
		g.canvas = image.NewNRGBA(image.Rect(0, 0, g.config.Width, g.config.Height))
		g.saved = nil
	} else {
		g.dispose(&g.frames[i-1])
	}
	fr := &g.frames[i]
	if fr.disposal == 3 {
		g.saved = image.NewNRGBA(g.canvas.Rect)
		copy(g.saved.Pix, g.canvas.Pix)
	}
	parts := []io.Reader{bytes.NewReader(g.pre)}
	if fr.has {
		parts = append(parts, bytes.NewReader(fr.control[:]))
	}
	parts = append(parts, media.NewReader(ctx, io.NewSectionReader(g.f.at, fr.at, fr.end-fr.at), fr.end-fr.at), bytes.NewReader([]byte{0x3b}))
	img, err := gif.Decode(io.MultiReader(parts...))
	if err != nil {
		return media.Wrap(err, media.Malformed, "gif")
	}
	draw.Draw(g.canvas, img.Bounds(), img, img.Bounds().Min, draw.Over)
	return nil
}

func (g *gifVideo) dispose(last *gifFrame) {
	switch last.disposal {
	case 2:
		draw.Draw(g.canvas, last.box, image.Transparent, image.Point{}, draw.Src)
	case 3:
		if g.saved != nil {
			g.canvas, g.saved = g.saved, nil
		}
	}
}
