//go:build !unix

package weights

import (
	"fmt"
	"io"
	"os"
)

// mapped is a file that is read when asked, or bytes in memory.
type mapped struct {
	file *os.File
	data []byte // when file is nil
}

// inMemory stands for a file of these bytes.
func inMemory(data []byte) *mapped { return &mapped{data: data} }

func mapFile(f *os.File, size int64) (*mapped, error) {
	if int64(int(size)) != size {
		return nil, fmt.Errorf("%d bytes are more than this machine can address", size)
	}
	again, err := os.Open(f.Name())
	if err != nil {
		return nil, err
	}
	return &mapped{file: again}, nil
}

// bytes reads n bytes at off, which lie inside the file.
func (m *mapped) bytes(off, n int64) ([]byte, error) {
	if m.file == nil {
		return m.data[off : off+n : off+n], nil
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(io.NewSectionReader(m.file, off, n), b); err != nil {
		return nil, err
	}
	return b, nil
}

func (m *mapped) drop(off, n int64) {}

func (m *mapped) close() error {
	if m.file == nil {
		return nil
	}
	return m.file.Close()
}
