package pipeline

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Names of the files of a model directory.
const (
	configFile       = "config.json"
	nativeFile       = "model.json"
	preprocessorFile = "preprocessor_config.json"
	weightsFile      = "model.safetensors"
)

// maxConfigBytes bounds every JSON file of a model directory.
const maxConfigBytes = 64 << 20

// Dir is a model directory: its path and its parsed description.
type Dir struct {
	Path string
	// Arch is the architecture that a Recipe answers to: the first of config.json's
	// "architectures", or model.json's "architecture".
	Arch string
	// Config is config.json, or model.json for a native directory.
	Config []byte
	// Native says that Config is model.json.
	Native bool
	// FS reads the directory's files; embedded models have no Path.
	FS fs.FS
}

// ReadDir reads the description of a model directory. Either model.json or config.json must
// be there and name an architecture.
func ReadDir(path string) (*Dir, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("pipeline: model directory: %w", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("pipeline: model directory: %s is a file; give the directory that holds %s", path, configFile)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("pipeline: model directory: %w", err)
	}
	return readDirFS(path, root.FS())
}

func readDirFS(path string, fsys fs.FS) (*Dir, error) {
	d := &Dir{Path: path, FS: fsys}
	config, err := d.File(nativeFile)
	switch {
	case err == nil:
		d.Native = true
	case errors.Is(err, fs.ErrNotExist):
		config, err = d.File(configFile)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("pipeline: %s holds neither %s nor %s", path, configFile, nativeFile)
		}
	}
	if err != nil {
		return nil, err
	}
	d.Config = config
	return d, d.readArch()
}

// ReadConfig makes a directory of a config.json's text alone: it has no other files.
func ReadConfig(path string, config []byte) (*Dir, error) {
	d := &Dir{Path: path, FS: os.DirFS(path), Config: config}
	return d, d.readArch()
}

// readArch finds the architecture that the description names.
func (d *Dir) readArch() error {
	var head struct {
		Architecture  string   `json:"architecture"`
		Architectures []string `json:"architectures"`
		ModelType     string   `json:"model_type"`
	}
	if err := json.Unmarshal(d.Config, &head); err != nil {
		return fmt.Errorf("pipeline: %s: %w", d.name(), err)
	}
	switch {
	case head.Architecture != "":
		d.Arch = head.Architecture
	case len(head.Architectures) > 0:
		d.Arch = head.Architectures[0]
	case head.ModelType != "":
		d.Arch = head.ModelType
	case d.Native:
		d.Arch = nativeArch
	default:
		return fmt.Errorf("pipeline: %s names no architecture (keys \"architectures\", \"architecture\", \"model_type\")", d.name())
	}
	return nil
}

func dirFS(path string) fs.FS { return os.DirFS(path) }

// name is the description file's path, for messages.
func (d *Dir) name() string {
	if d.Native {
		return filepath.Join(d.Path, nativeFile)
	}
	return filepath.Join(d.Path, configFile)
}

// File reads a small file of the directory (at most 64 MiB).
func (d *Dir) File(name string) ([]byte, error) {
	f, err := d.FS.Open(name)
	if err != nil {
		return nil, fmt.Errorf("pipeline: %s: %w", d.Path, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfigBytes+1))
	if err != nil {
		return nil, fmt.Errorf("pipeline: %s: %w", filepath.Join(d.Path, name), err)
	}
	if len(b) > maxConfigBytes {
		return nil, fmt.Errorf("pipeline: %s: larger than %d bytes", filepath.Join(d.Path, name), maxConfigBytes)
	}
	return b, nil
}

// optional is File, with nil for a file that is not there.
func (d *Dir) optional(name string) ([]byte, error) {
	b, err := d.File(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}
