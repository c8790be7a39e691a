package media

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Input is one thing to adapt: bytes, or parts. Exactly one of At, Stream and Parts is set.
//
//   - At: the bytes can be read at any place and again (a file, memory). This is the usual kind.
//   - Stream: the bytes can be read once, forwards.
//   - Parts: a composite, such as the frames of a video or the members of a fusion.
type Input struct {
	Name      string // a file name; only its extension means anything, and only as a hint
	MediaType string // as declared by the caller, may be empty or wrong: a hint
	Kind      string // the adapter's name when the caller fixes it; empty: detect
	At        io.ReaderAt
	Size      int64 // bytes; -1 when unknown (streams)
	Stream    *bufio.Reader
	Parts     []Input
	Limits    Limits
}

// Header is what may be looked at before the work is decided on. A plan reads Head and, where
// the format hides its facts further in (behind a 200 KB comment, in a trailing index), At; it
// reads no more of At than the structure it walks.
type Header struct {
	Name      string
	MediaType string
	Kind      string
	Size      int64       // bytes; -1 when unknown
	Head      []byte      // the first bytes, HeadBytes of them or all; not to be changed
	At        io.ReaderAt // nil when the input is forward only
	Parts     []Header
	Limits    Limits
}

// HeadBytes is the length of Header.Head for inputs at least as long.
const HeadBytes = 64 << 10

// Bytes is an input in memory. The data must not change while it is in use.
func Bytes(name string, data []byte) Input {
	return Input{Name: name, At: &memory{bytes.NewReader(data), data}, Size: int64(len(data))}
}

// memory is data whose head needs no copy.
type memory struct {
	*bytes.Reader
	data []byte
}

// File opens a file as an input. The caller closes it when the array is no longer read. A
// directory becomes a composite of its regular files, sorted by name.
func File(path string) (Input, io.Closer, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Input{}, nil, &Error{Code: Unreadable, Detail: "media: open", Err: err}
	}
	if info.IsDir() {
		return directory(path)
	}
	f, err := os.Open(path)
	if err != nil {
		return Input{}, nil, &Error{Code: Unreadable, Detail: "media: open", Err: err}
	}
	if !info.Mode().IsRegular() {
		return Stream(path, f), f, nil
	}
	return Input{Name: path, At: f, Size: info.Size()}, f, nil
}

// directory makes a composite of the files of a directory. They are opened when they are read.
func directory(path string) (Input, io.Closer, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return Input{}, nil, &Error{Code: Unreadable, Detail: "media: open", Err: err}
	}
	in := Input{Name: path, Size: -1}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		name := filepath.Join(path, e.Name())
		in.Parts = append(in.Parts, Input{Name: name, At: lazyFile(name), Size: info.Size()})
	}
	if len(in.Parts) == 0 {
		return Input{}, nil, Errorf(Empty, "media: directory %s: no files", path)
	}
	return in, io.NopCloser(nil), nil
}

// lazyFile is a file that is opened for each read, so a directory of many holds none open.
type lazyFile string

func (name lazyFile) ReadAt(p []byte, off int64) (int, error) {
	f, err := os.Open(string(name))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return f.ReadAt(p, off)
}

// Stream is an input that can be read once.
func Stream(name string, r io.Reader) Input {
	return Input{Name: name, Stream: bufio.NewReaderSize(r, HeadBytes), Size: -1}
}

// Replayable reports whether the bytes can be read again.
func (in Input) Replayable() bool {
	for _, p := range in.Parts {
		if !p.Replayable() {
			return false
		}
	}
	return in.Stream == nil
}

// Reader reads the bytes from the start (At) or from where a stream stands. A composite has no
// bytes of its own: its reader is at its end.
func (in Input) Reader() io.Reader {
	switch {
	case in.Stream != nil:
		return in.Stream
	case in.At != nil && in.Size >= 0:
		return io.NewSectionReader(in.At, 0, in.Size)
	case in.At != nil:
		return io.NewSectionReader(in.At, 0, noLimit)
	}
	return strings.NewReader("")
}

// Header looks at the start of the input. A stream is not advanced. An input of no bytes is an
// Empty error; one above Limits.Bytes, or of more parts than Limits.Parts, is TooLarge.
func (in Input) Header() (Header, error) {
	h := Header{Name: in.Name, MediaType: in.MediaType, Kind: in.Kind, Size: in.Size, At: in.At, Limits: in.Limits}
	l := in.Limits.WithDefaults()
	if in.Parts != nil {
		return h, in.partHeaders(&h, l)
	}
	if err := Check("media: bytes", l.Bytes, in.Size); err != nil {
		return h, err
	}
	var err error
	switch {
	case in.Stream != nil:
		h.Head, err = in.Stream.Peek(HeadBytes)
	case in.At != nil:
		n := int64(HeadBytes)
		if in.Size >= 0 {
			n = min(n, in.Size)
		}
		if m, ok := in.At.(*memory); ok && n <= int64(len(m.data)) {
			h.Head = m.data[:n:n]
			break
		}
		h.Head = make([]byte, n)
		n32, e := in.At.ReadAt(h.Head, 0)
		h.Head, err = h.Head[:n32], e
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return h, Wrap(err, Unreadable, "media: read header")
	}
	if len(h.Head) == 0 {
		return h, Errorf(Empty, "media: no bytes")
	}
	return h, nil
}

func (in Input) partHeaders(h *Header, l Limits) error {
	if err := Check("media: parts", l.Parts, len(in.Parts)); err != nil {
		return err
	}
	for _, p := range in.Parts {
		p.Limits = in.Limits
		ph, err := p.Header()
		if err != nil {
			return err
		}
		// A part keeps only what sniffing needs: twenty thousand whole heads would be 1.2 GB.
		ph.Head = append([]byte(nil), ph.Head[:min(len(ph.Head), 4096)]...)
		h.Parts = append(h.Parts, ph)
	}
	return nil
}

// Reader reads the header's input from the start as far as it can be read without consuming
// it: all of a replayable input, the head of a stream.
func (h Header) Reader() io.Reader {
	if h.At == nil {
		return bytes.NewReader(h.Head)
	}
	size := h.Size
	if size < 0 {
		size = noLimit
	}
	return io.NewSectionReader(h.At, 0, size)
}

// Ext is the extension of the name in lower case, with its dot.
func (h Header) Ext() string { return strings.ToLower(filepath.Ext(h.Name)) }

// Has reports whether the head holds magic at off.
func (h Header) Has(off int, magic string) bool {
	return off >= 0 && off+len(magic) <= len(h.Head) && string(h.Head[off:off+len(magic)]) == magic
}

// Spool makes an input replayable. A stream is read to its end (under Limits.Bytes), into memory
// up to Limits.Memory and into an unnamed temporary file beyond; done releases that. Any other
// input is returned as it is.
func Spool(ctx context.Context, in Input) (out Input, done func(), err error) {
	if in.Stream == nil {
		return in, func() {}, nil
	}
	l := in.Limits.WithDefaults()
	r := NewReader(ctx, in.Stream, l.Bytes)
	head, err := io.ReadAll(io.LimitReader(r, l.Memory))
	if err != nil {
		return in, nil, Wrap(err, Unreadable, "media: read stream")
	}
	out = in
	out.Stream = nil
	if int64(len(head)) < l.Memory {
		out.At, out.Size = bytes.NewReader(head), int64(len(head))
		return out, func() {}, nil
	}
	f, err := os.CreateTemp("", "mmserve-*")
	if err != nil {
		return in, nil, Wrap(err, Unreadable, "media: spool")
	}
	done = func() { f.Close(); os.Remove(f.Name()) }
	n, err := io.Copy(f, io.MultiReader(bytes.NewReader(head), r))
	if err != nil {
		done()
		return in, nil, Wrap(err, Unreadable, "media: spool")
	}
	out.At, out.Size = f, n
	return out, done, nil
}
