package pointfile

import (
	"encoding/binary"
	"io"
)

// compressed opens the body of a binary_compressed PCD: two 32-bit sizes, then LZF data that
// holds the values of one field after those of the other.
func (r *Reader) compressed(in *input, o *Options, h *pcdHeader, fields []field, size int64) error {
	var sizes [8]byte
	if _, err := io.ReadFull(in, sizes[:]); err != nil {
		return truncated("pcd: no sizes before compressed data")
	}
	packed := int64(binary.LittleEndian.Uint32(sizes[:]))
	full := int64(binary.LittleEndian.Uint32(sizes[4:]))
	switch left := o.Size - in.at(); {
	case r.Points > full/size || full != r.Points*size:
		return malformed("pcd: %d bytes after decompression, want %d points of %d", full, r.Points, size)
	case packed > left:
		return truncated("pcd: %d compressed bytes, %d left", packed, left)
	case full > packed*lzfMost:
		return malformed("pcd: %d bytes cannot come from %d compressed", full, packed)
	}
	r.Held = full + packed
	if r.Held > o.Limits.Decoded {
		return tooLarge("pcd: decoded bytes", o.Limits.Decoded, r.Held)
	}
	// Offsets within a record become the starts of columns.
	c := &columns{order: binary.LittleEndian, points: r.Points, fields: fields}
	for i := range c.fields {
		c.fields[i].at *= int(r.Points)
	}
	c.load = func() ([]byte, error) {
		src, err := readAll(in, packed)
		if err != nil {
			return nil, err
		}
		dst := make([]byte, full)
		return dst, lzf(dst, src)
	}
	r.body = c
	return nil
}

// columns is a body whose fields lie one after the other, each for all points.
type columns struct {
	load   func() ([]byte, error) // called at the first read
	order  binary.ByteOrder
	fields []field // at: byte offset of the column
	points int64
	data   []byte
	done   int64
}

func (c *columns) read(dst []Point) (int, error) {
	if c.data == nil {
		data, err := c.load()
		if err != nil {
			return 0, err
		}
		c.data = data
	}
	n := int(min(int64(len(dst)), c.points-c.done))
	if n == 0 {
		return 0, io.EOF
	}
	dst = dst[:n]
	clear(dst)
	for k := range c.fields {
		f := &c.fields[k]
		size := f.typ.bytes()
		col := c.data[f.at+int(c.done)*size:]
		for i := range dst {
			if f.comp == compPacked {
				setPacked(&dst[i], c.order.Uint32(col[i*size:]))
				continue
			}
			f.set(&dst[i], f.typ.get(col[i*size:], c.order))
		}
	}
	c.done += int64(n)
	return n, nil
}

// readAll reads n bytes, growing as they come: a lying n costs no more than the file has.
func readAll(in *input, n int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(in, n))
	if err == nil && int64(len(b)) < n {
		err = truncated("%d of %d bytes present", len(b), n)
	}
	return b, err
}
