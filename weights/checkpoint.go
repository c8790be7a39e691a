package weights

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// Checkpoint is an opened weight file, or the several of a sharded one. It is a Source; its
// tensors are bytes of the mapped files, gone after Close.
type Checkpoint struct {
	path     string
	names    []string
	entries  map[string]entry
	meta     map[string]string
	files    []*mapped
	closing  sync.Once
	closeErr error
}

// entry is where a tensor lies.
type entry struct {
	dtype DType
	shape []int
	file  *mapped
	off   int64 // of element 0, in the file
	size  int64 // bytes, when contiguous; of the storage beyond off otherwise
	// strides in elements, nil when contiguous and row-major.
	strides []int64
}

// Open opens a weight file (.safetensors, or a torch zip as .bin, .pt, .pth or .ckpt), or a
// model directory: model.safetensors, model.safetensors.index.json, pytorch_model.bin or
// pytorch_model.bin.index.json, the first there is. Nothing in the file is executed.
func Open(path string) (*Checkpoint, error) {
	c := &Checkpoint{path: path, entries: map[string]entry{}}
	if err := c.open(path); err != nil {
		c.Close()
		return nil, fmt.Errorf("weights: %s: %w", filepath.Base(path), err)
	}
	c.names = slices.Sorted(maps.Keys(c.entries))
	return c, nil
}

func (c *Checkpoint) open(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return c.openDir(path)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return c.add(f)
}

// add reads the catalogue of one file.
func (c *Checkpoint) add(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	m, err := mapFile(f, info.Size())
	if err != nil {
		return err
	}
	c.files = append(c.files, m)
	return c.read(f.Name(), m, info.Size())
}

// read reads the catalogue of a file's bytes; its beginning and its name say the format.
func (c *Checkpoint) read(name string, m *mapped, size int64) error {
	var head [9]byte
	front, err := m.bytes(0, min(size, int64(len(head))))
	if err != nil {
		return err
	}
	copy(head[:], front)
	switch {
	case string(head[:4]) == "PK\x03\x04":
		return c.addTorch(m, size)
	case head[8] != '{' && (head[0] == 0x80 || pickled(name)):
		return c.addLegacy(m, size)
	}
	return c.addSafetensors(m, size)
}

// pickled reports whether a file's name says that PyTorch wrote it.
func pickled(name string) bool {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".bin", ".pt", ".pth", ".ckpt", ".pkl":
		return true
	}
	return false
}

// put adds a tensor, unless the name is taken.
func (c *Checkpoint) put(name string, e entry) error {
	if _, taken := c.entries[name]; taken {
		return fmt.Errorf("tensor %q appears twice", clip(name))
	}
	c.entries[name] = e
	return nil
}

// Parse reads a weight file that is in memory, such as an embedded one. name is what errors
// call it. data must not change afterwards.
func Parse(name string, data []byte) (*Checkpoint, error) {
	c := &Checkpoint{path: name, entries: map[string]entry{}}
	if err := c.read(name, inMemory(data), int64(len(data))); err != nil {
		return nil, fmt.Errorf("weights: %s: %w", filepath.Base(name), err)
	}
	c.names = slices.Sorted(maps.Keys(c.entries))
	return c, nil
}

// Names lists the tensors, sorted.
func (c *Checkpoint) Names() iter.Seq[string] { return slices.Values(c.names) }

// Len is the number of tensors.
func (c *Checkpoint) Len() int { return len(c.names) }

// Stat returns a tensor's stored type and shape.
func (c *Checkpoint) Stat(name string) (DType, []int, bool) {
	e, ok := c.entries[name]
	return e.dtype, e.shape, ok
}

// Load returns a tensor. Its bytes are those of the mapped file where they lie in row-major
// order there, and a copy otherwise.
func (c *Checkpoint) Load(name string) (Raw, error) {
	e, ok := c.entries[name]
	if !ok {
		return Raw{}, errNoTensor(name)
	}
	data, err := e.file.bytes(e.off, e.size)
	if err != nil {
		return Raw{}, fmt.Errorf("weights: tensor %q: %w", clip(name), err)
	}
	if e.strides != nil {
		data = gather(data, e.dtype.Size(), e.shape, e.strides)
	}
	return Raw{DType: e.dtype, Shape: e.shape, Data: data}, nil
}

// drop lets the system take back the pages of a tensor.
func (c *Checkpoint) drop(name string) {
	if e, ok := c.entries[name]; ok {
		e.file.drop(e.off, e.size)
	}
}

// Release lets the system take back every page read so far. Tensors stay readable.
func (c *Checkpoint) Release() {
	for _, e := range c.entries {
		e.file.drop(e.off, e.size)
	}
}

// Metadata is the file's own notes ("__metadata__" of safetensors), nil when there are none.
func (c *Checkpoint) Metadata() map[string]string { return c.meta }

// String is the name of the file or directory.
func (c *Checkpoint) String() string { return filepath.Base(c.path) }

// Close unmaps the files. Raw tensors loaded from them must not be used any more.
func (c *Checkpoint) Close() error {
	c.closing.Do(func() {
		for _, m := range c.files {
			c.closeErr = errors.Join(c.closeErr, m.close())
		}
	})
	return c.closeErr
}

// gather copies a strided view into row-major order.
func gather(data []byte, width int, shape []int, strides []int64) []byte {
	n := width
	for _, d := range shape {
		n *= d
	}
	out := make([]byte, 0, n)
	at := make([]int, len(shape))
	var off int64
	for len(out) < n {
		out = append(out, data[off*int64(width):(off+1)*int64(width)]...)
		for ax := len(shape) - 1; ax >= 0; ax-- {
			at[ax]++
			off += strides[ax]
			if at[ax] < shape[ax] {
				break
			}
			off -= int64(shape[ax]) * strides[ax]
			at[ax] = 0
		}
	}
	return out
}
