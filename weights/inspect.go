package weights

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
)

// Summary is what a weight file or directory holds.
type Summary struct {
	Tensors    []Spec            // sorted by name
	Parameters int64             // elements of floating-point tensors
	Bytes      int64             // as stored, of all tensors
	DTypes     map[DType]int     // tensors of each type
	Metadata   map[string]string // the file's own notes
}

// Inspect lists what a weight file or model directory holds, without reading the values.
func Inspect(path string) (*Summary, error) {
	c, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	s := Summarize(c)
	s.Metadata = c.Metadata()
	return s, nil
}

// Summarize lists what a source holds.
func Summarize(src Source) *Summary {
	s := &Summary{DTypes: map[DType]int{}}
	for name := range src.Names() {
		dt, shape, _ := src.Stat(name)
		n, bytes, err := byteSize(dt, shape)
		if err != nil {
			continue // a source of its own making with impossible shapes
		}
		s.Tensors = append(s.Tensors, Spec{Name: name, DType: dt, Shape: shape})
		s.DTypes[dt]++
		s.Bytes += bytes
		if dt.Float() {
			s.Parameters += n
		}
	}
	return s
}

// Import converts a checkpoint (a torch file, or anything Open takes) to a safetensors file,
// one tensor at a time. The file appears whole or not at all.
func Import(in, out string) (err error) {
	src, err := Open(in)
	if err != nil {
		return err
	}
	defer src.Close()
	f, err := os.CreateTemp(filepath.Dir(out), "."+filepath.Base(out)+".*")
	if err != nil {
		return fmt.Errorf("weights: import: %w", err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	w := bufio.NewWriterSize(f, 1<<20)
	meta := map[string]string{"format": "pt"}
	for k, v := range src.Metadata() {
		meta[k] = v
	}
	if err := CopySafetensors(w, src, meta); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("weights: import: %w", err)
	}
	if err := f.Chmod(0o644); err != nil {
		return fmt.Errorf("weights: import: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("weights: import: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("weights: import: %w", err)
	}
	if err := os.Rename(f.Name(), out); err != nil {
		return fmt.Errorf("weights: import: %w", err)
	}
	return nil
}
