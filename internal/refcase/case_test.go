package refcase_test

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/internal/refcase"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// roots are the directories of reference cases: ours, and the one the environment names.
func roots() []string {
	out := []string{filepath.Join("..", "..", "testdata", "reference")}
	if dir := os.Getenv("MMSERVE_REFERENCE"); dir != "" {
		out = append(out, dir)
	}
	return out
}

func TestEveryCaseLoads(t *testing.T) {
	for _, root := range roots() {
		dirs, err := filepath.Glob(filepath.Join(root, "*", "*"))
		if err != nil || len(dirs) == 0 {
			t.Fatalf("%s: no cases (%v)", root, err)
		}
		for _, dir := range dirs {
			if info, err := os.Stat(dir); err != nil || !info.IsDir() {
				continue
			}
			switch filepath.Base(dir) {
			case "preprocess", "wire-tensors":
				if _, err := refcase.Load(dir); err == nil {
					t.Errorf("%s: loaded, though it has no stages", dir)
				}
				continue
			}
			t.Run(filepath.Base(dir), func(t *testing.T) { loads(t, dir) })
		}
	}
}

// loads checks that a case's parts are there and that its stages accept themselves.
func loads(t *testing.T, dir string) {
	c, err := refcase.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.Architecture == "" && c.Kind == "" {
		t.Error("neither architecture nor kind")
	}
	if len(c.Inputs()) == 0 && c.Kind != "checkpoint" {
		t.Error("no inputs")
	}
	if len(c.Stages()) == 0 {
		t.Error("no stages")
	}
	if c.FullSize {
		return
	}
	if c.Kind == "checkpoint" {
		src, err := c.Source()
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range c.Stages() {
			raw, err := src.Load(name)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := c.Compare(name, raw.Tensor()); err != nil {
				t.Error(err)
			}
		}
		return
	}
	if c.Kind != "flamingo/openflamingo" {
		if _, err := c.Source(); err != nil {
			t.Error(err)
		}
	}
	src, err := weights.Open(filepath.Join(dir, "expected.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	for _, name := range c.Stages() {
		raw, err := src.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		x := raw.Tensor()
		if d, tol, err := c.Compare(name, x); err != nil || d != 0 {
			t.Errorf("%s against itself: %v, tolerance %v: %v", name, d, tol, err)
		}
		if len(x.Data) > 0 {
			x.Data[len(x.Data)/2] += max(1, float32(math.Abs(float64(x.Data[len(x.Data)/2]))))
			if _, _, err := c.Compare(name, x); err == nil {
				t.Errorf("%s: a wrong value passes", name)
			}
			x.Data[0] = float32(math.NaN())
			if _, _, err := c.Compare(name, x); err == nil {
				t.Errorf("%s: NaN passes", name)
			}
		}
	}
}

func fullsize(t *testing.T, name string) *refcase.Case {
	t.Helper()
	c, err := refcase.Load(filepath.Join(roots()[0], "fullsize", name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// The decoder's query of the language model is its position table: statistics, first values
// and probes of a summary can be checked without a model.
func TestFullSizeStageFromWeights(t *testing.T) {
	for name, table := range map[string]string{
		"language-perceiver":       "output_position_encodings.position_embeddings",
		"vision-perceiver-fourier": "output_position_encodings.position_embeddings",
	} {
		c := fullsize(t, name)
		src, err := c.Source()
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for n := range src.Names() {
			if !strings.HasSuffix(n, table) {
				continue
			}
			found = true
			raw, err := src.Load(n)
			if err != nil {
				t.Fatal(err)
			}
			x := raw.Tensor()
			d, tol, err := c.Compare("decoder_query", x)
			t.Logf("%s: %s: %.3g of %.3g", name, n, d, tol)
			if err != nil {
				t.Error(err)
			}
			k, err := c.Begin("decoder_query", x.Shape...)
			if err != nil {
				t.Fatal(err)
			}
			for part := range slices.Chunk(x.Data, 1000) {
				k.Add(part)
			}
			if d2, _, err := k.End(); err != nil || math.Abs(d2-d) > 1e-12 {
				t.Errorf("in pieces: %v, %v; whole %v", d2, err, d)
			}
		}
		if !found {
			t.Errorf("%s: no tensor ends in %s", name, table)
		}
	}
}

func TestInputs(t *testing.T) {
	c := fullsize(t, "multimodal-perceiver")
	want := []string{"inputs.audio", "inputs.image", "inputs.label", "subsampled_output_points.audio", "subsampled_output_points.image"}
	if got := c.Inputs(); !slices.Equal(got, want) {
		t.Errorf("inputs %v, want %v", got, want)
	}
	if v, _, _ := c.Ints("subsampled_output_points.audio"); len(v) != 15 || v[0] != 75 || v[14] != 89 {
		t.Errorf("audio points %v", v)
	}
	c = fullsize(t, "language-perceiver")
	ids, shape, _ := c.Ints("inputs")
	if !slices.Equal(shape, []int{1, 2048}) || ids[0] != 4 || ids[52] != 3 || ids[60] != 3 || ids[1499] != 5 || ids[1500] != 0 {
		t.Errorf("ids of shape %v begin %v", shape, ids[:8])
	}
}

func TestCompareRefuses(t *testing.T) {
	c, err := refcase.Load(filepath.Join(roots()[0], "perceiver", "mlm_language"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, _, err := c.Compare("no such stage", tensor.New(1)); err == nil {
		t.Error("unknown stage accepted")
	}
	if _, _, err := c.Compare("logits", tensor.New(2, 20, 261)); err == nil {
		t.Error("wrong shape accepted")
	}
}

func TestLoadRefuses(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"empty":        {},
		"no expected":  {"case.json": `{"name":"x"}`},
		"not json":     {"case.json": `{`},
		"no formula":   {"case.json": `{"inputs":{"x":{"from":"rm -rf","shape":[1]}},"expected":{"o":{"shape":[1],"first":[1]}}}`, "names.json": `{"tensors":[{"name":"a","dtype":"F32","shape":[1]}]}`},
		"probe beyond": {"case.json": `{"inputs":{},"expected":{"o":{"shape":[1],"probe_positions":[1],"probe_values":[0]}}}`, "names.json": `{"tensors":[{"name":"a","dtype":"F32","shape":[1]}]}`},
		"huge input":   {"case.json": `{"inputs":{"x":"float_input(\"a\", (99999999,99999999))"},"expected":{"o":{"shape":[1],"first":[0]}}}`, "names.json": `{"tensors":[{"name":"a","dtype":"F32","shape":[1]}]}`},
	} {
		dir := t.TempDir()
		for file, text := range files {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := refcase.Load(dir); err == nil {
			t.Errorf("%s: loaded", name)
		}
	}
}
