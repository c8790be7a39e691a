package modality

import (
	"math"

	"github.com/mmserve/mmserve/modality/pointfile"
)

// measure gathers what centring and scaling need, in the order of the file.
type measure struct {
	n      int64
	lo, hi [3]float64
	sum    [3]float64
	far    float64 // largest squared distance from the mean, by addRadius
}

func (m *measure) add(points []pointfile.Point) {
	if m.n == 0 && len(points) > 0 {
		m.lo, m.hi = points[0].XYZ, points[0].XYZ
	}
	m.n += int64(len(points))
	for i := range points {
		for k, v := range points[i].XYZ {
			m.lo[k], m.hi[k] = min(m.lo[k], v), max(m.hi[k], v)
			m.sum[k] += v
		}
	}
}

func (m *measure) mean() (c [3]float64) {
	for k := range c {
		c[k] = m.sum[k] / float64(m.n)
	}
	return c
}

// addRadius is the second pass of the unit sphere.
func (m *measure) addRadius(points []pointfile.Point) {
	c := m.mean()
	for i := range points {
		m.far = max(m.far, distance2(points[i].XYZ, c))
	}
}

func distance2(a, b [3]float64) float64 {
	x, y, z := a[0]-b[0], a[1]-b[1], a[2]-b[2]
	return x*x + y*y + z*z
}

// farAway bounds what coordinates become, so that their products with frequencies stay finite.
const farAway = 1e30

// frame moves a cloud: (v - center)·scale. The zero value leaves it where it is.
type frame struct {
	center [3]float64
	scale  float64
}

func (f *frame) apply(v [3]float64) (out [3]float32) {
	scale := f.scale
	if scale == 0 {
		scale = 1
	}
	for k := range out {
		out[k] = float32(min(max((v[k]-f.center[k])*scale, -farAway), farAway))
	}
	return out
}

// frame is the frame of a scaling. A cloud without extent is only moved to the origin.
func (m *measure) frame(scaling string) (f frame) {
	size := 0.0
	switch scaling {
	case "center":
		return frame{center: m.mean()}
	case "unit_sphere":
		f.center, size = m.mean(), math.Sqrt(m.far)
	case "unit_cube":
		for k := range f.center {
			f.center[k] = m.lo[k] + (m.hi[k]-m.lo[k])/2
			size = max(size, (m.hi[k]-m.lo[k])/2)
		}
	}
	if size > 0 {
		f.scale = 1 / size
	}
	return f
}

// frameOf measures points held in memory.
func frameOf(points []pointfile.Point, scaling string) frame {
	var m measure
	m.add(points)
	if m.n == 0 || scaling == "none" {
		return frame{}
	}
	m.addRadius(points)
	return m.frame(scaling)
}
