package imagefile

import "image"

// RGB is a picture of three bytes a pixel, row-major: H rows of W·3 bytes.
type RGB struct {
	W, H int
	Pix  []uint8
}

// NewRGB returns a black picture.
func NewRGB(w, h int) *RGB { return &RGB{W: w, H: h, Pix: make([]uint8, 3*w*h)} }

// Alpha says what becomes of transparency when a picture is made RGB.
type Alpha uint8

const (
	// DropAlpha keeps the colours as stored, as Pillow's convert("RGB") does.
	DropAlpha Alpha = iota
	// OnWhite puts the picture on a white ground, as Pillow's alpha_composite does.
	OnWhite
)

// RGB returns the picture without alpha.
func (m *Image) RGB(a Alpha) *RGB { return ToRGB(m.NRGBA, a) }

// ToRGB returns a picture without its alpha.
func ToRGB(src *image.NRGBA, a Alpha) *RGB {
	w, h := src.Rect.Dx(), src.Rect.Dy()
	dst := NewRGB(w, h)
	for y := range h {
		in, out := src.Pix[y*src.Stride:][:4*w], dst.Pix[3*w*y:][:3*w]
		for ; len(out) >= 3 && len(in) >= 4; in, out = in[4:], out[3:] {
			p, q := (*[4]uint8)(in), (*[3]uint8)(out)
			if a == OnWhite && p[3] != 255 {
				q[0], q[1], q[2] = onWhite(p[0], p[3]), onWhite(p[1], p[3]), onWhite(p[2], p[3])
				continue
			}
			q[0], q[1], q[2] = p[0], p[1], p[2]
		}
	}
	return dst
}

// onWhite composites v of alpha a over opaque white in Pillow's fixed point.
func onWhite(v, a uint8) uint8 {
	const bits = 7
	if a == 0 {
		return 255
	}
	alpha := uint32(a)
	out := alpha*255 + 255*(255-alpha)
	coef := alpha * 255 * 255 * (1 << bits) / out
	t := uint32(v)*coef + 255*(255*(1<<bits)-coef) + 0x80<<bits
	return uint8((t>>8 + t) >> 8 >> bits)
}

// Crop returns the w×h pixels with their corner at x,y. What lies outside the picture is black.
func (p *RGB) Crop(x, y, w, h int) *RGB {
	if x == 0 && y == 0 && w == p.W && h == p.H {
		return p
	}
	dst := NewRGB(w, h)
	x0, x1 := max(x, 0), min(x+w, p.W)
	for row := max(y, 0); row < min(y+h, p.H) && x0 < x1; row++ {
		copy(dst.Pix[3*((row-y)*w+x0-x):], p.Pix[3*(row*p.W+x0):3*(row*p.W+x1)])
	}
	return dst
}

// NRGBA returns the picture as an opaque NRGBA.
func (p *RGB) NRGBA() *image.NRGBA {
	dst := image.NewNRGBA(image.Rect(0, 0, p.W, p.H))
	for i := range p.W * p.H {
		set(dst.Pix[4*i:], p.Pix[3*i], p.Pix[3*i+1], p.Pix[3*i+2], 255)
	}
	return dst
}
