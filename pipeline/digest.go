package pipeline

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"slices"
)

// weightPatterns are the names of weight files in a model directory.
var weightPatterns = []string{"*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "*.pt"}

// partFiles lists, for architectures assembled from several places, the further files that a
// model is made of.
var partFiles = map[string]func(d *Dir) ([]string, error){}

// digest identifies what a directory holds: "sha256:" over its description, its weight files
// and those of its parts, each preceded by its name and size, sorted by name. Files are
// streamed.
func (d *Dir) digest() (string, error) {
	var names []string
	if parts, ok := partFiles[d.Arch]; ok {
		found, err := parts(d)
		if err != nil {
			return "", err
		}
		names = append(names, found...)
	}
	for _, pattern := range weightPatterns {
		found, err := fs.Glob(d.FS, pattern)
		if err != nil {
			return "", err
		}
		names = append(names, found...)
	}
	slices.Sort(names)
	h := sha256.New()
	fmt.Fprintf(h, "config %d\n", len(d.Config))
	h.Write(d.Config)
	for _, name := range slices.Compact(names) {
		if err := hashFile(h, d.FS, name); err != nil {
			return "", fmt.Errorf("pipeline: digest: %w", err)
		}
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}

func hashFile(h io.Writer, fsys fs.FS, name string) error {
	f, err := fsys.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	fmt.Fprintf(h, "%s %d\n", name, info.Size())
	_, err = io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{f}, make([]byte, 1<<20))
	return err
}
