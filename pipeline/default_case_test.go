package pipeline_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/mmserve/mmserve/models"
	"github.com/mmserve/mmserve/pipeline"
)

// The forward pass gives the numbers of the recipe that trained the default model
// (tools/train/export.py), stage by stage, on eight inputs a medium.
func TestDefaultModelEqualsItsRecipe(t *testing.T) {
	dir := t.TempDir()
	for _, part := range []struct {
		from  fs.FS
		names []string
	}{
		{models.Default(), []string{"model.json", "model.safetensors"}},
		{os.DirFS(filepath.Join("..", "testdata", "native", "default")), []string{"case.json", "inputs.safetensors", "expected.safetensors"}},
	} {
		for _, name := range part.names {
			data, err := fs.ReadFile(part.from, name)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	v := pipeline.Verify(t.Context(), dir, pipeline.Options{})
	if v.Err != nil || !v.Pass {
		t.Fatalf("%+v", v)
	}
}
