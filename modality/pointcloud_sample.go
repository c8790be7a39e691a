package modality

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/modality/pointfile"
)

// sampled reads the cloud once, keeps the sample, and centres and scales that.
func (a *pointAdapter) sampled(s *pointSource, r *pointfile.Reader, layout pointLayout, c *Cost) (Content, error) {
	var pick sampler
	switch a.o.Sampling {
	case "first":
		pick = &firstSampler{want: a.o.Points}
	case "farthest":
		if r.Points >= 0 {
			if err := farthestLimits(r.Points, a.o.Points, s.limits); err != nil {
				return nil, err
			}
		}
		pick = &farthestSampler{want: a.o.Points, seed: a.o.Seed, limits: s.limits}
	default:
		pick = &randomSampler{want: a.o.Points, rng: sampleSource(a.o.Seed)}
	}
	var points, usable int64
	var failed error
	err := eachPoint(r, func(p []pointfile.Point) {
		usable += int64(len(p))
		if failed == nil {
			failed = pick.add(p)
		}
	}, &points)
	if err == nil {
		err = failed
	}
	if err != nil {
		return nil, err
	}
	found(c, points, usable)
	kept, err := pick.sample(s.ctx.Err)
	if err != nil {
		return nil, err
	}
	switch {
	case usable > int64(len(kept)):
		c.Notes = append(c.Notes, fmt.Sprintf("sampled %d of %d points (%s)", len(kept), usable, a.o.Sampling))
	case len(kept) < a.o.Points:
		c.Notes = append(c.Notes, fmt.Sprintf("%d points asked for, %d usable", a.o.Points, usable))
	}
	layout.frame = frameOf(kept, a.o.Scaling)
	return &pointHeld{points: kept, layout: layout}, nil
}

// sampler chooses some of the points that pass by.
type sampler interface {
	add([]pointfile.Point) error
	sample(cancelled func() error) ([]pointfile.Point, error)
}

// sampleSource is the generator of a seed: PCG, the same numbers on every platform.
func sampleSource(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15)) }

// firstSampler keeps the first points.
type firstSampler struct {
	want int
	kept []pointfile.Point
}

func (s *firstSampler) add(p []pointfile.Point) error {
	s.kept = append(s.kept, p[:min(len(p), s.want-len(s.kept))]...)
	return nil
}

func (s *firstSampler) sample(func() error) ([]pointfile.Point, error) { return s.kept, nil }

// randomSampler is a reservoir: after n points each of them is kept with probability want/n
// (Vitter, Random sampling with a reservoir, algorithm R). The sample is in file order.
type randomSampler struct {
	want int
	rng  *rand.Rand
	seen uint64
	kept []reservoirPoint
}

type reservoirPoint struct {
	at uint64
	p  pointfile.Point
}

func (s *randomSampler) add(points []pointfile.Point) error {
	for _, p := range points {
		s.seen++
		if len(s.kept) < s.want {
			s.kept = append(s.kept, reservoirPoint{s.seen, p})
			continue
		}
		if i := s.rng.Uint64N(s.seen); i < uint64(s.want) {
			s.kept[i] = reservoirPoint{s.seen, p}
		}
	}
	return nil
}

func (s *randomSampler) sample(func() error) ([]pointfile.Point, error) {
	slices.SortFunc(s.kept, func(a, b reservoirPoint) int { return cmp.Compare(a.at, b.at) })
	out := make([]pointfile.Point, len(s.kept))
	for i := range out {
		out[i] = s.kept[i].p
	}
	return out, nil
}

// farthestDistances is the most distances that farthest-point sampling may compute, about three
// seconds of work.
const farthestDistances = 2 << 30

// farthestLimits bounds points × sample, and the memory for all points.
func farthestLimits(points int64, want int, l Limits) error {
	if err := media.Check("pointcloud: bytes for farthest-point sampling", l.Decoded, points*(pointBytes+8)); err != nil {
		return err
	}
	return media.Check("pointcloud: distances of farthest-point sampling (sample at random, or fewer points)",
		float64(farthestDistances), float64(points)*float64(min(int64(want), points)))
}

// farthestSampler keeps all points and then, from a random first one, takes whichever lies
// farthest from those taken so far; the earlier one of equals. The sample is in that order, so
// the first k of it are the sample of k.
type farthestSampler struct {
	want   int
	seed   uint64
	limits Limits
	all    []pointfile.Point
}

func (s *farthestSampler) add(p []pointfile.Point) error {
	if err := farthestLimits(int64(len(s.all)+len(p)), s.want, s.limits); err != nil {
		s.all = nil
		return err
	}
	s.all = append(s.all, p...)
	return nil
}

func (s *farthestSampler) sample(cancelled func() error) ([]pointfile.Point, error) {
	if len(s.all) <= s.want {
		return s.all, nil
	}
	near := make([]float64, len(s.all)) // squared distance to the sample
	for i := range near {
		near[i] = math.Inf(1)
	}
	at := sampleSource(s.seed).IntN(len(s.all))
	out := make([]pointfile.Point, 0, s.want)
	for {
		out = append(out, s.all[at])
		near[at] = -1 // never again, not even among identical points
		if len(out) == s.want {
			return out, nil
		}
		if err := cancelled(); err != nil {
			return nil, media.Wrap(err, media.Canceled, "pointcloud: farthest-point sampling")
		}
		last, next := s.all[at].XYZ, at
		best := -1.0
		for i := range s.all {
			d := min(near[i], distance2(s.all[i].XYZ, last))
			near[i] = d
			if d > best {
				best, next = d, i
			}
		}
		at = next
	}
}
