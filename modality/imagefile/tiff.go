package imagefile

import (
	"encoding/binary"
	"fmt"
	"image"
	"io"

	"golang.org/x/image/tiff"

	"github.com/mmserve/mmserve/modality/media"
)

// Bounds of what is walked in a TIFF.
const (
	tiffPages   = 4096
	tiffEntries = 512
	tiffStrips  = 1 << 20
)

// The tags that matter before decoding.
const (
	tagWidth, tagHeight           = 256, 257
	tagBits                       = 258
	tagCompression                = 259
	tagPhotometric                = 262
	tagOrientation                = 274
	tagSamples                    = 277
	tagRowsPerStrip               = 278
	tagTileWidth, tagTileHeight   = 322, 323
	tagStripOffsets, tagStripSize = 273, 279
	tagTileOffsets, tagTileSize   = 324, 325
	tagICC                        = 34675
)

// tiffDir is the first values of the tags of one directory.
type tiffDir struct {
	value map[int]int64
	count map[int]int64
}

// tiffConfig reads the first directory and counts the pages.
func tiffConfig(s *source) (Config, error) {
	p, err := s.read(0, 8)
	if err != nil {
		return Config{}, err
	}
	var order binary.ByteOrder = binary.LittleEndian
	if p[0] == 'M' {
		order = binary.BigEndian
	}
	d, next, err := s.tiffDirectory(order, int64(order.Uint32(p[4:])))
	if err != nil {
		return Config{}, err
	}
	c := Config{Width: int(d.value[tagWidth]), Height: int(d.value[tagHeight]), Frames: 1, Orientation: int(d.value[tagOrientation])}
	const held = 8 + 4
	if err := s.l.Picture(s.what, int64(c.Width), int64(c.Height), held); err != nil {
		return c, err
	}
	c.DecodedBytes = held * int64(c.Width) * int64(c.Height)
	if err := s.tiffLayout(d, c); err != nil {
		return c, err
	}
	if d.count[tagICC] > 0 {
		c.Notes = append(c.Notes, noteICC)
	}
	seen := map[int64]bool{}
	for next != 0 && c.Frames < tiffPages && !seen[next] {
		seen[next] = true
		if _, next, err = s.tiffDirectory(order, next); err != nil {
			break
		}
		c.Frames++
	}
	if c.Frames > 1 {
		c.Notes = append(c.Notes, fmt.Sprintf("the first of %d pages", c.Frames))
	}
	// Fax pages whose zero is black come out of the decoder as negatives.
	s.negative = d.value[tagPhotometric] == 1 && d.value[tagCompression] >= 2 && d.value[tagCompression] <= 4
	return c, s.plausible(0, s.size, 1, int64(c.Width)*int64(c.Height))
}

// tiffLayout refuses strips and tiles that do not fit the picture or the file.
func (s *source) tiffLayout(d tiffDir, c Config) error {
	tile := d.value[tagTileWidth] != 0 || d.value[tagTileHeight] != 0
	offsets, sizes := tagStripOffsets, tagStripSize
	if tile {
		offsets, sizes = tagTileOffsets, tagTileSize
		tw, th := d.value[tagTileWidth], d.value[tagTileHeight]
		if tw <= 0 || th <= 0 || tw > int64(c.Width)+4096 || th > int64(c.Height)+4096 {
			return s.errorf(media.Malformed, "tiles of %d×%d in a picture of %d×%d", tw, th, c.Width, c.Height)
		}
	} else if rows, ok := d.value[tagRowsPerStrip]; ok && rows == 0 {
		return s.errorf(media.Malformed, "strips of no rows")
	}
	if n := d.count[offsets]; n == 0 || n > tiffStrips || n != d.count[sizes] {
		return s.errorf(media.Malformed, "%d offsets and %d sizes of picture data", d.count[offsets], d.count[sizes])
	}
	if at, n := d.value[offsets], d.value[sizes]; d.count[offsets] == 1 && s.whole && at+n > s.size {
		return s.errorf(media.Truncated, "picture data of %d bytes at offset %d of %d", n, at, s.size)
	}
	if bits, samples := d.value[tagBits], d.value[tagSamples]; bits > 32 || samples > 8 {
		return s.errorf(media.Unsupported, "%d samples of %d bits", samples, bits)
	}
	return nil
}

// tiffDirectory reads a directory's entries: the count of each tag and its first value.
func (s *source) tiffDirectory(order binary.ByteOrder, at int64) (tiffDir, int64, error) {
	d := tiffDir{value: map[int]int64{}, count: map[int]int64{}}
	p, err := s.read(at, 2)
	if err != nil {
		return d, 0, err
	}
	n := int(order.Uint16(p))
	if n == 0 || n > tiffEntries {
		return d, 0, s.errorf(media.Malformed, "directory of %d entries", n)
	}
	if p, err = s.read(at+2, 12*n); err != nil {
		return d, 0, err
	}
	for i := range n {
		e := p[12*i:]
		tag, kind, count := int(order.Uint16(e)), int(order.Uint16(e[2:])), int64(order.Uint32(e[4:]))
		size := map[int]int64{1: 1, 3: 2, 4: 4}[kind]
		if size*count > s.size {
			return d, 0, s.errorf(media.Malformed, "tag %d of %d values in a file of %d bytes", tag, count, s.size)
		}
		body := e[8:12]
		if size*count > 4 {
			if body, err = s.read(int64(order.Uint32(body)), 4); err != nil {
				return d, 0, err
			}
		}
		d.count[tag] = count
		switch kind {
		case 1:
			d.value[tag] = int64(body[0])
		case 3:
			d.value[tag] = int64(order.Uint16(body))
		case 4:
			d.value[tag] = int64(order.Uint32(body))
		}
	}
	next := int64(0)
	if p, err = s.read(at+2+int64(12*n), 4); err == nil {
		next = int64(order.Uint32(p))
	}
	return d, next, nil
}

func tiffDecode(s *source, c Config) (*image.NRGBA, error) {
	img, err := tiff.Decode(struct {
		io.Reader
		io.ReaderAt // the decoder would read all of a plain Reader into memory
	}{s.reader(), media.NewReaderAt(s.ctx, io.NewSectionReader(s.at, 0, s.size))})
	if err != nil {
		if _, ok := err.(tiff.UnsupportedError); ok {
			return nil, &media.Error{Code: media.Unsupported, Detail: s.what, Err: err}
		}
		return nil, err
	}
	out, err := toNRGBA(s.ctx, img)
	if err == nil && s.negative {
		for i := 0; i < len(out.Pix); i += 4 {
			set(out.Pix[i:], 255-out.Pix[i], 255-out.Pix[i+1], 255-out.Pix[i+2], out.Pix[i+3])
		}
	}
	return out, err
}
