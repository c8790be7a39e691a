package pipeline_test

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/pipeline"
)

// caseDirs lists the reference cases below testdata and, when it is set, $MMSERVE_REFERENCE.
// Full-size ones take minutes and have a Makefile target.
func caseDirs(t *testing.T) []string {
	t.Helper()
	roots := []string{filepath.Join("..", "testdata", "reference")}
	if dir := os.Getenv("MMSERVE_REFERENCE"); dir != "" {
		roots = append(roots, dir)
	}
	var dirs []string
	for _, root := range roots {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && (d.Name() == "case.json" || d.Name() == "expected.json") && !strings.Contains(path, "fullsize") {
				dirs = append(dirs, filepath.Dir(path))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(dirs) < 30 {
		t.Fatalf("%d cases, want at least 30", len(dirs))
	}
	return dirs
}

// Every case passes with every kernel set of this machine, by the fast formulation and the plain one.
func TestEveryReferenceCasePasses(t *testing.T) {
	before := kernel.Set()
	t.Cleanup(func() { kernel.UseSet(before) }) // the name was in use
	for _, set := range kernel.Sets() {
		if err := kernel.UseSet(set); err != nil {
			t.Fatal(err)
		}
		for _, dir := range caseDirs(t) {
			t.Run(set+"/"+filepath.Base(dir), func(t *testing.T) {
				for _, plain := range []bool{false, true} {
					if v := pipeline.Verify(context.Background(), dir, pipeline.Options{Plain: plain}); !v.Pass {
						t.Errorf("plain %v: stage %s: %v", plain, v.Stage, v.Err)
					}
				}
			})
		}
	}
}

// A case whose expected values are not what the network gives fails, and so does one that
// expects a stage nobody produces.
func TestVerifyFails(t *testing.T) {
	src := filepath.Join("..", "testdata", "reference", "perceiver", "mlm_language")
	damage := map[string]func(dir string) error{
		"other expectations": func(dir string) error {
			other := filepath.Join("..", "testdata", "reference", "perceiver", "mlm_short_nomask", "expected.safetensors")
			b, err := os.ReadFile(other)
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, "expected.safetensors"), b, 0o644)
		},
		"no weights":    func(dir string) error { return os.Remove(filepath.Join(dir, "model.safetensors")) },
		"broken config": func(dir string) error { return os.WriteFile(filepath.Join(dir, "config.json"), []byte("{"), 0o644) },
		"unknown architecture": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"architectures":["Nobody"]}`), 0o644)
		},
		"other width of latent": func(dir string) error {
			return replaceIn(filepath.Join(dir, "config.json"), `"d_latents": 32`, `"d_latents": 64`)
		},
	}
	for name, harm := range damage {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(src)); err != nil {
				t.Fatal(err)
			}
			if v := pipeline.Verify(context.Background(), dir, pipeline.Options{}); !v.Pass {
				t.Fatalf("the copy fails already: %v", v.Err)
			}
			if err := harm(dir); err != nil {
				t.Fatal(err)
			}
			if v := pipeline.Verify(context.Background(), dir, pipeline.Options{}); v.Pass || v.Err == nil {
				t.Fatalf("passed: %+v", v)
			}
		})
	}
}

func replaceIn(path, old, new string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !strings.Contains(string(b), old) {
		return &fs.PathError{Op: "replace " + old, Path: path, Err: fs.ErrNotExist}
	}
	return os.WriteFile(path, []byte(strings.Replace(string(b), old, new, 1)), 0o644)
}
