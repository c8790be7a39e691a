package refcase

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// stage is the expected value of one stage: a whole tensor, or a summary of one.
type stage struct {
	shape []int
	whole bool
	raw   weights.Raw // when whole
	std   float64
	sum   summary
}

// summary is what is known of a stage of a full-size case.
type summary struct {
	Shape  []int     `json:"shape"`
	Mean   *float64  `json:"mean"`
	Std    *float64  `json:"std"`
	Min    *float64  `json:"min"`
	Max    *float64  `json:"max"`
	First  []float64 `json:"first"`
	At     []int     `json:"probe_positions"`
	Values []float64 `json:"probe_values"`

	order []int // probes by position
}

// stage checks a summary and orders its probes.
func (s summary) stage() (stage, error) {
	n, err := count(s.Shape)
	if err != nil {
		return stage{}, err
	}
	if len(s.At) != len(s.Values) {
		return stage{}, fmt.Errorf("%d probe positions, %d values", len(s.At), len(s.Values))
	}
	if len(s.First) > n {
		return stage{}, fmt.Errorf("%d first values of %d", len(s.First), n)
	}
	if len(s.First)+len(s.At) == 0 {
		return stage{}, errors.New("neither first values nor probes")
	}
	for i, at := range s.At {
		if at < 0 || at >= n {
			return stage{}, fmt.Errorf("probe at %d of %d", at, n)
		}
		s.order = append(s.order, i)
	}
	slices.SortFunc(s.order, func(a, b int) int { return s.At[a] - s.At[b] })
	st := stage{shape: s.Shape, sum: s}
	if s.Std != nil {
		st.std = *s.Std
	}
	return st, nil
}

// fullStage is a stage that is known whole.
func fullStage(raw weights.Raw) stage {
	s := stage{shape: raw.Shape, whole: true, raw: raw}
	x := raw.Tensor().Data
	var sum, squares float64
	for _, v := range x {
		sum += float64(v)
	}
	mean := sum / float64(max(len(x), 1))
	for _, v := range x {
		squares += (float64(v) - mean) * (float64(v) - mean)
	}
	s.std = math.Sqrt(squares / float64(max(len(x), 1)))
	return s
}

// Tolerance is the largest difference allowed in a stage: nothing for integers, otherwise
// what the reference's own float32 noise makes fair.
func (c *Case) Tolerance(name string) float64 {
	s := c.stages[name]
	if s.whole && !s.raw.DType.Float() {
		return 0
	}
	last := name[strings.LastIndexByte(name, '.')+1:]
	switch {
	case c.Kind == "checkpoint":
		return 0
	case c.Kind != "" && c.FullSize && strings.HasPrefix(c.Kind, "vision/"):
		return 2e-4
	case c.Kind != "" && c.FullSize:
		return 5e-5
	case c.Kind != "" && last == "logits":
		return 3e-5
	case c.Kind != "":
		return 1e-5 * math.Max(1, s.std)
	case c.FullSize:
		return 1e-4 * s.std
	case c.Architecture == "PerceiverForOpticalFlow" && name == "logits":
		return 1e-7
	}
	return 2e-5 * math.Max(1, s.std)
}

// Compare returns the largest difference between t and the expected stage, and the tolerance.
// The error says why t cannot be right: no such stage, another shape, a value that is not
// finite, or a difference beyond the tolerance.
func (c *Case) Compare(name string, t tensor.Tensor) (maxAbs, tol float64, err error) {
	k, err := c.Begin(name, t.Shape...)
	if err != nil {
		return math.Inf(1), c.Tolerance(name), err
	}
	k.Add(t.Data)
	return k.End()
}

// Check compares a stage that arrives in pieces.
type Check struct {
	name   string
	tol    float64
	want   stage
	n, at  int
	worst  float64
	worstI int
	bad    int // first element that is not finite, -1 for none
	probe  int
	sum    float64
	square float64 // around the expected mean
	lo, hi float64
	buf    []float32
}

// Begin starts the comparison of a stage of that shape. Axes of size 1 in front may be more
// or fewer than expected.
func (c *Case) Begin(name string, shape ...int) (*Check, error) {
	s, ok := c.stages[name]
	if !ok {
		return nil, fmt.Errorf("refcase: %s: no expected stage %q", c.Name, name)
	}
	if !slices.Equal(squeeze(shape), squeeze(s.shape)) {
		return nil, fmt.Errorf("refcase: %s: stage %q: shape %v, want %v", c.Name, name, shape, s.shape)
	}
	return &Check{
		name: name, tol: c.Tolerance(name), want: s, n: tensor.Size(s.shape), bad: -1,
		lo: math.Inf(1), hi: math.Inf(-1),
	}, nil
}

// squeeze drops leading axes of size 1.
func squeeze(shape []int) []int {
	for len(shape) > 1 && shape[0] == 1 {
		shape = shape[1:]
	}
	return shape
}

// Add takes the next values, row-major. It panics when there are more than the shape holds.
func (k *Check) Add(x []float32) {
	if k.at+len(x) > k.n {
		panic(fmt.Sprintf("refcase: stage %q: %d values, want %d", k.name, k.at+len(x), k.n))
	}
	if k.want.whole {
		k.addWhole(x)
	} else {
		k.addSummary(x)
	}
	k.at += len(x)
}

// note takes one difference.
func (k *Check) note(i int, got float32, want float64) {
	d := math.Abs(float64(got) - want)
	if math.IsNaN(d) || math.IsInf(d, 0) {
		if k.bad < 0 {
			k.bad = i
		}
		return
	}
	if d > k.worst {
		k.worst, k.worstI = d, i
	}
}

func (k *Check) addWhole(x []float32) {
	const block = 4096
	if k.buf == nil {
		k.buf = make([]float32, min(block, k.n))
	}
	for from := 0; from < len(x); from += block {
		part := x[from:min(from+block, len(x))]
		want := k.buf[:len(part)]
		k.want.raw.Float32s(want, k.at+from)
		for i, w := range want {
			k.note(k.at+from+i, part[i], float64(w))
		}
	}
}

func (k *Check) addSummary(x []float32) {
	s := &k.want.sum
	var mean float64
	if s.Mean != nil {
		mean = *s.Mean
	}
	for i, v := range x {
		f := float64(v)
		if f-f != 0 && k.bad < 0 {
			k.bad = k.at + i
		}
		k.sum += f - mean
		k.square += (f - mean) * (f - mean)
		k.lo, k.hi = math.Min(k.lo, f), math.Max(k.hi, f)
	}
	for i := k.at; i < min(k.at+len(x), len(s.First)); i++ {
		k.note(i, x[i-k.at], s.First[i])
	}
	for ; k.probe < len(s.order); k.probe++ {
		p := s.order[k.probe]
		if s.At[p] >= k.at+len(x) {
			break
		}
		k.note(s.At[p], x[s.At[p]-k.at], s.Values[p])
	}
}

// End returns what Compare returns.
func (k *Check) End() (maxAbs, tol float64, err error) {
	if k.at != k.n {
		return math.Inf(1), k.tol, fmt.Errorf("refcase: stage %q: %d values, want %d", k.name, k.at, k.n)
	}
	if k.bad >= 0 {
		return math.Inf(1), k.tol, fmt.Errorf("refcase: stage %q: element %d is not finite", k.name, k.bad)
	}
	where := fmt.Sprintf("element %d", k.worstI)
	if !k.want.whole {
		where = k.statistics(where)
	}
	if k.worst > k.tol {
		return k.worst, k.tol, fmt.Errorf("refcase: stage %q: %s differs by %.3g, tolerance %.3g", k.name, where, k.worst, k.tol)
	}
	return k.worst, k.tol, nil
}

// statistics compares mean, deviation, least and largest. When every element is within the
// tolerance, so are these.
func (k *Check) statistics(where string) string {
	s := &k.want.sum
	n := float64(k.n)
	off := k.sum / n
	check := func(what string, got float64, want *float64) {
		if want == nil {
			return
		}
		if d := math.Abs(got - *want); d > k.worst {
			k.worst, where = d, what
		}
	}
	if s.Mean != nil {
		check("mean", *s.Mean+off, s.Mean)
		check("std", math.Sqrt(math.Max(0, k.square/n-off*off)), s.Std)
	}
	check("min", k.lo, s.Min)
	check("max", k.hi, s.Max)
	return where
}
