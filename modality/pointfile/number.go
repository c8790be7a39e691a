package pointfile

import (
	"bytes"
	"math"
	"strconv"
	"unsafe"
)

var pow10 = [...]float64{1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12,
	1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22}

// parseNumber reads a decimal number; "nan", "inf" and the spellings of the Microsoft runtime
// ("1.#QNAN", "-1.#INF") count as numbers that are not finite, and so does one too large for
// float64. It equals strconv.ParseFloat, which it calls when a mantissa or an exponent leaves
// the range where one multiplication is exact.
func parseNumber(b []byte) (float64, bool) {
	i, neg := 0, false
	if len(b) > 0 && (b[0] == '-' || b[0] == '+') {
		neg, i = b[0] == '-', 1
	}
	var mant uint64
	digits, frac, point := 0, 0, false
	for ; i < len(b); i++ {
		c := b[i]
		if c == '.' && !point {
			point = true
			continue
		}
		if c < '0' || c > '9' {
			break
		}
		digits++
		if point {
			frac++
		}
		mant = mant*10 + uint64(c-'0')
	}
	if digits == 0 || digits > 18 {
		return parseSlow(b)
	}
	exp := 0
	if i < len(b) {
		var ok bool
		if exp, ok = parseExponent(b[i:]); !ok {
			return parseSlow(b)
		}
	}
	exp -= frac
	if mant >= 1<<53 || exp < -22 || exp > 22 {
		return parseSlow(b)
	}
	v := float64(mant)
	if exp < 0 {
		v /= pow10[-exp]
	} else {
		v *= pow10[exp]
	}
	if neg {
		v = -v
	}
	return v, true
}

// parseExponent reads "e-12" to the end of b.
func parseExponent(b []byte) (int, bool) {
	if b[0] != 'e' && b[0] != 'E' {
		return 0, false
	}
	b = b[1:]
	neg := false
	if len(b) > 0 && (b[0] == '-' || b[0] == '+') {
		neg, b = b[0] == '-', b[1:]
	}
	if len(b) == 0 || len(b) > 4 {
		return 0, false
	}
	v := 0
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		v = v*10 + int(c-'0')
	}
	if neg {
		v = -v
	}
	return v, true
}

func parseSlow(b []byte) (float64, bool) {
	if len(b) == 0 || len(b) > 400 || bytes.ContainsAny(b, "xXpP_") {
		return 0, false
	}
	if at := bytes.IndexByte(b, '#'); at > 0 {
		return math.NaN(), microsoftNaN(b[at+1:])
	}
	v, err := strconv.ParseFloat(unsafe.String(&b[0], len(b)), 64)
	if err != nil && !math.IsInf(v, 0) {
		return 0, false
	}
	return v, true
}

func microsoftNaN(b []byte) bool {
	b = bytes.TrimRight(bytes.ToUpper(b), "0")
	for _, s := range []string{"QNAN", "SNAN", "IND", "INF"} {
		if string(b) == s {
			return true
		}
	}
	return false
}
