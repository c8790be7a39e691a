package imagefile

import (
	"image"

	"github.com/disintegration/imaging"
)

// This is the only file that uses package imaging. Turning and mirroring move pixels without
// changing them; Thumbnail is for people to look at.

// upright applies an EXIF orientation.
func upright(img *image.NRGBA, orientation int) *image.NRGBA {
	switch orientation {
	case 2:
		return imaging.FlipH(img)
	case 3:
		return imaging.Rotate180(img)
	case 4:
		return imaging.FlipV(img)
	case 5:
		return imaging.Transpose(img)
	case 6:
		return imaging.Rotate270(img)
	case 7:
		return imaging.Transverse(img)
	case 8:
		return imaging.Rotate90(img)
	}
	return img
}

// Thumbnail returns the picture made to fit within w×h, its aspect kept; a smaller one is
// returned as it is.
func (m *Image) Thumbnail(w, h int) *image.NRGBA {
	if m.Rect.Dx() <= w && m.Rect.Dy() <= h {
		return m.NRGBA
	}
	return imaging.Fit(m.NRGBA, max(w, 1), max(h, 1), imaging.Lanczos)
}
