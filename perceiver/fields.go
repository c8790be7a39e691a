package perceiver

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
)

// fields reads the keys of a config.json with defaults and notes every fault, each naming its
// key, so that all of them are reported together.
type fields struct {
	raw    map[string]json.RawMessage
	faults []string
}

func parseFields(text []byte) (*fields, error) {
	f := &fields{}
	if err := json.Unmarshal(text, &f.raw); err != nil {
		return nil, fmt.Errorf("perceiver: config: %w", err)
	}
	if f.raw == nil {
		return nil, errors.New("perceiver: config: not a JSON object")
	}
	return f, nil
}

func (f *fields) fault(format string, args ...any) {
	f.faults = append(f.faults, fmt.Sprintf(format, args...))
}

// err joins the faults.
func (f *fields) err() error {
	if len(f.faults) == 0 {
		return nil
	}
	return fmt.Errorf("perceiver: config: %s", strings.Join(f.faults, "; "))
}

// has reports whether the key is there and not null.
func (f *fields) has(key string) bool {
	r, ok := f.raw[key]
	return ok && string(r) != "null"
}

// get decodes a key into dst and reports whether it was there and fit.
func (f *fields) get(key string, dst any, kind string) bool {
	if !f.has(key) {
		return false
	}
	if err := json.Unmarshal(f.raw[key], dst); err != nil {
		f.fault("%q: want %s, got %.40s", key, kind, f.raw[key])
		return false
	}
	return true
}

// maxSize bounds any one size of a configuration.
const maxSize = 1 << 24

// integer reads a whole number in [least, maxSize]; floats with whole values pass, as in Python.
func (f *fields) integer(key string, def, least int) int {
	var x float64
	if !f.get(key, &x, "a whole number") {
		return def
	}
	if x != math.Trunc(x) || x < float64(least) || x > maxSize {
		f.fault("%q: want a whole number in [%d, %d], got %v", key, least, maxSize, x)
		return max(def, least)
	}
	return int(x)
}

// maxLayers bounds counts of layers: a constructor loops over them.
const maxLayers = 4096

// layers reads a number of layers.
func (f *fields) layers(key string, def, least int) int {
	n := f.integer(key, def, least)
	if n > maxLayers {
		f.fault("%q: %d, want at most %d", key, n, maxLayers)
		return least
	}
	return n
}

// product refuses sizes whose product is beyond the rows of a grid.
func (f *fields) product(key string, sizes []int) {
	n := 1
	for _, d := range sizes {
		if n > maxRows/d {
			f.fault("%q: %v is more than %d points", key, sizes, maxRows)
			return
		}
		n *= d
	}
}

// optional reads a positive whole number or null, which is 0.
func (f *fields) optional(key string) int {
	if !f.has(key) {
		return 0
	}
	return f.integer(key, 1, 1)
}

func (f *fields) number(key string, def float64) float64 {
	x := def
	f.get(key, &x, "a number")
	return x
}

func (f *fields) flag(key string, def bool) bool {
	b := def
	f.get(key, &b, "true or false")
	return b
}

func (f *fields) text(key, def string) string {
	s := def
	f.get(key, &s, "a string")
	return s
}

// sizes reads a list of positive whole numbers.
func (f *fields) sizes(key string, def ...int) []int {
	var list []int
	if !f.get(key, &list, "a list of whole numbers") {
		return def
	}
	for _, n := range list {
		if n < 1 || n > maxSize {
			f.fault("%q: sizes in [1, %d], got %v", key, maxSize, list)
			return def
		}
	}
	return list
}
