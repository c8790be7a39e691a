package modality

import (
	"context"
	"fmt"
	"io"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/modality/pointfile"
)

const (
	pointBytes = 56      // of a pointfile.Point
	pointBlock = 1024    // points decoded at a time
	heldPoints = 1 << 16 // clouds up to this size are kept rather than read again
)

// Adapt implements Adapter. A sampled cloud is read once and kept. Of any other, up to
// heldPoints are kept; a larger one is read again whenever its rows are: once to count and to
// measure it (twice for the unit sphere, whose radius needs the mean), then as rows are asked
// for. A forward-only input can be none of these unless sampled or taken as it is.
func (a *pointAdapter) Adapt(ctx context.Context, in Input) (*Array, error) {
	s := &pointSource{ctx: ctx, in: in, limits: in.Limits.WithDefaults()}
	r, err := s.open()
	if err != nil {
		return nil, err
	}
	c := Cost{Modality: "pointcloud", MediaType: typeOfPoints(r.Format), RowChannels: a.channels(), Notes: a.notes(r.Header)}
	c.DecodedBytes = a.memory(max(r.Points, 0), r.Header)
	layout := pointLayout{features: a.o.Features, width: a.channels()}
	if a.o.Position == "fourier" {
		layout.fourier = &a.fourier
	}
	var content Content
	switch {
	case a.o.Points > 0:
		content, err = a.sampled(s, r, layout, &c)
	case !in.Replayable():
		content, err = a.forward(r, layout, &c)
	default:
		content, err = a.whole(s, r, layout, &c)
	}
	if err != nil {
		return nil, err
	}
	c.Rows, _ = content.Dims()
	if c.Rows == 0 {
		return nil, media.Errorf(media.Empty, "pointcloud: none of %d points has finite coordinates", c.Points)
	}
	if err := media.Check("pointcloud: rows", s.limits.Rows, int64(c.Rows)); err != nil {
		return nil, err
	}
	_, streamed := content.(*pointStream)
	return &Array{Content: content, Forward: streamed && !in.Replayable(), Notes: c.Notes, Cost: c}, nil
}

// pointSource opens the points of an input, again and again when it is replayable.
type pointSource struct {
	ctx    context.Context
	in     Input
	limits Limits
}

func (s *pointSource) open() (*pointfile.Reader, error) {
	src := media.NewReader(s.ctx, s.in.Reader(), s.limits.Bytes)
	return pointfile.Open(src, pointfile.Options{Size: s.in.Size, Format: formatHint(s.in.Name, s.in.MediaType), Limits: s.limits})
}

// eachPoint calls f with blocks of finite points until the end, and counts all points in n.
func eachPoint(r *pointfile.Reader, f func([]pointfile.Point), n *int64) error {
	block := make([]pointfile.Point, pointBlock)
	for {
		got, err := r.Read(block)
		*n += int64(got)
		f(finite(block[:got]))
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// finite moves the finite points to the front, order kept.
func finite(p []pointfile.Point) []pointfile.Point {
	n := 0
	for i := range p {
		if p[i].Finite() {
			if n != i {
				p[n] = p[i]
			}
			n++
		}
	}
	return p[:n]
}

// found notes how many points were there and how many were dropped.
func found(c *Cost, points, finite int64) {
	c.Points, c.Estimated = points, false
	if dropped := points - finite; dropped > 0 {
		c.Notes = append(c.Notes, fmt.Sprintf("%d of %d points dropped: coordinates not finite", dropped, points))
	}
}

// whole keeps a small cloud and measures a large one.
func (a *pointAdapter) whole(s *pointSource, r *pointfile.Reader, layout pointLayout, c *Cost) (Content, error) {
	if r.AlwaysFinite && r.Points > a.hold() && a.o.Scaling == "none" {
		found(c, r.Points, r.Points)
		return &pointStream{source: s, r: r, rows: int(r.Points), layout: layout}, nil
	}
	var m measure
	var held []pointfile.Point
	var points int64
	err := eachPoint(r, func(p []pointfile.Point) {
		m.add(p)
		if m.n <= a.hold() {
			held = append(held, p...)
		} else {
			held = nil
		}
	}, &points)
	if err != nil {
		return nil, err
	}
	found(c, points, m.n)
	if held != nil || m.n == 0 {
		layout.frame = frameOf(held, a.o.Scaling)
		return &pointHeld{points: held, layout: layout}, nil
	}
	if a.o.Scaling == "unit_sphere" {
		if r, err = s.open(); err != nil {
			return nil, err
		}
		points = 0
		if err := eachPoint(r, m.addRadius, &points); err != nil {
			return nil, err
		}
	}
	layout.frame = m.frame(a.o.Scaling)
	return &pointStream{source: s, rows: int(m.n), layout: layout}, nil
}

// hold is how many points are kept rather than read again.
func (a *pointAdapter) hold() int64 {
	if a.keep != 0 {
		return a.keep
	}
	return heldPoints
}

// forward streams an input that can be read once: the header must count its points, and
// nothing may need to be known of them before the first row.
func (a *pointAdapter) forward(r *pointfile.Reader, layout pointLayout, c *Cost) (Content, error) {
	if a.o.Scaling != "none" {
		return nil, media.Errorf(media.NotReplayable, "pointcloud: scaling %q reads the points twice and the input can be read once", a.o.Scaling)
	}
	if r.Points < 0 {
		return nil, media.Errorf(media.NotReplayable, "pointcloud: %s does not say how many points follow and the input can be read once", r.Format)
	}
	found(c, r.Points, r.Points)
	return &pointStream{r: r, rows: int(r.Points), layout: layout}, nil
}

// pointLayout writes the row of a point.
type pointLayout struct {
	features []string
	width    int
	fourier  *Fourier // nil: coordinates alone
	frame    frame
}

// rows writes the rows of some points. Sines cost far more than all else here, so they are
// divided among the threads.
func (l *pointLayout) rows(dst []float32, ld int, points []pointfile.Point) {
	const part = 64
	if l.fourier == nil || len(points) <= part {
		for i := range points {
			l.row(dst[i*ld:], &points[i])
		}
		return
	}
	kernel.Parallel((len(points)+part-1)/part, func(k int) {
		for i := k * part; i < min((k+1)*part, len(points)); i++ {
			l.row(dst[i*ld:], &points[i])
		}
	})
}

func (l *pointLayout) row(dst []float32, p *pointfile.Point) {
	for _, f := range l.features {
		switch f {
		case "normals":
			copy(dst, p.Normal[:])
		case "color":
			copy(dst, p.Color[:])
		case "intensity":
			dst[0] = p.Intensity
		}
		dst = dst[pointFeatures[f]:]
	}
	xyz := l.frame.apply(p.XYZ)
	if l.fourier == nil {
		copy(dst, xyz[:])
		return
	}
	l.fourier.Row(dst, xyz[:])
}

// pointHeld is a cloud kept in memory.
type pointHeld struct {
	points []pointfile.Point
	layout pointLayout
}

// Dims implements Content.
func (h *pointHeld) Dims() (m, c int) { return len(h.points), h.layout.width }

// Read implements Content.
func (h *pointHeld) Read(dst []float32, ld, from, to int) error {
	h.layout.rows(dst, ld, h.points[from:to])
	return nil
}

// pointStream reads points from the file as rows are asked for, and starts again at the front
// when an earlier row is.
type pointStream struct {
	source *pointSource // nil: the input can be read once
	rows   int
	layout pointLayout

	r     *pointfile.Reader // nil before the first row
	block []pointfile.Point
	have  []pointfile.Point // decoded, the first of them is row at
	at    int
}

// Dims implements Content.
func (s *pointStream) Dims() (m, c int) { return s.rows, s.layout.width }

// Read implements Content.
func (s *pointStream) Read(dst []float32, ld, from, to int) error {
	if from < s.at {
		s.r = nil
	}
	if s.r == nil {
		if s.source == nil {
			return media.Errorf(media.NotReplayable, "pointcloud: row %d asked for, the stream stands at row %d", from, s.at)
		}
		r, err := s.source.open()
		if err != nil {
			return err
		}
		s.r, s.at, s.have = r, 0, nil
	}
	for s.at < to {
		if len(s.have) == 0 {
			if err := s.next(); err != nil {
				return err
			}
		}
		if skip := min(from-s.at, len(s.have)); skip > 0 {
			s.at, s.have = s.at+skip, s.have[skip:]
			continue
		}
		n := min(to-s.at, len(s.have))
		s.layout.rows(dst[(s.at-from)*ld:], ld, s.have[:n])
		s.at, s.have = s.at+n, s.have[n:]
	}
	return nil
}

// next decodes a block.
func (s *pointStream) next() error {
	if s.block == nil {
		s.block = make([]pointfile.Point, pointBlock)
	}
	n, err := s.r.Read(s.block)
	s.have = finite(s.block[:n])
	switch {
	case s.source == nil && len(s.have) < n:
		return media.Errorf(media.NotReplayable, "pointcloud: a point near row %d has coordinates that are not finite; dropping it needs an input that can be read again", s.at)
	case err == io.EOF && len(s.have) == 0:
		return media.Errorf(media.Truncated, "pointcloud: %d of %d points present: the file changed while it was read", s.at, s.rows)
	case err == io.EOF:
		return nil
	}
	return err
}

// Describe implements Describer: one pass over the whole file, whatever the sampling.
func (a *pointAdapter) Describe(ctx context.Context, in Input) (Cost, Facts, error) {
	s := &pointSource{ctx: ctx, in: in, limits: in.Limits.WithDefaults()}
	r, err := s.open()
	if err != nil {
		return Cost{}, Facts{}, err
	}
	var m measure
	var points int64
	if err := eachPoint(r, m.add, &points); err != nil {
		return Cost{}, Facts{}, err
	}
	c := Cost{Modality: "pointcloud", MediaType: typeOfPoints(r.Format), RowChannels: a.channels(), Notes: a.notes(r.Header)}
	found(&c, points, m.n)
	if m.n == 0 {
		return c, Facts{}, media.Errorf(media.Empty, "pointcloud: none of %d points has finite coordinates", points)
	}
	if c.Rows, err = a.rows(m.n, s.limits); err != nil {
		return c, Facts{}, err
	}
	if a.o.Points > 0 && a.o.Sampling == "farthest" {
		if err := farthestLimits(m.n, a.o.Points, s.limits); err != nil {
			return c, Facts{}, err
		}
	}
	c.DecodedBytes = a.memory(points, r.Header)
	return c, Facts{BBox: [][]float64{m.lo[:], m.hi[:]}, FinitePoints: &m.n}, nil
}
