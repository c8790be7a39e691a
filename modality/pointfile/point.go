package pointfile

import (
	"bufio"
	"io"
	"math"

	"github.com/mmserve/mmserve/modality/media"
)

// Point is one point of a cloud. Coordinates stay float64, in the units of the file, so that
// clouds in map coordinates can be centred before they become float32.
type Point struct {
	XYZ       [3]float64
	Normal    [3]float32 // as stored, zero where the file has none
	Color     [3]float32 // red, green, blue in 0..1
	Intensity float32    // integers are scaled to 0..1, floats are as stored
}

// Finite reports whether the three coordinates are numbers that float32 can hold.
func (p *Point) Finite() bool {
	for _, v := range p.XYZ {
		if !(math.Abs(v) <= math.MaxFloat32) {
			return false
		}
	}
	return true
}

// Header is what a file says about itself before its first point.
type Header struct {
	Format      string // ply, pcd, off, obj, las, npy, xyz or json
	Encoding    string // ascii, binary_little_endian, binary_big_endian, binary_compressed
	Version     string // of the format, where the file tells it
	PointFormat int    // LAS point data record format

	Points      int64 // points in the file; -1 when only the data tells
	RecordBytes int   // bytes of one point in the file; 0 when they vary
	Held        int64 // bytes the decoder holds at once, for files stored column by column

	// AlwaysFinite is set when every point's coordinates are finite whatever the data, as with
	// integers.
	AlwaysFinite bool

	HasNormals, HasColor, HasIntensity bool

	Notes []string // what was ignored or assumed, for people
}

// Options says what is known about the bytes.
type Options struct {
	// Size is the length of the input in bytes; negative when unknown.
	Size int64
	// Format is what the caller takes the format for, from a file name or a media type. Magic
	// bytes win over it; empty leaves the decision to them and a look at the text.
	Format string
	// Limits bounds points and bytes; the zero value means media's defaults.
	Limits media.Limits
}

// Reader yields the points of one file, forward only.
type Reader struct {
	Header

	body   body
	read   int64
	points int64 // limit
}

// body decodes the points behind a header. read fills dst with up to len(dst) points and
// returns io.EOF, with no points, after the last.
type body interface {
	read(dst []Point) (int, error)
}

// window is the read buffer of a Reader, and so the longest header prefix a decoder may look
// at without consuming it and the longest line of a text format.
const window = 64 << 10

// Open reads the header of a point cloud and checks its claims against the size of the input
// and the limits. It reads no further than the header and one buffer, and allocates nothing
// in proportion to a claimed count.
func Open(src io.Reader, o Options) (*Reader, error) {
	o.Limits = o.Limits.WithDefaults()
	in := newInput(src)
	if o.Size < 0 {
		o.Size = math.MaxInt64
	}
	prefix, err := in.Peek(512)
	if err != nil && err != io.EOF {
		return nil, failed(err, "read header")
	}
	format := pick(prefix, o.Format)
	switch {
	case len(prefix) == 0:
		return nil, empty("no bytes")
	case format == "":
		return nil, unsupported("format not recognised")
	}
	open, ok := formats[format]
	if !ok {
		return nil, unsupported("%s files are not read", format)
	}
	r := &Reader{points: o.Limits.Points}
	r.Format, r.Points = format, -1
	if err := open(r, in, &o); err != nil {
		return nil, failed(err, format)
	}
	r.AlwaysFinite = r.AlwaysFinite && r.Encoding != "ascii"
	if err := r.check(); err != nil {
		return nil, err
	}
	return r, nil
}

// check compares the header's count with the limits.
func (r *Reader) check() error {
	if r.Points == 0 {
		return empty("%s: no points", r.Format)
	}
	if r.Points > r.points {
		return tooLarge(r.Format+": points", r.points, r.Points)
	}
	return nil
}

// Read fills dst with the next points and returns how many. After the last point it returns
// io.EOF. A file that ends before the count of its header is a truncated error.
func (r *Reader) Read(dst []Point) (int, error) {
	if r.Points >= 0 {
		left := r.Points - r.read
		if left == 0 {
			return 0, io.EOF
		}
		dst = dst[:min(int64(len(dst)), left)]
	}
	n, err := r.body.read(dst)
	r.read += int64(n)
	switch {
	case err != nil && err != io.EOF:
		return n, failed(err, r.Format)
	case err == io.EOF && r.Points >= 0:
		return n, truncated("%s: %d of %d points present", r.Format, r.read, r.Points)
	case err == io.EOF && r.read == 0:
		return 0, empty("%s: no points", r.Format)
	case r.read > r.points:
		return 0, tooLarge(r.Format+": points", r.points, r.read)
	}
	return n, err
}

// input counts what a decoder has consumed, so that claimed sizes can be compared with what
// is left of the file.
type input struct {
	*bufio.Reader
	src   io.Reader
	taken int64 // bytes handed to the buffer
}

func newInput(src io.Reader) *input {
	in := &input{src: src}
	in.Reader = bufio.NewReaderSize(counted{in}, window)
	return in
}

// counted is the source under the buffer.
type counted struct{ in *input }

func (c counted) Read(p []byte) (int, error) {
	n, err := c.in.src.Read(p)
	c.in.taken += int64(n)
	return n, err
}

// at is the offset of the next byte.
func (in *input) at() int64 { return in.taken - int64(in.Buffered()) }
