package weights

import (
	"iter"
	"maps"
	"math"
	"slices"
	"strings"
)

// Spec is a tensor's name, stored type and shape.
type Spec struct {
	Name  string `json:"name"`
	DType DType  `json:"dtype"`
	Shape []int  `json:"shape"`
}

// seeded derives every value from a tensor's name and an element's index.
type seeded struct {
	specs map[string]Spec
	salt  string
}

// Seeded is a source whose values follow from names by a fixed formula, so that full-size
// reference numbers need no weight file: value i of a tensor is a uniform number made from
// fnv1a64(name) and i by splitmix64, with a centre and a width that depend on the kind of
// tensor. With specs, it holds exactly those; without, it answers any name in the shape it
// is asked for.
func Seeded(specs ...Spec) Generator {
	s := seeded{specs: map[string]Spec{}}
	for _, sp := range specs {
		s.specs[sp.Name] = sp
	}
	return s
}

// Random is Seeded with another draw for every seed.
func Random(seed int64) Generator {
	const hex = "0123456789abcdef"
	salt := []byte("seed:")
	for i := range 16 {
		salt = append(salt, hex[uint64(seed)>>(60-4*i)&15])
	}
	return seeded{salt: string(append(salt, ':'))}
}

// Strict reports whether the names were given.
func (s seeded) Strict() bool { return len(s.specs) > 0 }

func (s seeded) Names() iter.Seq[string] { return slices.Values(slices.Sorted(maps.Keys(s.specs))) }

func (s seeded) Stat(name string) (DType, []int, bool) {
	sp, ok := s.specs[name]
	return sp.DType, sp.Shape, ok
}

func (s seeded) Load(name string) (Raw, error) {
	sp, ok := s.specs[name]
	if !ok {
		return Raw{}, errNoTensor(name)
	}
	n, bytes, err := byteSize(sp.DType, sp.Shape)
	if err != nil {
		return Raw{}, err
	}
	if !sp.DType.Float() {
		return Raw{DType: sp.DType, Shape: sp.Shape, Data: make([]byte, bytes)}, nil
	}
	x := make([]float32, n)
	fillParallel(s, x, name, sp.Shape, 0)
	return Raw{DType: sp.DType, Shape: sp.Shape, Data: appendFloats(make([]byte, 0, bytes), x, sp.DType)}, nil
}

func (s seeded) Fill(dst []float32, name string, shape []int, from int) {
	c, a, ok := kindOf(name, shape)
	if !ok {
		clear(dst)
		return
	}
	Uniform(dst, s.salt+name, from, c, a)
}

// kindOf returns the centre and half-width of a tensor's values; false for counters, which
// are zero. The first rule that fits decides.
func kindOf(name string, shape []int) (centre, half float64, ok bool) {
	weight := strings.HasSuffix(name, ".weight")
	switch {
	case strings.HasSuffix(name, "num_batches_tracked"):
		return 0, 0, false
	case strings.HasSuffix(name, "running_mean"):
		return 0, 0.1, true
	case strings.HasSuffix(name, "running_var"):
		return 1, 0.5, true
	case strings.Contains(name, "layernorm") || strings.Contains(name, "batchnorm"):
		if weight {
			return 1, 0.1, true
		}
		return 0, 0.1, true
	case strings.HasSuffix(name, "bias"):
		return 0, 0.05, true
	case strings.Contains(name, "embeddings") || !weight:
		return 0, 0.5, true
	}
	fan := 1.0
	if len(shape) > 1 {
		for _, d := range shape[1:] {
			fan *= float64(d)
		}
	}
	half = math.Sqrt(3 / max(fan, 1))
	if strings.HasSuffix(name, "query.weight") || strings.HasSuffix(name, "key.weight") {
		half *= 1.5
	}
	return 0, half, true
}

// Hash64 is FNV-1a over the bytes of s, 64 bits.
func Hash64(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

const golden = 0x9E3779B97F4A7C15

// mix is the finisher of splitmix64.
func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
	z = (z ^ z>>27) * 0x94D049BB133111EB
	return z ^ z>>31
}

// HashAt is number i of the sequence that belongs to a name.
func HashAt(name string, i int) uint64 { return mix(Hash64(name) + uint64(i+1)*golden) }

// Uniform fills dst with values from, from+1, … of the sequence that belongs to a name,
// uniform in [centre-half, centre+half): computed in float64, rounded once.
func Uniform(dst []float32, name string, from int, centre, half float64) {
	z := Hash64(name) + uint64(from)*golden
	for i := range dst {
		z += golden
		u := float64(mix(z)>>11) * 0x1p-53
		dst[i] = float32(centre + float64(half*(2*u-1))) // no fused multiply-add
	}
}
