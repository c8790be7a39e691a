package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	name := filepath.Join(t.TempDir(), "walk.imu")
	if err := os.WriteFile(name, []byte("t,ax,ay,az,gx,gy,gz\n0,0,0,9.8,0,0,0\n0.01,0.1,0,9.7,0,0,0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := run(t.Context(), []string{name}, &out); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); !strings.Contains(got, `"modality":"imu"`) || !strings.Contains(got, `"row_channels":71`) {
		t.Errorf("got %s", got)
	}
}
