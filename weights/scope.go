package weights

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/tensor"
)

// Scope is a place in a checkpoint: names are looked up below it. It notes every name that is
// used and everything that does not fit, for Bind to report. A Scope is a small value; one
// constructor uses it at a time.
type Scope struct {
	b      *binder
	prefix string // "" or ends with "."
	dtype  kernel.DType
}

// maxValues bounds one tensor that a constructor asks for, in values (64 GiB as float32), and
// maxZeros a tensor of zeros that stands in for a missing one.
const (
	maxValues = 1 << 34
	maxZeros  = 1 << 26
)

// At is the place below s named by parts, joined with dots.
func (s Scope) At(parts ...string) Scope {
	for _, p := range parts {
		if p != "" {
			s.prefix += p + "."
		}
	}
	return s
}

// Index is the place below s with that number, as in "layers.3".
func (s Scope) Index(i int) Scope { return s.At(strconv.Itoa(i)) }

// Path is the full name of a tensor of this scope.
func (s Scope) Path(name string) string { return s.prefix + name }

// Has reports whether the checkpoint lists a tensor of that name. A generator lists none
// that it was not given.
func (s Scope) Has(name string) bool {
	_, _, ok := s.b.src.Stat(s.prefix + name)
	return ok
}

// HasAny reports whether the checkpoint lists any tensor below this place.
func (s Scope) HasAny() bool {
	for n := range s.b.src.Names() {
		if strings.HasPrefix(n, s.prefix) {
			return true
		}
	}
	return false
}

// Count is the number of consecutive places s.Index(0), s.Index(1), … that hold any tensor.
func (s Scope) Count() int {
	seen := map[int]bool{}
	for n := range s.b.src.Names() {
		rest, ok := strings.CutPrefix(n, s.prefix)
		if !ok {
			continue
		}
		head, _, _ := strings.Cut(rest, ".")
		if i, err := strconv.Atoi(head); err == nil {
			seen[i] = true
		}
	}
	n := 0
	for seen[n] {
		n++
	}
	return n
}

// Shape returns the stored shape of a tensor, nil when it is absent.
func (s Scope) Shape(name string) []int {
	_, shape, ok := s.b.src.Stat(s.prefix + name)
	if !ok {
		return nil
	}
	return append([]int{}, shape...)
}

// WithDType returns s with another arithmetic for the linear layers read through it.
func (s Scope) WithDType(d tensor.DType) Scope { s.dtype = d; return s }

// ComputeDType is the arithmetic of linear layers read through s; F32 unless set.
func (s Scope) ComputeDType() tensor.DType { return s.dtype }

// Fault notes a constructor's own complaint, to be reported with the rest. The place is put
// in front.
func (s Scope) Fault(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if s.prefix != "" {
		text = strings.TrimSuffix(s.prefix, ".") + ": " + text
	}
	s.b.err.Faults = append(s.b.err.Faults, text)
}

// Ignore allows names below s to be left over. In a pattern * stands for any run of
// characters, dots included.
func (s Scope) Ignore(patterns ...string) {
	for _, p := range patterns {
		s.b.ignore = append(s.b.ignore, s.prefix+p)
	}
}

// Tensor returns a float32 copy of a tensor. One that is missing or has another shape is
// noted, and zeros are returned.
func (s Scope) Tensor(name string, shape ...int) tensor.Tensor {
	src, ok := s.open(name, shape)
	if !ok {
		return s.zeros(name, shape)
	}
	out := tensor.New(shape...)
	src.fill(out.Data, 0)
	s.finite(name, out.Data, 0, 1)
	src.done()
	return out
}

// zeros stands in for a tensor that is not there. A shape too large to pretend ends the
// binding with what is known so far.
func (s Scope) zeros(name string, shape []int) tensor.Tensor {
	if n, _, err := byteSize(F32, shape); err != nil || n > maxZeros {
		panic(stopBinding{})
	}
	return tensor.New(shape...)
}

// stopBinding is the panic that ends a binding early.
type stopBinding struct{}

// values is an opened tensor that can be read as float32 from any element on.
type values struct {
	raw  Raw // stored bytes, when gen is nil
	gen  Generator
	src  Source
	name string
	size []int
}

// open finds a tensor and checks its shape, noting what is wrong.
func (s Scope) open(name string, want []int) (values, bool) {
	full := s.prefix + name
	s.b.used[full] = true
	v := values{src: s.b.src, name: full, size: want}
	if n, _, err := byteSize(F32, want); err != nil || n > maxValues {
		s.b.err.Faults = append(s.b.err.Faults, fmt.Sprintf("tensor %q: wanted shape %v is too large", clip(full), want))
		return v, false
	}
	dt, got, ok := s.b.src.Stat(full)
	if !ok {
		if gen, inner, ok := generatorOf(s.b.src, full); ok {
			v.gen, v.name = gen, inner
			return v, true
		}
		s.b.err.missing(full, want)
		return v, false
	}
	if !slices.Equal(got, want) {
		s.b.err.shape(full, got, want)
		return v, false
	}
	if end, inner := leaf(s.b.src, full); dt == F32 {
		if gen, ok := end.(Generator); ok {
			v.gen, v.name = gen, inner
			return v, true
		}
	}
	raw, err := s.b.src.Load(full)
	if err != nil {
		s.b.err.bad(full, err.Error())
		return v, false
	}
	v.raw = raw
	return v, true
}

// fill writes elements from, from+1, … as float32.
func (v values) fill(dst []float32, from int) {
	if v.gen != nil {
		fillParallel(v.gen, dst, v.name, v.size, from)
		return
	}
	v.raw.Float32s(dst, from)
}

// done says that the bytes are not needed any more.
func (v values) done() {
	if v.gen == nil {
		drop(v.src, v.name)
	}
}

// finite notes a tensor that holds NaN or an infinity; x holds its elements from, from+step,
// and so on. It reports whether all is well.
func (s Scope) finite(name string, x []float32, from, step int) bool {
	for i, f := range x {
		if math.Float32bits(f)&0x7f800000 == 0x7f800000 {
			s.b.err.bad(s.prefix+name, fmt.Sprintf("element %d is %v", from+i*step, f))
			return false
		}
	}
	return true
}
