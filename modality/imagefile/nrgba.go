package imagefile

import (
	"context"
	"image"
	"image/color"

	"github.com/mmserve/mmserve/modality/media"
)

// toNRGBA returns a decoder's picture as 8-bit NRGBA with its corner at 0,0. Sixteen-bit
// channels keep their high byte. An index beyond a palette is transparent black.
func toNRGBA(ctx context.Context, img image.Image) (*image.NRGBA, error) {
	b := img.Bounds()
	if n, ok := img.(*image.NRGBA); ok && b.Min == (image.Point{}) {
		return n, nil
	}
	dst := image.NewNRGBA(image.Rect(0, 0, b.Dx(), b.Dy()))
	row := rowFunc(img)
	for y := range b.Dy() {
		if y&63 == 0 {
			if err := ctx.Err(); err != nil {
				return nil, media.Wrap(err, media.Canceled, "image: convert")
			}
		}
		row(dst.Pix[y*dst.Stride:][:4*b.Dx()], b.Min.Y+y)
	}
	return dst, nil
}

// rowFunc returns a function that writes row y of a picture as NRGBA.
func rowFunc(img image.Image) func(dst []uint8, y int) {
	b := img.Bounds()
	switch m := img.(type) {
	case *image.Gray:
		return func(dst []uint8, y int) {
			for x, v := range m.Pix[m.PixOffset(b.Min.X, y):][:b.Dx()] {
				set(dst[4*x:], v, v, v, 255)
			}
		}
	case *image.Gray16:
		return func(dst []uint8, y int) {
			src := m.Pix[m.PixOffset(b.Min.X, y):]
			for x := range b.Dx() {
				v := src[2*x]
				set(dst[4*x:], v, v, v, 255)
			}
		}
	case *image.Paletted:
		return palettedRow(m)
	case *image.NRGBA64:
		return func(dst []uint8, y int) {
			src := m.Pix[m.PixOffset(b.Min.X, y):]
			for x := range b.Dx() {
				p := src[8*x:]
				set(dst[4*x:], p[0], p[2], p[4], p[6])
			}
		}
	case *image.RGBA64: // opaque: the PNG decoder uses it for 16-bit RGB
		return func(dst []uint8, y int) {
			for x := range b.Dx() {
				c := color.NRGBA64Model.Convert(m.RGBA64At(b.Min.X+x, y)).(color.NRGBA64)
				set(dst[4*x:], uint8(c.R>>8), uint8(c.G>>8), uint8(c.B>>8), uint8(c.A>>8))
			}
		}
	case *image.YCbCr:
		return jpegRow(m)
	case *image.NYCbCrA:
		colour := webpRow(&m.YCbCr)
		return func(dst []uint8, y int) {
			colour(dst, y)
			for x := range min(b.Dx(), len(m.A)) {
				dst[4*x+3] = m.A[m.AOffset(b.Min.X+x, y)]
			}
		}
	case *image.CMYK:
		return cmykRow(m)
	}
	return func(dst []uint8, y int) {
		for x := range b.Dx() {
			c := color.NRGBAModel.Convert(img.At(b.Min.X+x, y)).(color.NRGBA)
			set(dst[4*x:], c.R, c.G, c.B, c.A)
		}
	}
}

func set(dst []uint8, r, g, b, a uint8) { dst[0], dst[1], dst[2], dst[3] = r, g, b, a }

func palettedRow(m *image.Paletted) func(dst []uint8, y int) {
	var table [256]color.NRGBA
	for i, c := range m.Palette[:min(len(m.Palette), 256)] {
		table[i] = color.NRGBAModel.Convert(c).(color.NRGBA)
	}
	b := m.Bounds()
	return func(dst []uint8, y int) {
		for x, i := range m.Pix[m.PixOffset(b.Min.X, y):][:b.Dx()] {
			c := table[i]
			set(dst[4*x:], c.R, c.G, c.B, c.A)
		}
	}
}

// cmykRow converts as Pillow does: r = (255-k) - c·(255-k)/255, the quotient rounded.
func cmykRow(m *image.CMYK) func(dst []uint8, y int) {
	b := m.Bounds()
	return func(dst []uint8, y int) {
		src := m.Pix[m.PixOffset(b.Min.X, y):]
		for x := range b.Dx() {
			p := src[4*x:]
			nk := 255 - int(p[3])
			set(dst[4*x:], ink(p[0], nk), ink(p[1], nk), ink(p[2], nk), 255)
		}
	}
}

func ink(v uint8, nk int) uint8 {
	t := int(v)*nk + 128
	return uint8(nk - (t>>8+t)>>8)
}
