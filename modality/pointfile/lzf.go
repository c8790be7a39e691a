package pointfile

// lzfMost is the most bytes that one byte of LZF data can stand for: a three-byte reference
// copies up to 264.
const lzfMost = 88

// lzf decodes LibLZF data: a control byte below 32 starts a run of that many literals plus
// one, any other is a reference to earlier output. The result must be exactly len(dst) long.
func lzf(dst, src []byte) error {
	at := 0
	for i := 0; i < len(src); {
		c := int(src[i])
		i++
		if c < 32 {
			n := c + 1
			if i+n > len(src) || at+n > len(dst) {
				return malformed("pcd: lzf: literal run past the end")
			}
			copy(dst[at:], src[i:i+n])
			i, at = i+n, at+n
			continue
		}
		n := c >> 5
		if n == 7 {
			if i >= len(src) {
				return malformed("pcd: lzf: data ends in a reference")
			}
			n += int(src[i])
			i++
		}
		if i >= len(src) {
			return malformed("pcd: lzf: data ends in a reference")
		}
		from := at - (c&31)<<8 - int(src[i]) - 1
		i++
		n += 2
		if from < 0 || at+n > len(dst) {
			return malformed("pcd: lzf: reference outside the output")
		}
		for k := range n { // may overlap: byte by byte
			dst[at+k] = dst[from+k]
		}
		at += n
	}
	if at != len(dst) {
		return malformed("pcd: lzf: %d bytes, want %d", at, len(dst))
	}
	return nil
}
