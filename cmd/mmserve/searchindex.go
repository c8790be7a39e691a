package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/pipeline"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

const (
	// indexName is the file that search keeps in the directory it indexed.
	indexName = ".mmserve-index.safetensors"
	// indexFormat is the version of that file: a tensor "vectors", files × D of float32, and
	// the metadata "format", "model" and "files", a JSON array of indexedFile in their order.
	indexFormat = "mmserve-index/1"
	// maxIndexBytes bounds an index that is read.
	maxIndexBytes = 1 << 30
)

// searchIndex holds a unit vector for every file below a directory that a model can read.
type searchIndex struct {
	model string // name and digest: vectors of another model are of no use
	files map[string]indexedFile
}

// indexedFile is what the index knows of a file. One that has changed in size or time is
// embedded again.
type indexedFile struct {
	Name     string    `json:"name"` // below the directory, with slashes
	Size     int64     `json:"size"`
	Time     int64     `json:"time_ns"`
	Modality string    `json:"modality,omitempty"` // empty: the model cannot read it
	Fault    string    `json:"fault,omitempty"`    // why
	vector   []float32 // nil: the model cannot read it
}

// openIndex reads an index. One that is not there, or was made by another model, is empty; one
// that cannot be read is empty, too, and an error says why.
func openIndex(file, model string) (*searchIndex, error) {
	x := &searchIndex{model: model, files: map[string]indexedFile{}}
	st, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return x, nil
	}
	if err != nil {
		return x, err
	}
	if st.Size() > maxIndexBytes {
		return x, fmt.Errorf("%s: %d bytes, an index has at most %d", file, st.Size(), maxIndexBytes)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return x, err
	}
	files, made, err := parseIndex(b)
	if err != nil {
		return x, fmt.Errorf("%s: %w", file, err)
	}
	if made == model {
		for _, f := range files {
			x.files[f.Name] = f
		}
	}
	return x, nil
}

// parseIndex reads the files of an index and the model that made it.
func parseIndex(b []byte) (files []indexedFile, model string, err error) {
	src, err := weights.Parse("index", b)
	if err != nil {
		return nil, "", err
	}
	meta := src.Metadata()
	if f := meta["format"]; f != indexFormat {
		return nil, "", fmt.Errorf("format %.40q, want %q", f, indexFormat)
	}
	if err := json.Unmarshal([]byte(meta["files"]), &files); err != nil {
		return nil, "", fmt.Errorf("files: %w", err)
	}
	readable := 0
	for _, f := range files {
		if f.Modality != "" {
			readable++
		}
	}
	if readable == 0 {
		return files, meta["model"], nil
	}
	raw, err := src.Load("vectors")
	if err != nil {
		return nil, "", err
	}
	if len(raw.Shape) != 2 || raw.Shape[0] != readable || raw.Shape[1] < 1 {
		return nil, "", fmt.Errorf("vectors: shape %v for %d files", raw.Shape, readable)
	}
	all, at := raw.Tensor(), 0
	for i := range files {
		if files[i].Modality == "" {
			continue
		}
		v := slices.Clone(all.Row(at))
		if n := similarity(v, v); !(math.Abs(n-1) < 1e-3) {
			return nil, "", fmt.Errorf("the vector of %q has length %v, want 1", files[i].Name, math.Sqrt(n))
		}
		files[i].vector = v
		at++
	}
	return files, meta["model"], nil
}

// write writes the index, files in the order of their names.
func (x *searchIndex) write(w io.Writer) error {
	files := make([]indexedFile, 0, len(x.files))
	for _, f := range x.files {
		files = append(files, f)
	}
	slices.SortFunc(files, func(a, b indexedFile) int { return strings.Compare(a.Name, b.Name) })
	list, err := json.Marshal(files)
	if err != nil {
		return err
	}
	tensors := map[string]tensor.Tensor{}
	var data []float32
	n := 0
	for _, f := range files {
		if f.vector != nil {
			data = append(data, f.vector...)
			n++
		}
	}
	if n > 0 {
		tensors["vectors"] = tensor.Of(data, n, len(data)/n)
	}
	return weights.WriteSafetensors(w, tensors, weights.F32, map[string]string{"format": indexFormat, "model": x.model, "files": string(list)})
}

// listFiles finds the regular files below dir, none of them hidden, and says which folders
// could not be read.
func listFiles(ctx context.Context, dir string, note func(string, ...any)) ([]indexedFile, error) {
	var out []indexedFile
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			if path == dir {
				return err
			}
			note("left out: %v", err)
			return nil
		}
		if strings.HasPrefix(d.Name(), ".") && path != dir {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone since
		}
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		out = append(out, indexedFile{Name: filepath.ToSlash(name), Size: info.Size(), Time: info.ModTime().UnixNano()})
		return err
	})
	return out, err
}

// update brings the index up to date with a directory: what is new or changed is embedded,
// several files at a time, what is gone is dropped. It reports whether anything changed; an
// interrupted update keeps what it has done.
func (x *searchIndex) update(ctx context.Context, model pipeline.Model, dir string, progress func(unit string, done, total int), note func(string, ...any)) (changed bool, err error) {
	found, err := listFiles(ctx, dir, note)
	if err != nil {
		return false, err
	}
	old := x.files
	x.files = make(map[string]indexedFile, len(found))
	var unread []indexedFile
	for _, f := range found {
		if had, ok := old[f.Name]; ok && had.Size == f.Size && had.Time == f.Time {
			x.files[f.Name] = had
			continue
		}
		unread = append(unread, f)
	}
	changed = len(unread) > 0 || len(x.files) != len(old)
	queue := make(chan indexedFile)
	var mu sync.Mutex
	var wg sync.WaitGroup
	done := 0
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	for range min(runtime.GOMAXPROCS(0), len(unread)) {
		wg.Go(func() {
			for f := range queue {
				err := f.embed(ctx, model, dir)
				if err != nil {
					stop(err)
					continue
				}
				mu.Lock()
				x.files[f.Name] = f
				done++
				progress("files", done, len(unread))
				mu.Unlock()
			}
		})
	}
	for _, f := range unread {
		if ctx.Err() != nil {
			break
		}
		queue <- f
	}
	close(queue)
	wg.Wait()
	return changed, context.Cause(ctx)
}

// embed finds the file's vector. A file that the model cannot read is noted as such.
func (f *indexedFile) embed(ctx context.Context, model pipeline.Model, dir string) error {
	v, medium, err := embedFile(ctx, model, filepath.Join(dir, filepath.FromSlash(f.Name)))
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil && media.CodeOf(err) == "" && !errors.Is(err, pipeline.ErrInput) && !errors.Is(err, pipeline.ErrNotFinite):
		return fmt.Errorf("%s: %w", f.Name, err)
	case err != nil:
		f.Fault = err.Error()
	default:
		f.vector, f.Modality = v, medium
	}
	return nil
}

// embedFile is a file's unit vector in the model's space, and its medium.
func embedFile(ctx context.Context, model pipeline.Model, path string) (v []float32, medium string, err error) {
	it, done, err := openItem(ctx, &env{}, []string{path})
	if err != nil {
		return nil, "", err
	}
	defer done()
	return embedItem(ctx, model, it)
}

func embedItem(ctx context.Context, model pipeline.Model, it pipeline.Item) (v []float32, medium string, err error) {
	enc, err := model.Encode(ctx, it, pipeline.EncodeOptions{Outputs: []string{pipeline.OutputPooled}})
	if err != nil {
		return nil, "", err
	}
	return unitVector(enc.Pooled.Data), enc.Plan.Modality, nil
}
