package spelling_test

import (
	"strings"
	"testing"

	"github.com/mmserve/mmserve/internal/spelling"
)

func TestNearest(t *testing.T) {
	names := []string{"addr", "keys", "max-body", "max-items", "memory"}
	for _, c := range []struct {
		word  string
		slips int
		want  string
	}{
		{"max-boddy", 2, "max-body"},  // one letter too many
		{"mx-body", 2, "max-body"},    // one too few
		{"kezs", 1, "keys"},           // another
		{"kyes", 1, "keys"},           // two swapped
		{"max-bytes", 2, ""},          // three away
		{"max-bytes", 3, "max-items"}, // and near enough
		{"max-ibody", 9, "max-body"},  // the nearest, not the first
		{"", 3, ""},
		{"", 4, "addr"},
		{strings.Repeat("x", 200), 50, ""},
	} {
		if got := spelling.Nearest(c.word, names, c.slips); got != c.want {
			t.Errorf("%.20q within %d: %q, want %q", c.word, c.slips, got, c.want)
		}
	}
}
