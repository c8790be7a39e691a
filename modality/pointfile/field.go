package pointfile

import (
	"encoding/binary"
	"math"
)

// component says which part of a Point a field of a file fills.
type component uint8

const (
	compNone component = iota
	compX
	compY
	compZ
	compNX
	compNY
	compNZ
	compR
	compG
	compB
	compIntensity
	compPacked // 0x00RRGGBB in 32 bits, whatever their declared type
)

// names maps the property names in use to components, lower case.
var names = map[string]component{
	"x": compX, "y": compY, "z": compZ,
	"nx": compNX, "ny": compNY, "nz": compNZ,
	"normal_x": compNX, "normal_y": compNY, "normal_z": compNZ,
	"red": compR, "green": compG, "blue": compB,
	"r": compR, "g": compG, "b": compB,
	"diffuse_red": compR, "diffuse_green": compG, "diffuse_blue": compB,
	"intensity": compIntensity, "scalar_intensity": compIntensity,
	"i": compIntensity, "reflectance": compIntensity,
}

// scalar is a number type of a binary file.
type scalar uint8

const (
	int8Type scalar = iota + 1
	uint8Type
	int16Type
	uint16Type
	int32Type
	uint32Type
	int64Type
	uint64Type
	float16Type
	float32Type
	float64Type
)

var scalarBytes = [...]int{int8Type: 1, uint8Type: 1, int16Type: 2, uint16Type: 2, int32Type: 4,
	uint32Type: 4, int64Type: 8, uint64Type: 8, float16Type: 2, float32Type: 4, float64Type: 8}

func (s scalar) bytes() int { return scalarBytes[s] }

// most is the value that stands for 1 in colours and intensities: the largest of an integer
// type, and 1 for floats.
func (s scalar) most() float64 {
	switch s {
	case int8Type:
		return math.MaxInt8
	case uint8Type:
		return math.MaxUint8
	case int16Type:
		return math.MaxInt16
	case uint16Type:
		return math.MaxUint16
	case int32Type:
		return math.MaxInt32
	case uint32Type:
		return math.MaxUint32
	case int64Type:
		return math.MaxInt64
	case uint64Type:
		return math.MaxUint64
	}
	return 1
}

// get reads the number at the start of b.
func (s scalar) get(b []byte, order binary.ByteOrder) float64 {
	switch s {
	case int8Type:
		return float64(int8(b[0]))
	case uint8Type:
		return float64(b[0])
	case int16Type:
		return float64(int16(order.Uint16(b)))
	case uint16Type:
		return float64(order.Uint16(b))
	case int32Type:
		return float64(int32(order.Uint32(b)))
	case uint32Type:
		return float64(order.Uint32(b))
	case int64Type:
		return float64(int64(order.Uint64(b)))
	case uint64Type:
		return float64(order.Uint64(b))
	case float16Type:
		return half(order.Uint16(b))
	case float32Type:
		return float64(math.Float32frombits(order.Uint32(b)))
	}
	return math.Float64frombits(order.Uint64(b))
}

// half widens an IEEE 754 binary16.
func half(h uint16) float64 {
	frac, exp := float64(h&0x3ff), int(h>>10&31)
	v := math.Ldexp(1024+frac, exp-25)
	switch exp {
	case 0:
		v = math.Ldexp(frac, -24)
	case 31:
		v = math.Inf(1)
		if frac != 0 {
			v = math.NaN()
		}
	}
	if h>>15 != 0 {
		v = -v
	}
	return v
}

// field is one column of a file that fills a component: value·scale + shift.
type field struct {
	comp         component
	typ          scalar
	at           int // byte offset in a binary record, column in a text row
	scale, shift float64
}

// newField scales colours and intensities to 0..1 and leaves the rest alone.
func newField(c component, t scalar, at int) field {
	f := field{comp: c, typ: t, at: at, scale: 1}
	if c >= compR && c <= compIntensity {
		f.scale = 1 / t.most()
	}
	return f
}

// bounded reports whether no raw value of the type can make the field too large for float32.
func (f *field) bounded() bool {
	return f.typ < float16Type && math.Abs(f.scale)*f.typ.most()*2+math.Abs(f.shift) < math.MaxFloat32
}

// set stores a raw value of the file in p. Attributes that are not finite become 0, colours
// are clipped to 0..1; coordinates are kept, for the caller to judge.
func (f *field) set(p *Point, v float64) {
	v = v*f.scale + f.shift
	switch {
	case f.comp <= compZ:
		p.XYZ[f.comp-compX] = v
		return
	case !(math.Abs(v) <= math.MaxFloat32):
		v = 0
	}
	switch {
	case f.comp <= compNZ:
		p.Normal[f.comp-compNX] = float32(v)
	case f.comp <= compB:
		p.Color[f.comp-compR] = float32(min(max(v, 0), 1))
	case f.comp == compIntensity:
		p.Intensity = float32(v)
	}
}

// setPacked stores 0x00RRGGBB.
func setPacked(p *Point, bits uint32) {
	for i := range 3 {
		p.Color[i] = float32(bits>>(16-8*i)&255) / 255
	}
}

// has reports whether every one of the components has a field.
func has(fields []field, want ...component) bool {
	for _, c := range want {
		found := false
		for _, f := range fields {
			found = found || f.comp == c
		}
		if !found {
			return false
		}
	}
	return true
}

// attributes fills in the header's flags and drops the fields of attributes that are not
// there as a whole. It reports whether x, y and z are.
func (h *Header) attributes(fields []field) ([]field, bool) {
	h.HasNormals = has(fields, compNX, compNY, compNZ)
	h.HasColor = has(fields, compR, compG, compB) || has(fields, compPacked)
	h.HasIntensity = has(fields, compIntensity)
	h.AlwaysFinite = true
	triple := has(fields, compR, compG, compB)
	var kept []field
	for _, f := range fields {
		switch {
		case f.comp >= compNX && f.comp <= compNZ && !h.HasNormals:
		case f.comp >= compR && f.comp <= compB && !triple:
		default:
			kept = append(kept, f)
			h.AlwaysFinite = h.AlwaysFinite && (f.comp > compZ || f.bounded())
		}
	}
	return kept, has(kept, compX, compY, compZ)
}
