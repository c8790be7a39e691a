package pipeline_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/mmserve/mmserve/internal/refcase"
	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/pipeline"
	"github.com/mmserve/mmserve/weights"
)

// referenceCase is a directory of the reference cases.
func referenceCase(parts ...string) string {
	return filepath.Join(append([]string{"..", "testdata", "reference"}, parts...)...)
}

// TestResamplersTakeArrays feeds the inputs of reference cases as .npy files.
func TestResamplersTakeArrays(t *testing.T) {
	for _, c := range []struct{ name, kind, grids string }{
		{"ip-adapter-plus-pos-meanpool", "cross_attention", ""},
		{"qwen-vl-style-same-grid", "soft_tokens", ""},
		{"qwen-vl-style-interp", "soft_tokens", ""},
		{"minicpmv-2.6", "soft_tokens", "tgt_sizes"},
		{"lucidrains-3d", "cross_attention", ""},
		{"openflamingo-media-embs", "cross_attention", ""},
		{"openflamingo-video-frame-embs", "cross_attention", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := referenceCase("resampler", c.name)
			if _, err := os.Stat(dir); err != nil {
				t.Skip(err)
			}
			m, err := pipeline.Open(t.Context(), dir, pipeline.Options{})
			if err != nil {
				t.Fatal(err)
			}
			rc, err := refcase.Load(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer rc.Close()
			x, _ := rc.Tensor("x")
			var npy bytes.Buffer
			if err := weights.WriteNPY(&npy, x, weights.F32); err != nil {
				t.Fatal(err)
			}
			part := pipeline.Part{Input: media.Bytes("x.npy", npy.Bytes())}
			if c.grids != "" {
				sizes, _, _ := rc.Ints(c.grids)
				var grids [][2]int
				for i := 0; i < len(sizes); i += 2 {
					grids = append(grids, [2]int{sizes[i], sizes[i+1]})
				}
				part.Options, _ = json.Marshal(map[string]any{"grids": grids})
			}
			enc, err := m.Encode(t.Context(), pipeline.Item{Parts: []pipeline.Part{part}}, pipeline.EncodeOptions{Outputs: []string{pipeline.OutputSoftTokens}})
			if err != nil {
				t.Fatal(err)
			}
			got := enc.SoftTokens.Reshape(rc.Shape("output")...)
			if diff, tol, err := rc.Compare("output", got); err != nil {
				t.Errorf("differs by %g, at most %g: %v", diff, tol, err)
			}
			info := m.Info()
			if info.SoftTokenKind != c.kind || info.SoftTokenDim != enc.SoftTokens.Cols() || enc.SoftTokens.Rows()%info.SoftTokens != 0 || info.Parameters == 0 {
				t.Errorf("%+v", info)
			}
		})
	}
}

// TestTowers encodes a picture with bare towers.
func TestTowers(t *testing.T) {
	picture := filepath.Join("..", "testdata", "media", "image")
	found, err := filepath.Glob(filepath.Join(picture, "*.png"))
	if err != nil || len(found) == 0 {
		t.Skip("no picture")
	}
	data, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	it := pipeline.Item{Parts: []pipeline.Part{{Input: media.Bytes(found[0], data)}}}
	for _, name := range []string{"clip-quickgelu", "siglip"} {
		t.Run(name, func(t *testing.T) {
			m, err := pipeline.Open(t.Context(), referenceCase("vision", name), pipeline.Options{})
			if err != nil {
				t.Fatal(err)
			}
			enc, err := m.Encode(t.Context(), it, pipeline.EncodeOptions{Outputs: []string{"all"}})
			if err != nil {
				t.Fatal(err)
			}
			info := m.Info()
			if enc.Latents.Rows() != info.Latents || enc.Latents.Cols() != info.LatentDim || len(enc.Pooled.Data) == 0 {
				t.Errorf("latents %v, pooled %v, %+v", enc.Latents.Shape, enc.Pooled.Shape, info)
			}
			plan, err := m.Plan(t.Context(), it)
			if err != nil || plan.FLOPs <= 0 || plan.Rows == 0 {
				t.Errorf("%+v, %v", plan, err)
			}
			b, err := pipeline.AsBencher(m)
			if err != nil {
				t.Fatal(err)
			}
			if _, run, err := b.Work(1); err != nil || run(t.Context()) != nil {
				t.Error(err)
			}
			if _, err := m.Predict(t.Context(), it, pipeline.PredictOptions{}); !errors.Is(err, pipeline.ErrNoTask) {
				t.Error(err)
			}
			if _, err := m.Encode(t.Context(), pipeline.Item{}, pipeline.EncodeOptions{}); !errors.Is(err, pipeline.ErrInput) {
				t.Error(err)
			}
		})
	}
}

// TestWholeCases runs the cases that are pictures and files.
func TestWholeCases(t *testing.T) {
	dirs := []string{referenceCase("flamingo", "wire-tensors")}
	if root := os.Getenv("MMSERVE_REFERENCE"); root != "" {
		dirs = append(dirs, filepath.Join(root, "flamingo", "wire-tensors"), filepath.Join(root, "vision", "preprocess"))
	}
	for _, dir := range dirs {
		if v := pipeline.Verify(t.Context(), dir, pipeline.Options{}); !v.Pass || v.Stages < 5 {
			t.Errorf("%s: %+v: %v", dir, v, v.Err)
		}
	}
}
