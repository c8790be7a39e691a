package audiofile

import (
	"context"
	"errors"
	"io"

	"github.com/mmserve/mmserve/modality/media"
)

// bufferBytes is what a source holds of its file; no structure that must be looked at as a whole
// (a page, a frame) is longer than half of it, except where peek is asked for more.
const bufferBytes = 64 << 10

// source is the bytes of a file, read forwards with a look ahead. Where the file can be read at
// any place, skipping costs nothing.
type source struct {
	ctx  context.Context
	at   io.ReaderAt // nil: stream
	rd   io.Reader   // nil: at
	size int64       // -1: unknown
	max  int64       // most bytes to read of a stream
	pos  int64       // place of buf[r]
	buf  []byte
	r, w int
	end  bool // nothing follows buf[:w]
	deep bool // all of the file may be walked for its length
}

func newSource(ctx context.Context, in media.Input) *source {
	s := &source{ctx: ctx, size: -1, max: in.Limits.WithDefaults().Bytes, buf: make([]byte, bufferBytes)}
	switch {
	case in.Stream != nil:
		s.rd = in.Stream
	case in.At != nil:
		s.at, s.size = in.At, in.Size
	default:
		s.end = true
	}
	return s
}

// peek returns the next n bytes without taking them: fewer, with io.ErrUnexpectedEOF, at the end.
func (s *source) peek(n int) ([]byte, error) {
	for s.w-s.r < n && !s.end {
		if err := s.fill(n); err != nil {
			return s.buf[s.r:s.w], err
		}
	}
	if s.w-s.r < n {
		return s.buf[s.r:s.w], io.ErrUnexpectedEOF
	}
	return s.buf[s.r : s.r+n], nil
}

// fill reads once behind what is buffered, making room for n bytes in all.
func (s *source) fill(n int) error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	if s.r > 0 {
		s.w = copy(s.buf, s.buf[s.r:s.w])
		s.r = 0
	}
	if n > len(s.buf) {
		s.buf = append(s.buf, make([]byte, n-len(s.buf))...)
	}
	m, err := s.readInto(s.buf[s.w:])
	s.w += m
	if errors.Is(err, io.EOF) || m == 0 && err == nil {
		s.end = true
		return nil
	}
	return err
}

func (s *source) readInto(p []byte) (int, error) {
	if s.rd != nil {
		n, err := s.rd.Read(p)
		if s.pos+int64(s.w+n) > s.max {
			return 0, media.Exceeds("audio: bytes", float64(s.max), float64(s.pos+int64(s.w+n)))
		}
		if n == 0 && err == nil {
			n, err = io.ReadAtLeast(s.rd, p, 1)
		}
		return n, err
	}
	from := s.pos + int64(s.w)
	if s.size >= 0 && from >= s.size {
		return 0, io.EOF
	}
	if s.size >= 0 {
		p = p[:min(int64(len(p)), s.size-from)]
	}
	return s.at.ReadAt(p, from)
}

// take consumes n bytes that were peeked.
func (s *source) take(n int) { s.r += n; s.pos += int64(n) }

// full fills p or says io.ErrUnexpectedEOF; io.EOF when there is nothing at all.
func (s *source) full(p []byte) error {
	b, err := s.peek(len(p))
	if err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) && len(b) == 0 {
			return io.EOF
		}
		return err
	}
	copy(p, b)
	s.take(len(p))
	return nil
}

// skip passes n bytes, or all there are.
func (s *source) skip(n int64) error {
	if have := int64(s.w - s.r); n <= have {
		s.take(int(n))
		return nil
	}
	if s.rd == nil && s.at != nil {
		to := s.pos + n
		if to < s.pos || s.size >= 0 && to > s.size {
			to = max(s.pos, s.size)
		}
		s.seek(to)
		return s.ctx.Err()
	}
	for n > 0 {
		have := int64(s.w - s.r)
		if have == 0 {
			if s.end {
				return nil
			}
			if err := s.fill(1); err != nil {
				return err
			}
			continue
		}
		m := min(n, have)
		s.take(int(m))
		n -= m
	}
	return nil
}

// seek goes to a place of a file that can be read at any place.
func (s *source) seek(to int64) {
	if d := to - s.pos; d >= 0 && d <= int64(s.w-s.r) {
		s.take(int(d))
		return
	}
	s.pos, s.r, s.w, s.end = to, 0, 0, false
}

// random reports whether seek may be used and the size is known.
func (s *source) random() bool { return s.at != nil && s.size >= 0 }

// left is the number of bytes not yet taken, -1 when unknown.
func (s *source) left() int64 {
	if s.end {
		return int64(s.w - s.r)
	}
	if s.size < 0 {
		return -1
	}
	return max(0, s.size-s.pos)
}
