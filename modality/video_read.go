package modality

import (
	"context"

	"github.com/mmserve/mmserve/modality/imagefile"
	"github.com/mmserve/mmserve/modality/videofile"
)

// heldVideo is the most bytes of prepared frames that are kept; of a longer video only those
// of the patches being read are.
const heldVideo = 32 << 20

// videoContent gives the patches of a video's frames, time slowest, then y, then x.
type videoContent struct {
	a      *videoAdapter
	ctx    context.Context // of Adapt: bounds decoding while rows are read
	video  *videofile.Video
	frames []int // frame of the file for each time
	dims   [3]int

	all   []*imagefile.RGB // every frame, when they are kept
	group int              // else: the time of the patches that these are of
	now   []*imagefile.RGB
}

// Dims implements Content.
func (c *videoContent) Dims() (m, n int) { return c.dims[0] * c.dims[1] * c.dims[2], c.a.content() }

// Read implements Content.
func (c *videoContent) Read(dst []float32, ld, from, to int) error {
	plane := c.dims[1] * c.dims[2]
	for r := from; r < to; r++ {
		frames, err := c.at(r / plane)
		if err != nil {
			return err
		}
		c.patch(dst[(r-from)*ld:], frames, r%plane/c.dims[2], r%c.dims[2])
	}
	return nil
}

// patch writes the pixels of the patch at row y and column x: time, y, x, rgb.
func (c *videoContent) patch(dst []float32, frames []*imagefile.RGB, y, x int) {
	h, w := c.a.o.Patch[1], c.a.o.Patch[2]
	at := 0
	for _, f := range frames {
		for dy := range h {
			for _, v := range f.Pix[3*((y*h+dy)*f.W+x*w):][:3*w] {
				dst[at] = c.a.levels[v]
				at++
			}
		}
	}
}

// at returns the frames of the patches at time t.
func (c *videoContent) at(t int) ([]*imagefile.RGB, error) {
	n := c.a.o.Patch[0]
	if c.all != nil {
		return c.all[t*n : (t+1)*n], nil
	}
	if c.group != t {
		c.group = -1
		c.now = c.now[:0]
		for _, i := range c.frames[t*n : (t+1)*n] {
			f, err := c.prepare(i)
			if err != nil {
				return nil, err
			}
			c.now = append(c.now, f)
		}
		c.group = t
	}
	return c.now, nil
}

// hold prepares every frame. A frame that repeats is prepared once.
func (c *videoContent) hold() error {
	for k, i := range c.frames {
		if k > 0 && i == c.frames[k-1] {
			c.all = append(c.all, c.all[k-1])
			continue
		}
		f, err := c.prepare(i)
		if err != nil {
			return err
		}
		c.all = append(c.all, f)
	}
	return nil
}

// prepare decodes a frame, crops and resizes it.
func (c *videoContent) prepare(i int) (*imagefile.RGB, error) {
	img, err := c.video.Frame(c.ctx, i)
	if err != nil {
		return nil, err
	}
	p := img.RGB(imagefile.DropAlpha)
	if c.a.o.Crop == "center" {
		side := min(p.W, p.H)
		p = p.Crop((p.W-side)/2, (p.H-side)/2, side, side)
	}
	if p.W == c.a.o.Size && p.H == c.a.o.Size {
		return p, nil
	}
	return p.Resize(c.a.o.Size, c.a.o.Size, c.a.filter), nil
}
