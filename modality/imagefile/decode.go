package imagefile

import (
	"context"
	"image"

	"github.com/mmserve/mmserve/modality/media"
)

// Image is a decoded picture: upright, 8 bits a channel, alpha not multiplied in.
type Image struct {
	Config
	*image.NRGBA
}

// Decode reads a picture: the first frame of an animation on its canvas, the first page of a
// TIFF. The work is bounded by the limits and by ctx; a stream is read to its end first.
func Decode(ctx context.Context, in media.Input, o Options) (*Image, error) {
	in, done, err := media.Spool(ctx, in)
	if err != nil {
		return nil, err
	}
	defer done()
	h, err := in.Header()
	if err != nil {
		return nil, err
	}
	ctx, cancel := h.Limits.Context(ctx)
	defer cancel()
	s, f, err := newSource(ctx, h, o)
	if err != nil {
		return nil, err
	}
	c, err := readConfig(s, f)
	if err != nil {
		return nil, err
	}
	img, err := f.decode(s, c)
	if err != nil {
		return nil, s.fault(err)
	}
	if err := ctx.Err(); err != nil {
		return nil, media.Wrap(err, media.TimedOut, s.what)
	}
	w, hgt := c.stored()
	if b := img.Bounds(); b.Dx() != w || b.Dy() != hgt {
		return nil, s.errorf(media.Malformed, "%d×%d pixels where the header says %d×%d", b.Dx(), b.Dy(), w, hgt)
	}
	return &Image{Config: c, NRGBA: upright(img, c.Orientation)}, nil
}
