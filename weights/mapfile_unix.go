//go:build unix

package weights

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// mapped is a file's bytes, mapped read-only, or bytes in memory.
type mapped struct {
	data   []byte
	memory bool
}

// inMemory stands for a file of these bytes.
func inMemory(data []byte) *mapped { return &mapped{data: data, memory: true} }

// mapFile maps all of f, whose size is given.
func mapFile(f *os.File, size int64) (*mapped, error) {
	if size == 0 {
		return &mapped{}, nil
	}
	if int64(int(size)) != size {
		return nil, fmt.Errorf("%d bytes are more than this machine can address", size)
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map: %w", err)
	}
	return &mapped{data: data}, nil
}

// bytes returns n bytes at off, which lie inside the file.
func (m *mapped) bytes(off, n int64) ([]byte, error) {
	if off+n > int64(len(m.data)) {
		return nil, os.ErrClosed
	}
	return m.data[off : off+n : off+n], nil
}

// drop lets the system take back the whole pages inside a range. They are read again from
// the file when touched.
func (m *mapped) drop(off, n int64) {
	if m.memory || m.data == nil {
		return
	}
	page := int64(os.Getpagesize())
	lo, hi := (off+page-1)/page*page, (off+n)/page*page
	if lo < hi {
		_ = unix.Madvise(m.data[lo:hi], unix.MADV_DONTNEED) // advice: nothing is lost without it
	}
}

func (m *mapped) close() error {
	if m.data == nil || m.memory {
		return nil
	}
	data := m.data
	m.data = nil
	return unix.Munmap(data)
}
