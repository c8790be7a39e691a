// Package spelling finds the known name that an unknown one may have been meant as, for errors
// that say "did you mean".
package spelling

// Nearest returns the name that is the fewest slips away from word, at most so many: letters
// inserted, dropped, replaced, or swapped with their neighbour. Of several the first is returned,
// and "" when none is near.
func Nearest(word string, names []string, slips int) string {
	best, least := "", slips+1
	for _, name := range names {
		if d := distance(word, name); d < least {
			best, least = name, d
		}
	}
	return best
}

// longest is the length, in bytes, up to which words are compared: nobody's name is longer.
const longest = 64

// distance is Damerau's restricted distance in bytes.
func distance(a, b string) int {
	if len(a) > longest || len(b) > longest {
		return max(len(a), len(b))
	}
	var d [longest + 1][longest + 1]int
	for i := range len(a) + 1 {
		for j := range len(b) + 1 {
			switch {
			case i == 0 || j == 0:
				d[i][j] = i + j
				continue
			case a[i-1] == b[j-1]:
				d[i][j] = d[i-1][j-1]
			default:
				d[i][j] = 1 + min(d[i-1][j], d[i][j-1], d[i-1][j-1])
			}
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d[i][j] = min(d[i][j], 1+d[i-2][j-2])
			}
		}
	}
	return d[len(a)][len(b)]
}
