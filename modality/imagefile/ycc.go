package imagefile

import "image"

// Chroma is stored at half the size along one or both axes. The decoders that the references
// use (libjpeg-turbo, libwebp) put it back with a triangle filter, not by repeating samples, and
// so does this file: repeating shifts colours by up to several levels at edges, which a model
// sees.

// chroma gives the chroma of row y at full width.
type chroma struct {
	m      *image.YCbCr
	cb, cr []uint8
	sum    []int32
	line   func(dst, plane []uint8, y int)
}

// newChroma picks the filter for a picture's subsampling.
func newChroma(m *image.YCbCr, webp bool) *chroma {
	w := m.Rect.Dx()
	c := &chroma{m: m, cb: make([]uint8, w), cr: make([]uint8, w)}
	cw := (w + 1) / 2
	switch r := m.SubsampleRatio; {
	case webp:
		c.line = c.webp420
	case r == image.YCbCrSubsampleRatio420 && cw > 2:
		c.line = c.jpeg420
	case r == image.YCbCrSubsampleRatio422 && cw > 2:
		c.line = c.jpeg422
	case r == image.YCbCrSubsampleRatio440:
		c.line = c.jpeg440
	default:
		c.line = c.nearest
	}
	c.sum = make([]int32, cw)
	return c
}

// row fills cb and cr for row y.
func (c *chroma) row(y int) {
	c.line(c.cb, c.m.Cb, y)
	c.line(c.cr, c.m.Cr, y)
}

// nearest repeats samples.
func (c *chroma) nearest(dst, plane []uint8, y int) {
	for x := range dst {
		dst[x] = plane[c.m.COffset(c.m.Rect.Min.X+x, c.m.Rect.Min.Y+y)]
	}
}

// rows returns the chroma rows a full row y lies between at half height: the nearer and the
// farther one, the border repeated. n is their length.
func (c *chroma) rows(plane []uint8, y, n int) (near, far []uint8) {
	last := (c.m.Rect.Dy() - 1) / 2
	i := y / 2
	j := i - 1 + 2*(y&1)
	j = max(0, min(j, last))
	return plane[i*c.m.CStride:][:n], plane[j*c.m.CStride:][:n]
}

// jpeg420 is libjpeg's h2v2 fancy upsampling: weights 9, 3, 3, 1, rounding alternately.
func (c *chroma) jpeg420(dst, plane []uint8, y int) {
	n := len(c.sum)
	near, far := c.rows(plane, y, n)
	for i := range n {
		c.sum[i] = 3*int32(near[i]) + int32(far[i])
	}
	before := c.sum[0]
	for i, v := range c.sum {
		dst[2*i] = uint8((3*v + before + 8) >> 4)
		if 2*i+1 < len(dst) {
			dst[2*i+1] = uint8((3*v + c.sum[min(i+1, n-1)] + 7) >> 4)
		}
		before = v
	}
}

// jpeg422 is libjpeg's h2v1 fancy upsampling.
func (c *chroma) jpeg422(dst, plane []uint8, y int) {
	n := len(c.sum)
	row := plane[y*c.m.CStride:][:n]
	for x := range dst {
		i := x / 2
		if x&1 == 0 {
			dst[x] = uint8((3*int32(row[i]) + int32(row[max(i-1, 0)]) + 1) >> 2)
		} else {
			dst[x] = uint8((3*int32(row[i]) + int32(row[min(i+1, n-1)]) + 2) >> 2)
		}
	}
}

// jpeg440 is libjpeg-turbo's h1v2 fancy upsampling.
func (c *chroma) jpeg440(dst, plane []uint8, y int) {
	near, far := c.rows(plane, y, len(dst))
	bias := int32(1 + y&1)
	for x := range dst {
		dst[x] = uint8((3*int32(near[x]) + int32(far[x]) + bias) >> 2)
	}
}

// webp420 is libwebp's fancy upsampling.
func (c *chroma) webp420(dst, plane []uint8, y int) {
	n := len(c.sum)
	near, far := c.rows(plane, y, n)
	for x := range dst {
		i := x / 2
		j := max(0, min(i-1+2*(x&1), n-1))
		dst[x] = uint8((9*int32(near[i]) + 3*int32(near[j]) + 3*int32(far[i]) + int32(far[j]) + 8) >> 4)
	}
}

// jpegRow converts rows of a JPEG: full-range BT.601.
func jpegRow(m *image.YCbCr) func(dst []uint8, y int) {
	c := newChroma(m, false)
	return func(dst []uint8, y int) {
		y -= m.Rect.Min.Y
		c.row(y)
		luma := m.Y[y*m.YStride:][:m.Rect.Dx()]
		for x, l := range luma {
			v, cb, cr := int32(l), int32(c.cb[x])-128, int32(c.cr[x])-128
			const half = 1 << 15
			r := v + (91881*cr+half)>>16
			g := v + (-22554*cb-46802*cr+half)>>16
			b := v + (116130*cb+half)>>16
			set(dst[4*x:], clamp(r), clamp(g), clamp(b), 255)
		}
	}
}

// webpRow converts rows of a lossy WebP: BT.601 in the studio range 16..235, in libwebp's fixed
// point.
func webpRow(m *image.YCbCr) func(dst []uint8, y int) {
	c := newChroma(m, true)
	return func(dst []uint8, y int) {
		y -= m.Rect.Min.Y
		c.row(y)
		luma := m.Y[y*m.YStride:][:m.Rect.Dx()]
		for x, l := range luma {
			v, cb, cr := int32(l)*19077>>8, int32(c.cb[x]), int32(c.cr[x])
			r := v + cr*26149>>8 - 14234
			g := v - cb*6419>>8 - cr*13320>>8 + 8708
			b := v + cb*33050>>8 - 17685
			set(dst[4*x:], clamp(r>>6), clamp(g>>6), clamp(b>>6), 255)
		}
	}
}

func clamp(v int32) uint8 { return uint8(max(0, min(v, 255))) }
