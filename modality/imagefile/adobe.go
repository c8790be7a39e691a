package imagefile

import (
	"bytes"
	"io"
)

// Four-component JPEGs from Adobe programs store their ink inverted and say so with an APP14
// marker, which the standard decoder insists on. Other writers store plain CMYK without the
// marker: theirs is put in for them and the ink turned back afterwards.

// newAdobe is the start of a JPEG with an Adobe marker of transform 0.
func newAdobe() io.Reader {
	return bytes.NewReader([]byte{0xFF, 0xD8, 0xFF, 0xEE, 0, 14, 'A', 'd', 'o', 'b', 'e', 0, 100, 0, 0, 0, 0, 0})
}

// skipping leaves out the first n bytes of r.
func skipping(r io.Reader, n int64) io.Reader {
	return &skipped{r: r, n: n}
}

type skipped struct {
	r io.Reader
	n int64
}

// Read implements io.Reader.
func (s *skipped) Read(p []byte) (int, error) {
	if s.n > 0 {
		if _, err := io.CopyN(io.Discard, s.r, s.n); err != nil {
			return 0, err
		}
		s.n = 0
	}
	return s.r.Read(p)
}
