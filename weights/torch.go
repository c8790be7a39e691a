package weights

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
)

// Limits of a torch file.
const (
	maxZipDirectory = 8 << 20 // bytes of the zip's directory
	maxNest         = 16      // dictionaries in dictionaries
	maxTensorName   = 4096    // bytes of a flattened name
	maxTensors      = 1 << 20
	maxNames        = 64 << 20 // bytes of all names
)

// bareTensor names the tensor of a file that holds one tensor and no dictionary.
const bareTensor = "tensor"

// addTorch reads the catalogue of a file that torch.save wrote: a zip of stored entries, one
// of them a pickle that says which tensors lie where.
func (c *Checkpoint) addTorch(m *mapped, size int64) error {
	z, err := readZip(m, size)
	if err != nil {
		return err
	}
	text, err := z.read("data.pkl", maxPickle)
	if err != nil {
		return err
	}
	root, rest, err := unpickle(text)
	if err != nil {
		return err
	}
	if len(rest) != 0 {
		return fmt.Errorf("pickle: %d bytes after its end", len(rest))
	}
	return c.addPickled(root, func(t *pyTensor) (entry, error) { return z.place(m, t) })
}

// addPickled enters the tensors of an unpickled value; place finds a tensor's bytes.
func (c *Checkpoint) addPickled(root any, place func(*pyTensor) (entry, error)) error {
	list, err := flatten(root)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return fmt.Errorf("no tensors: the file holds %s", kindName(root))
	}
	for _, t := range list {
		e, err := place(t.tensor)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", clip(t.name), err)
		}
		if err := c.put(t.name, e); err != nil {
			return err
		}
	}
	return nil
}

// torchZip is the directory of a torch file.
type torchZip struct {
	top     string // the one folder, with its slash
	entries map[string]*zip.File
	size    int64 // of the file
}

// readZip reads the directory. Entries must be stored, inside the file, and unique.
func readZip(m *mapped, size int64) (*torchZip, error) {
	limit := &limitedReader{m: m, size: size, left: maxZipDirectory}
	r, err := zip.NewReader(limit, size)
	if err != nil {
		return nil, err // begins with "zip: "
	}
	limit.left = math.MaxInt64
	z := &torchZip{entries: map[string]*zip.File{}, size: size}
	for _, f := range r.File {
		if _, twice := z.entries[f.Name]; twice {
			return nil, fmt.Errorf("zip: entry %q appears twice", clip(f.Name))
		}
		z.entries[f.Name] = f
		if top, rest, ok := strings.Cut(f.Name, "/"); ok && rest == "data.pkl" {
			if z.top != "" {
				return nil, errors.New("zip: more than one data.pkl")
			}
			z.top = top + "/"
		}
	}
	if z.top == "" {
		return nil, errors.New("zip: no data.pkl: not a file of torch.save")
	}
	if order, err := z.read("byteorder", 16); err == nil && string(order) != "little" {
		return nil, fmt.Errorf("byte order %q, want little", order)
	}
	return z, nil
}

// find returns where a stored entry's bytes lie.
func (z *torchZip) find(name string) (off, n int64, err error) {
	f, ok := z.entries[z.top+name]
	if !ok {
		return 0, 0, fmt.Errorf("zip: no entry %q", clip(name))
	}
	switch {
	case f.Method != zip.Store:
		return 0, 0, fmt.Errorf("zip: entry %q is compressed; torch stores its entries", clip(name))
	case f.Flags&1 != 0:
		return 0, 0, fmt.Errorf("zip: entry %q is encrypted", clip(name))
	case f.CompressedSize64 != f.UncompressedSize64 || f.UncompressedSize64 > uint64(z.size):
		return 0, 0, fmt.Errorf("zip: entry %q of %d bytes in a file of %d", clip(name), f.UncompressedSize64, z.size)
	}
	off, err = f.DataOffset()
	if err != nil {
		return 0, 0, fmt.Errorf("zip: entry %q: %w", clip(name), err)
	}
	n = int64(f.UncompressedSize64)
	if off < 0 || off > z.size-n {
		return 0, 0, fmt.Errorf("zip: entry %q ends beyond the file", clip(name))
	}
	return off, n, nil
}

// read returns a small entry, its checksum verified.
func (z *torchZip) read(name string, most int64) ([]byte, error) {
	_, n, err := z.find(name)
	if err != nil {
		return nil, err
	}
	if n > most {
		return nil, fmt.Errorf("zip: entry %q: %d bytes, at most %d", name, n, most)
	}
	r, err := z.entries[z.top+name].Open()
	if err != nil {
		return nil, fmt.Errorf("zip: entry %q: %w", name, err)
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, n+1))
	if err != nil {
		return nil, fmt.Errorf("zip: entry %q: %w", name, err)
	}
	return b, nil
}

// place finds the bytes of a tensor.
func (z *torchZip) place(m *mapped, t *pyTensor) (entry, error) {
	off, n, err := z.find("data/" + t.storage.key)
	if err != nil {
		return entry{}, err
	}
	return t.entry(m, off, n)
}

// entry is the tensor's place in a file, given the storage's bytes.
func (t *pyTensor) entry(m *mapped, off, n int64) (entry, error) {
	width := int64(t.storage.dtype.Size())
	if t.storage.numel > n/width {
		return entry{}, fmt.Errorf("storage %q of %d elements has %d bytes", clip(t.storage.key), t.storage.numel, n)
	}
	_, span, contiguous, err := t.layout()
	if err != nil {
		return entry{}, err
	}
	e := entry{dtype: t.storage.dtype, shape: make([]int, len(t.shape)), file: m, off: off + t.offset*width, size: span * width}
	for i, d := range t.shape {
		e.shape[i] = int(d)
	}
	if !contiguous {
		e.strides = t.strides
	}
	return e, nil
}

// limitedReader reads from a mapped file, at most left bytes in all: enough for the end and
// the directory of a zip, and not for one that would fill the memory.
type limitedReader struct {
	m          *mapped
	size, left int64
}

func (r *limitedReader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= r.size {
		return 0, io.EOF
	}
	n := min(int64(len(p)), r.size-off)
	if r.left -= n; r.left < 0 {
		return 0, fmt.Errorf("directory of more than %d bytes", maxZipDirectory)
	}
	b, err := r.m.bytes(off, n)
	if err != nil {
		return 0, err
	}
	copy(p, b)
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

// named is a tensor and its flattened name.
type named struct {
	name   string
	tensor *pyTensor
}

// wrappers are the keys under which training checkpoints keep the state dictionary.
var wrappers = []string{"model_state_dict", "state_dict"}

// flatten lists the tensors of a state dictionary; those of dictionaries inside it are named
// with dots. A training checkpoint is unwrapped first, and the "module." that data-parallel
// training puts before every name goes.
func flatten(root any) ([]named, error) {
	if t, ok := root.(*pyTensor); ok {
		return []named{{bareTensor, t}}, nil
	}
	d, ok := root.(*pyDict)
	if !ok {
		return nil, nil
	}
	for _, key := range wrappers {
		if inner, ok := d.get(key).(*pyDict); ok {
			d = inner
		}
	}
	w := walker{open: map[*pyDict]bool{}}
	if err := w.walk("", d); err != nil {
		return nil, err
	}
	for i := range w.out {
		if !strings.HasPrefix(w.out[i].name, "module.") {
			return w.out, nil
		}
	}
	for i := range w.out {
		w.out[i].name = w.out[i].name[len("module."):]
	}
	return w.out, nil
}

// get returns the last value set under a string key, nil when there is none.
func (d *pyDict) get(key string) any {
	var v any
	for i, k := range d.keys {
		if k == any(key) {
			v = d.values[i]
		}
	}
	return v
}

// walker lists tensors depth first.
type walker struct {
	out   []named
	seen  int
	bytes int
	open  map[*pyDict]bool
	depth int
}

func (w *walker) walk(prefix string, d *pyDict) error {
	if w.open[d] {
		return errors.New("a dictionary holds itself")
	}
	if w.depth == maxNest {
		return fmt.Errorf("dictionaries nested deeper than %d", maxNest)
	}
	w.open[d] = true
	w.depth++
	defer func() { w.depth--; delete(w.open, d) }()
	for i, k := range d.keys {
		if w.seen++; w.seen > maxTensors {
			return fmt.Errorf("more than %d entries", maxTensors)
		}
		var name string
		switch k := k.(type) {
		case string:
			name = prefix + k
		case int64:
			name = prefix + strconv.FormatInt(k, 10)
		default:
			continue
		}
		if len(name) > maxTensorName {
			return fmt.Errorf("name of %d bytes, at most %d", len(name), maxTensorName)
		}
		switch v := d.values[i].(type) {
		case *pyTensor:
			if w.bytes += len(name); w.bytes > maxNames {
				return fmt.Errorf("names of more than %d bytes in all", maxNames)
			}
			w.out = append(w.out, named{name, v})
		case *pyDict:
			if err := w.walk(name+".", v); err != nil {
				return err
			}
		}
	}
	return nil
}
