//go:build unix

package external_test

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/mmserve/mmserve/modality/external"
	"github.com/mmserve/mmserve/modality/media"
)

// lockName is a file in TMPDIR that a plug-in of kind "lock" holds for as long as it lives.
const lockName = "plug-in.lock"

// lock waits for a file's lock.
func lock(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX) // f stays open
}

func init() {
	stuck = func() error {
		if err := lock(filepath.Join(os.TempDir(), lockName)); err != nil {
			return err
		}
		for {
			time.Sleep(time.Hour) // nothing else hangs without being told apart from a deadlock
		}
	}
}

// TestWrapper: a shell script around a program that hangs holds no request, and its end is the
// program's.
func TestWrapper(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	path := filepath.Join(dir, "wrapped")
	if err := os.WriteFile(path, fmt.Appendf(nil, "#!/bin/sh\n'%s' plug-in stuck\nexit 1\n", os.Args[0]), 0o700); err != nil {
		t.Fatal(err)
	}
	p, err := external.Start(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	in := media.Bytes("x", []byte("abc"))
	in.Limits.Time = 100 * time.Millisecond
	if _, err := open(t, p).Adapt(t.Context(), in); media.CodeOf(err) != media.TimedOut {
		t.Errorf("%v, want %s", err, media.TimedOut)
	}
	if err := lock(filepath.Join(dir, lockName)); err != nil { // comes once the program is gone
		t.Error(err)
	}
}
