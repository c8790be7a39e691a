//go:build linux

package weights_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// bigFile writes a checkpoint of one 32 MiB tensor.
func bigFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "big.safetensors")
	var b bytes.Buffer
	if err := weights.WriteSafetensors(&b, map[string]tensor.Tensor{"x": tensor.New(1<<13, 1<<10)}, weights.F32, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// A file that shrinks while it is mapped is an error, not a crash.
func TestTruncatedWhileOpen(t *testing.T) {
	path := bigFile(t)
	src := open(t, path)
	if err := os.Truncate(path, 1<<16); err != nil {
		t.Fatal(err)
	}
	_, err := weights.Bind(src, func(s weights.Scope) (tensor.Tensor, error) { return s.Tensor("x", 1<<13, 1<<10), nil })
	if err == nil || !strings.Contains(err.Error(), "changed while it was read") {
		t.Errorf("error %v", err)
	}
}

// fileMiB is the part of this process's resident memory that is mapped from files.
func fileMiB(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "RssFile:" {
			n, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			return n >> 10
		}
	}
	t.Skip("no RssFile")
	return 0
}

// Once a tensor is bound, the file's pages are given back: weights are not held twice.
func TestPagesAreGivenBack(t *testing.T) {
	src := open(t, bigFile(t))
	before := fileMiB(t)
	x, err := weights.Bind(src, func(s weights.Scope) (weights.Table, error) { return s.Table("x", 1<<13, 1<<10), nil })
	if err != nil {
		t.Fatal(err)
	}
	if grown := fileMiB(t) - before; grown > 8 {
		t.Errorf("%d MiB of the file stay resident beside the %d MiB bound", grown, x.Bytes()>>20)
	}
}
