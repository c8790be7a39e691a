package kernel

import "testing"

func TestPeaks(t *testing.T) {
	r := Peaks()
	t.Logf("%+v", r)
	if r.F32 <= 0 || r.Read <= 0 || r.Copy <= 0 || r.Threads != Threads() {
		t.Errorf("rates %+v: want all of f32, read and copy above zero", r)
	}
}
