package media

import (
	"context"
	"io"
)

// chunk is the most a Reader hands out at once, so that a decoder that cannot be interrupted
// comes back to the context after every few kilobytes of input.
const chunk = 4 << 10

// Reader reads until its context ends or its bytes are used up. The decoders of the standard
// library know no context; they are stopped by the error of their reader.
type Reader struct {
	ctx  context.Context
	r    io.Reader
	left int64
	max  int64
}

// NewReader bounds r by a context and a number of bytes; more is a TooLarge error.
func NewReader(ctx context.Context, r io.Reader, max int64) *Reader {
	return &Reader{ctx: ctx, r: r, left: max, max: max}
}

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	p = p[:min(len(p), chunk)]
	if r.left <= 0 {
		var one [1]byte
		if n, err := r.r.Read(one[:]); n == 0 {
			return 0, err
		}
		return 0, Exceeds("media: bytes", float64(r.max), float64(r.max)+1)
	}
	n, err := r.r.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	return n, err
}

// ReaderAt reads at any place until its context ends.
type ReaderAt struct {
	ctx context.Context
	at  io.ReaderAt
}

// NewReaderAt bounds at by a context.
func NewReaderAt(ctx context.Context, at io.ReaderAt) *ReaderAt { return &ReaderAt{ctx, at} }

// ReadAt implements io.ReaderAt.
func (r *ReaderAt) ReadAt(p []byte, off int64) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.at.ReadAt(p, off)
}
