package imagefile

import "encoding/binary"

// exifEntries bounds the entries of the one directory that is read.
const exifEntries = 1024

// exifOrientation finds the orientation tag in the first directory of a TIFF structure (the
// body of an EXIF block), and returns 1 when there is none or the block is broken: a picture
// is never refused for its EXIF.
func exifOrientation(p []byte) int {
	if has(p, 0, "Exif\x00\x00") {
		p = p[6:]
	}
	var order binary.ByteOrder = binary.LittleEndian
	switch {
	case has(p, 0, "II*\x00"):
	case has(p, 0, "MM\x00*"):
		order = binary.BigEndian
	default:
		return 1
	}
	if len(p) < 8 {
		return 1
	}
	at := int64(order.Uint32(p[4:]))
	if at+2 > int64(len(p)) {
		return 1
	}
	n := int(order.Uint16(p[at:]))
	for i := range min(n, exifEntries) {
		e := at + 2 + 12*int64(i)
		if e+12 > int64(len(p)) {
			return 1
		}
		const orientation, short = 0x0112, 3
		if order.Uint16(p[e:]) == orientation && order.Uint16(p[e+2:]) == short {
			if v := int(order.Uint16(p[e+8:])); v >= 1 && v <= 8 {
				return v
			}
			return 1
		}
	}
	return 1
}
