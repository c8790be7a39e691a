package weights

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxIndex bounds an index file, maxShards the files it names.
const (
	maxIndex  = 64 << 20
	maxShards = 4096
)

// openDir opens the weights of a model directory.
func (c *Checkpoint) openDir(path string) error {
	root, err := os.OpenRoot(path)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, name := range []string{"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"} {
		f, err := openIn(root, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if strings.HasSuffix(name, ".json") {
			err = c.addIndex(root, f)
		} else {
			err = c.add(f)
		}
		f.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	}
	return errors.New("no weights: none of model.safetensors, model.safetensors.index.json, pytorch_model.bin, pytorch_model.bin.index.json")
}

// openIn opens a plain file name inside root. A link may leave the directory only for the
// blobs of the same Hugging Face cache entry (snapshots/REVISION/name → ../../blobs/HASH).
func openIn(root *os.Root, name string) (*os.File, error) {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, `/\:`) || !filepath.IsLocal(name) {
		return nil, fmt.Errorf("%q is not a plain file name", clip(name))
	}
	f, err := root.Open(name)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	dir, dirErr := filepath.EvalSymlinks(root.Name())
	target, linkErr := filepath.EvalSymlinks(filepath.Join(root.Name(), name))
	if dirErr != nil || linkErr != nil {
		return nil, err
	}
	if filepath.Dir(target) != filepath.Join(dir, "..", "..", "blobs") {
		return nil, err
	}
	return os.Open(target)
}

// addIndex reads {"weight_map": {tensor: file}} and every file it names.
func (c *Checkpoint) addIndex(root *os.Root, index io.Reader) error {
	where, err := parseIndex(io.LimitReader(index, maxIndex))
	if err != nil {
		return err
	}
	files := map[string]bool{}
	for _, file := range where {
		files[file] = true
	}
	if len(files) > maxShards {
		return fmt.Errorf("%d shards, at most %d", len(files), maxShards)
	}
	shard := map[*mapped]string{}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := c.addShard(root, name); err != nil {
			return fmt.Errorf("shard %s: %w", clip(name), err)
		}
		shard[c.files[len(c.files)-1]] = name
	}
	for _, t := range slices.Sorted(maps.Keys(where)) {
		if e, ok := c.entries[t]; !ok || shard[e.file] != where[t] {
			return fmt.Errorf("tensor %q is not in shard %s", clip(t), clip(where[t]))
		}
	}
	return nil
}

func (c *Checkpoint) addShard(root *os.Root, name string) error {
	f, err := openIn(root, name)
	if err != nil {
		return err
	}
	defer f.Close()
	return c.add(f)
}

// parseIndex returns the file of every tensor.
func parseIndex(r io.Reader) (map[string]string, error) {
	d := &reader{json.NewDecoder(r)}
	d.UseNumber()
	var where map[string]string
	err := d.object(func(key string) error {
		if key != "weight_map" {
			var skipped json.RawMessage
			return d.Decode(&skipped)
		}
		where = map[string]string{}
		return d.object(func(tensor string) error {
			file, err := d.text()
			where[tensor] = file
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	if where == nil {
		return nil, errors.New("index: no weight_map")
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("index: text after the object")
	}
	return where, nil
}
