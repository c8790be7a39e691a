package pointfile

import "math"

// tableNumber reads a column; an empty one is a missing value.
func tableNumber(t []byte) (float64, bool) {
	if len(t) == 0 {
		return math.NaN(), true
	}
	return parseNumber(t)
}

// guess names the columns of a table without names from its first rows: x y z, then an
// intensity when there is one column more, else triples that look like normals or colours.
func guess(rows [][]float64, width int) (columns []component, notes []string) {
	columns = []component{compX, compY, compZ}
	if width == 4 {
		return append(columns, compIntensity), nil
	}
	normals, colors := false, false
	for len(columns)+3 <= width {
		at := len(columns)
		switch {
		case !normals && unitTriples(rows, at):
			columns, normals = append(columns, compNX, compNY, compNZ), true
		case !colors && !math.IsInf(most(rows, []int{at, at + 1, at + 2}), 1):
			columns, colors = append(columns, compR, compG, compB), true
		case at == 3 && width >= 7 && !math.IsInf(most(rows, []int{4, 5, 6}), 1):
			columns, colors = append(columns, compIntensity, compR, compG, compB), true
		default:
			return columns, ignored(width - at)
		}
	}
	return columns, ignored(width - len(columns))
}

// unitTriples reports whether columns at..at+2 have length 1 in every row.
func unitTriples(rows [][]float64, at int) bool {
	for _, r := range rows {
		n := r[at]*r[at] + r[at+1]*r[at+1] + r[at+2]*r[at+2]
		if !(math.Abs(n-1) < 0.02) {
			return false
		}
	}
	return true
}

// most is the value that full colour has in the columns: 1, 255 or 65535; +Inf when they do not
// look like colours.
func most(rows [][]float64, columns []int) float64 {
	top, whole := 0.0, true
	for _, r := range rows {
		for _, c := range columns {
			if !(r[c] >= 0) {
				return math.Inf(1)
			}
			top = max(top, r[c])
			whole = whole && r[c] == math.Trunc(r[c])
		}
	}
	switch {
	case top <= 1:
		return 1
	case whole && top <= 255:
		return 255
	case whole && top <= 65535:
		return 65535
	}
	return math.Inf(1)
}

// tableFields makes the fields of named columns; the first rows tell the scale of colours.
func tableFields(columns []component, rows [][]float64) []field {
	var fields []field
	var colors []int
	for i, c := range columns {
		if c == compNone || len(rows) > 0 && i >= len(rows[0]) {
			continue
		}
		if c >= compR && c <= compB {
			colors = append(colors, i)
		}
		fields = append(fields, newField(c, float64Type, i))
	}
	full := most(rows, colors)
	if math.IsInf(full, 1) {
		full = 255
	}
	for i := range fields {
		if c := fields[i].comp; c >= compR && c <= compB {
			fields[i].scale = 1 / full
		}
	}
	return fields
}
