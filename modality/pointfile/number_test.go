package pointfile

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"testing"
)

func TestParseNumber(t *testing.T) {
	for _, c := range []struct {
		in   string
		want float64
		ok   bool
	}{
		{"0", 0, true}, {"-1.5", -1.5, true}, {"+2e3", 2000, true}, {".5", .5, true}, {"5.", 5, true},
		{"1e400", math.Inf(1), true}, {"-inf", math.Inf(-1), true}, {"nan", math.NaN(), true}, {"NaN", math.NaN(), true},
		{"1.#QNAN", math.NaN(), true}, {"-1.#IND00", math.NaN(), true}, {"1.#INF", math.NaN(), true},
		{"", 0, false}, {"-", 0, false}, {".", 0, false}, {"1e", 0, false}, {"0x10", 0, false}, {"1_0", 0, false},
		{"1.2.3", 0, false}, {"12a", 0, false}, {"1.#X", 0, false}, {"5665277777777777777777777777.25", 5665277777777777777777777777.25, true},
	} {
		got, ok := parseNumber([]byte(c.in))
		if ok != c.ok || ok && got != c.want && !(math.IsNaN(got) && math.IsNaN(c.want)) {
			t.Errorf("%q: %v, %v; want %v, %v", c.in, got, ok, c.want, c.ok)
		}
	}
}

// TestParseNumberEqualsStrconv compares the short way with the long one.
func TestParseNumberEqualsStrconv(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 50_000 {
		v := math.Float64frombits(rng.Uint64())
		if rng.IntN(2) == 0 {
			v = rng.NormFloat64() * 1e4
		}
		for _, s := range []string{fmt.Sprint(v), strconv.FormatFloat(v, 'f', rng.IntN(10), 64), strconv.FormatFloat(v, 'e', rng.IntN(18), 32)} {
			want, err := strconv.ParseFloat(s, 64)
			got, ok := parseNumber([]byte(s))
			if len(s) > 400 {
				continue
			}
			if ok != (err == nil) || math.Float64bits(got) != math.Float64bits(want) && want == want {
				t.Fatalf("%s: %v, want %v", s, got, want)
			}
		}
	}
}
