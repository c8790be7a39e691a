package videofile

import (
	"cmp"
	"strconv"
	"strings"
)

func itoa(i int) string { return strconv.Itoa(i) }

// natural compares names the way people number frames: runs of digits by value, so frame2
// comes before frame10; equal values by their leading zeros.
func natural(a, b string) int {
	zeros := 0
	for a != "" && b != "" {
		da, db := digits(a), digits(b)
		if da == 0 || db == 0 {
			if a[0] != b[0] {
				return cmp.Compare(a[0], b[0])
			}
			a, b = a[1:], b[1:]
			continue
		}
		na, nb := strings.TrimLeft(a[:da], "0"), strings.TrimLeft(b[:db], "0")
		if c := cmp.Or(cmp.Compare(len(na), len(nb)), cmp.Compare(na, nb)); c != 0 {
			return c
		}
		zeros = cmp.Or(zeros, cmp.Compare(da, db))
		a, b = a[da:], b[db:]
	}
	return cmp.Or(cmp.Compare(len(a), len(b)), zeros)
}

// digits is the length of the run of digits that s begins with.
func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}
