package pipeline_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/internal/refcase"
	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/pipeline"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// referenceCase is a directory of the reference cases.
func referenceCase(parts ...string) string {
	return filepath.Join(append([]string{"..", "testdata", "reference"}, parts...)...)
}

// TestResamplersTakeArrays feeds the inputs of every resampler's reference case as .npy files:
// each published resampler and connector by itself is a model directory.
func TestResamplersTakeArrays(t *testing.T) {
	var dirs []string
	for _, root := range []string{filepath.Join("..", "testdata", "reference"), os.Getenv("MMSERVE_REFERENCE")} {
		found, err := filepath.Glob(filepath.Join(root, "resampler", "*", "inputs.safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
			dirs = append(dirs, filepath.Dir(path))
		}
	}
	if len(dirs) < 10 {
		t.Fatalf("%d cases", len(dirs))
	}
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
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
			if sizes, _, ok := rc.Ints("tgt_sizes"); ok {
				var grids [][2]int
				for i := 0; i < len(sizes); i += 2 {
					grids = append(grids, [2]int{sizes[i], sizes[i+1]})
				}
				part.Options, _ = json.Marshal(map[string]any{"grids": grids})
			}
			if mask, shape, ok := rc.Ints("attention_mask"); ok {
				masks := make([][]bool, shape[0])
				for i, x := range mask {
					masks[i/shape[1]] = append(masks[i/shape[1]], x != 0)
				}
				part.Options, _ = json.Marshal(map[string]any{"masks": masks})
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
			it := pipeline.Item{Parts: []pipeline.Part{part}}
			plan, err := m.Plan(t.Context(), it)
			if err != nil || plan.FLOPs != enc.Plan.FLOPs || plan.Rows != x.Rows() {
				t.Errorf("plan %+v, %v, read %+v", plan, err, enc.Plan)
			}
			kind := "cross_attention"
			if k := rc.Kind; strings.Contains(k, "idefics2") || strings.Contains(k, "qwen") || strings.Contains(k, "minicpm") {
				kind = "soft_tokens"
			}
			if info.SoftTokenKind != kind || info.SoftTokenDim != enc.SoftTokens.Cols() || enc.SoftTokens.Rows()%info.SoftTokens != 0 || info.Parameters == 0 {
				t.Errorf("%+v", info)
			}
		})
	}
}

// A plan of an array needs its header alone: of a claim without data there is a plan, and no
// encoding.
func TestArraysArePlannedFromTheirHeader(t *testing.T) {
	for name, c := range map[string]struct {
		dir   string
		shape []int
		wrong []int
	}{
		"resampler": {referenceCase("resampler", "lucidrains-3d"), []int{2, 3000, 32}, []int{2, 3000, 33}},
		"bare":      {referenceCase("perceiver", "bare_model"), []int{1, 70000, 0}, []int{7}},
		"original":  {referenceCase("perceiver-original", "no_fourier_1d_mask"), []int{100000, 0}, []int{2, 2, 2, 2}},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := pipeline.Open(t.Context(), c.dir, pipeline.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if c.shape[len(c.shape)-1] == 0 {
				c.shape[len(c.shape)-1] = rowWidth(t, c.dir)
			}
			claim := func(shape []int) pipeline.Item {
				var b bytes.Buffer
				if err := weights.WriteNPY(&b, tensor.New(shape...), weights.F32); err != nil {
					t.Fatal(err)
				}
				return pipeline.Item{Parts: []pipeline.Part{{Input: media.Bytes("x.npy", b.Bytes()[:200])}}}
			}
			plan, err := m.Plan(t.Context(), claim(c.shape))
			if err != nil || plan.Rows*plan.RowChannels != tensor.Size(c.shape) || plan.FLOPs <= 0 {
				t.Errorf("%+v, %v", plan, err)
			}
			if _, err := m.Encode(t.Context(), claim(c.shape), pipeline.EncodeOptions{}); err == nil || !strings.Contains(err.Error(), "bytes of data") {
				t.Errorf("encoded without data: %v", err)
			}
			if _, err := m.Plan(t.Context(), claim(c.wrong)); !errors.Is(err, pipeline.ErrInput) {
				t.Errorf("%v: %v", c.wrong, err)
			}
		})
	}
}

// rowWidth is the width of the rows that a network of config.json reads.
func rowWidth(t *testing.T, dir string) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		Model int `json:"d_model"`
		Input int `json:"input_channels"`
	}
	if err := json.Unmarshal(b, &c); err != nil {
		t.Fatal(err)
	}
	return max(c.Model, c.Input)
}

// A connector saved by itself needs no prefix.
func TestConnectorWithoutPrefix(t *testing.T) {
	src := referenceCase("resampler", "idefics2-connector-padded")
	open, err := weights.Open(src)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	dir := t.TempDir()
	config, err := os.ReadFile(filepath.Join(src, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), config, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	bare := weights.Rename(open, func(name string) string { return strings.TrimPrefix(name, "model.connector.") })
	if err := errors.Join(weights.CopySafetensors(f, bare, nil), f.Close()); err != nil {
		t.Fatal(err)
	}
	if m, err := pipeline.Open(t.Context(), dir, pipeline.Options{}); err != nil || m.Info().SoftTokenKind != "soft_tokens" {
		t.Error(err)
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
