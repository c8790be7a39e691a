package weights

import "math"

// F16ToF32 widens an IEEE 754 half; exact.
func F16ToF32(h uint16) float32 {
	b := uint32(h&0x7fff) << 13
	if b >= 0x7c00<<13 { // infinite or NaN
		return math.Float32frombits(uint32(h&0x8000)<<16 | 0x7f800000 | b)
	}
	// The exponent's bias is 112 too small; the product is exact, for subnormals too.
	f := math.Float32frombits(b) * 0x1p112
	return math.Float32frombits(uint32(h&0x8000)<<16 | math.Float32bits(f))
}

// F32ToF16 rounds to the nearest half, ties to even; values beyond ±65504 by half a step or
// more become infinite, NaN stays NaN (quiet).
func F32ToF16(f float32) uint16 {
	b := math.Float32bits(f)
	sign := uint16(b>>16) & 0x8000
	b &= 0x7fffffff
	switch {
	case b > 0x7f800000:
		return sign | 0x7e00
	case b >= 0x477ff000: // 65520 and up
		return sign | 0x7c00
	case b < 0x38800000: // below 2^-14: subnormal or zero
		// Adding 0.5 puts the half's last place at float32's last place: the addition rounds.
		v := math.Float32frombits(b) + 0.5
		return sign | uint16(math.Float32bits(v)-0x3f000000)
	}
	return sign | uint16((b+0xfff+b>>13&1)>>13-112<<10)
}

// BF16ToF32 widens a bfloat16; exact.
func BF16ToF32(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) }

// F32ToBF16 rounds to the nearest bfloat16, ties to even; NaN stays NaN (quiet).
func F32ToBF16(f float32) uint16 {
	b := math.Float32bits(f)
	if b&0x7fffffff > 0x7f800000 {
		return uint16(b>>16) | 0x40
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}
