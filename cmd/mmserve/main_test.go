package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/pipeline"
	"github.com/mmserve/mmserve/weights"
)

// mmserve runs a command line as a person would type it.
func mmserve(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, &env{stdin: strings.NewReader(""), stdout: &out, stderr: &errs})
	return code, out.String(), errs.String()
}

// data is a path below testdata.
func data(parts ...string) string {
	return filepath.Join(append([]string{"..", "..", "testdata"}, parts...)...)
}

func TestPredictFillsMasks(t *testing.T) {
	code, out, errs := mmserve(t, "predict", "--model", data("reference", "perceiver", "mlm_language"), "--text", "ab[MASK]", "--json", "--top", "3")
	if code != 0 {
		t.Fatalf("status %d: %s", code, errs)
	}
	var p struct {
		Task  string
		Text  string
		Masks []struct {
			Position   int
			Candidates []struct {
				Index int
				Score float64
			}
		}
	}
	if err := json.Unmarshal([]byte(out), &p); err != nil {
		t.Fatal(err)
	}
	if p.Task != "fill_mask" || len(p.Masks) != 1 || p.Masks[0].Position != 3 || len(p.Masks[0].Candidates) != 3 || !strings.HasPrefix(p.Text, "ab") {
		t.Fatalf("%s", out)
	}
	if c := p.Masks[0].Candidates; c[0].Score < c[1].Score || c[1].Score < c[2].Score {
		t.Fatalf("not best first: %v", c)
	}
}

func TestEncodeWritesEveryFormat(t *testing.T) {
	model := data("reference", "perceiver", "mlm_language")
	var want []float32
	for _, format := range []string{"npy", "raw", "safetensors", "pt", "json"} {
		t.Run(format, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "out")
			// Flags after operands, as the documented commands have them.
			code, _, errs := mmserve(t, "encode", "--model", model, "--text", "hello", "--format", format, "-o", file)
			if code != 0 {
				t.Fatalf("status %d: %s", code, errs)
			}
			got := readLatents(t, format, file)
			if want == nil {
				want = got
			}
			if len(got) == 0 || len(got) != len(want) {
				t.Fatalf("%d values, want %d", len(got), len(want))
			}
			for i := range got {
				if got[i] != want[i] {
					t.Fatalf("value %d is %v, in npy %v", i, got[i], want[i])
				}
			}
		})
	}
}

func readLatents(t *testing.T, format, file string) []float32 {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	switch format {
	case "json":
		var v struct{ Latents jsonTensor }
		if err := json.Unmarshal(b, &v); err != nil {
			t.Fatal(err)
		}
		return v.Latents.Data
	case "npy":
		raw, err := weights.ReadNPY(bytes.NewReader(b), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		return raw.Tensor().Data
	case "raw":
		return weights.Raw{DType: weights.F32, Shape: []int{len(b) / 4}, Data: b}.Tensor().Data
	}
	src, err := weights.Parse("out", b)
	if err != nil {
		t.Fatal(err)
	}
	name := "latents"
	if format == "pt" {
		name = "tensor"
	}
	raw, err := src.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	return raw.Tensor().Data
}

func TestVerifySaysWhatHappened(t *testing.T) {
	good := data("reference", "perceiver", "seqcls_blocks3_q")
	code, out, _ := mmserve(t, "verify", good)
	if code != 0 || !strings.HasPrefix(out, "PASS seqcls_blocks3_q ") || !strings.HasSuffix(out, "verify: 1 cases, 1 passed, 0 failed\n") {
		t.Fatalf("status %d: %s", code, out)
	}
	code, out, errs := mmserve(t, "verify", good, t.TempDir())
	if code != 1 || !strings.HasSuffix(out, "verify: 2 cases, 1 passed, 1 failed\n") || !strings.Contains(errs, "not a reference case") {
		t.Fatalf("status %d: %s%s", code, out, errs)
	}
}

func TestVerifyAgainst(t *testing.T) {
	dir := data("reference", "perceiver", "mlm_language")
	code, out, errs := mmserve(t, "verify", "--against", "f32", "--dtype", "f32,bf16", "--json", dir)
	if code != 0 {
		t.Fatalf("status %d: %s", code, errs)
	}
	for i, line := range strings.Split(strings.TrimSpace(out), "\n") {
		var p pipeline.Precision
		if err := json.Unmarshal([]byte(line), &p); err != nil {
			t.Fatal(err)
		}
		if same := p.Latents.Max == 0 && p.Logits.Max == 0 && p.Agree == p.Choices; p.Choices == 0 || same != (p.DType == "f32") {
			t.Errorf("line %d: %+v", i, p)
		}
	}
	code, out, _ = mmserve(t, "verify", "--against", "f32", dir)
	if code != 0 || strings.Count(out, "\n| mlm_language |") != 2 {
		t.Errorf("status %d: %s", code, out)
	}
	if code, _, errs := mmserve(t, "verify", "--against", "f33", dir); code != 2 || !strings.Contains(errs, `"f33"`) {
		t.Errorf("status %d: %s", code, errs)
	}
}

// A served model may have an arithmetic of its own, and /v1/models says which and how far it is
// from float32.
func TestServedDTypes(t *testing.T) {
	dir := data("reference", "perceiver", "image_fourier")
	s := newSettings(flag.NewFlagSet("", flag.ContinueOnError))
	if err := s.load([]string{"--dtype", "bf16", "--models", dir + ",exact=" + dir + ":f32,small=" + dir + ":int8"}); err != nil {
		t.Fatal(err)
	}
	store, def, err := openStore(s, pipeline.Options{DType: s.dtype})
	if err != nil {
		t.Fatal(err)
	}
	if def != "image_fourier" {
		t.Errorf("default %q", def)
	}
	for name, want := range map[string]string{"image_fourier": "bf16", "exact": "f32", "small": "int8"} {
		_, release, err := store.Acquire(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		release()
		for _, st := range store.Status() {
			if st.Name != name {
				continue
			}
			if info := st.Loaded; info.DType != want || strings.HasPrefix(info.Precision, want+" against float32") != (want != "f32") {
				t.Errorf("%s: %q, %q", name, info.DType, info.Precision)
			}
		}
	}
}

// The cheap parts of the table: every row has values and says its gate.
func TestBenchTargets(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: it measures for seconds")
	}
	samples := filepath.Join(t.TempDir(), "bench.txt")
	code, out, errs := mmserve(t, "bench", "--targets", "default", "--samples", samples)
	if code != 0 {
		t.Fatalf("status %d: %s", code, errs)
	}
	if strings.Count(out, "| default model") != 4 || !strings.Contains(out, "Other processes used") {
		t.Error(out)
	}
	b, err := os.ReadFile(samples)
	if err != nil || !strings.Contains(string(b), "BenchmarkDefault/photo-1\t1\t") {
		t.Errorf("%s (%v)", b, err)
	}
	if code, _, errs := mmserve(t, "bench", "--targets", "everything"); code != 2 || !strings.Contains(errs, "kernels") {
		t.Errorf("status %d: %s", code, errs)
	}
}

func TestImportAndInspect(t *testing.T) {
	file := filepath.Join(t.TempDir(), "model.safetensors")
	code, _, errs := mmserve(t, "import", data("reference", "perceiver", "mlm_bin", "pytorch_model.bin"), file)
	if code != 0 {
		t.Fatal(errs)
	}
	code, out, errs := mmserve(t, "inspect", "--json", file)
	if code != 0 {
		t.Fatal(errs)
	}
	var got inspection
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Tensors) == 0 || got.Parameters == 0 {
		t.Fatalf("%s", out)
	}
	if code, out, _ := mmserve(t, "inspect", data("reference", "perceiver", "mlm_language")); code != 0 || !strings.Contains(out, "PerceiverForMaskedLM") {
		t.Fatalf("status %d: %s", code, out)
	}
}

// Faults of a command line and of its input name the thing, with the right exit status.
func TestErrorsNameTheThing(t *testing.T) {
	mlm := data("reference", "perceiver", "mlm_language")
	truncated := filepath.Join(t.TempDir(), "model")
	if err := os.CopyFS(truncated, os.DirFS(mlm)); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(truncated, "model.safetensors"), 5000); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"unknown command":    {[]string{"fly"}, 2, `unknown command "fly"`},
		"unknown flag":       {[]string{"predict", "--fly", "x"}, 2, "fly"},
		"no input":           {[]string{"predict", "--model", mlm}, 2, "no input given"},
		"missing directory":  {[]string{"predict", "--model", "nowhere", "x"}, 1, "nowhere"},
		"missing file":       {[]string{"predict", "--model", mlm, "nowhere.txt"}, 1, "nowhere.txt"},
		"wrong medium":       {[]string{"predict", "--model", mlm, data("samples", "emoji-1f622.png")}, 1, "takes text"},
		"text too long":      {[]string{"predict", "--model", mlm, "--text", strings.Repeat("long ", 5000)}, 1, "limit"},
		"nothing to fill":    {[]string{"predict", "--model", mlm, "--text", "whole"}, 1, "[MASK]"},
		"truncated weights":  {[]string{"predict", "--model", truncated, "--text", "[MASK]"}, 1, "model.safetensors"},
		"bad format":         {[]string{"encode", "--model", mlm, "--text", "x", "--format", "png"}, 2, "png"},
		"bad kernels":        {[]string{"predict", "--model", mlm, "--kernels", "abacus", "--text", "x"}, 2, "abacus"},
		"no such output":     {[]string{"encode", "--model", mlm, "--text", "x", "--output", "gold"}, 2, "gold"},
		"frames too small":   {[]string{"preprocess", "--config", "nowhere.json", "x.png"}, 1, "nowhere.json"},
		"settings operand":   {[]string{"config", "surplus"}, 2, "surplus"},
		"plan of nothing":    {[]string{"plan"}, 2, "no file given"},
		"eval of wrong data": {[]string{"eval", data("samples")}, 1, "none of"},
	} {
		t.Run(name, func(t *testing.T) {
			code, _, errs := mmserve(t, c.args...)
			if code != c.code || !strings.Contains(errs, c.says) {
				t.Fatalf("status %d, want %d; says %q, want %q in it", code, c.code, errs, c.says)
			}
		})
	}
}

func TestHelpKnowsEveryCommand(t *testing.T) {
	_, all, _ := mmserve(t, "help")
	for _, c := range commands() {
		if !strings.Contains(all, "\n  "+c.name+" ") {
			t.Errorf("help leaves out %s", c.name)
		}
		code, out, errs := mmserve(t, "help", c.name)
		if code != 0 || !strings.HasPrefix(out, "usage: mmserve "+c.name) {
			t.Errorf("help %s: status %d: %s%s", c.name, code, out, errs)
		}
	}
}

func TestInterruptEndsWork(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, errs bytes.Buffer
	code := run(ctx, []string{"predict", "--model", data("reference", "perceiver", "mlm_language"), "--text", "[MASK]"}, &env{stdout: &out, stderr: &errs})
	if code != 130 || !strings.Contains(errs.String(), "interrupted") {
		t.Fatalf("status %d: %s", code, errs.String())
	}
}

// The settings' precedence: flag, environment, file, default.
func TestSettingsComeFromFourPlaces(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mmserve.yaml")
	if err := os.WriteFile(file, []byte("max-items: 7\nmax-body: 1000\ndeadline: 5s\nmodels:\n  a: /x\n  b: /y\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("MMSERVE_MAX_BODY", "2000")
	t.Setenv("MMSERVE_DEADLINE", "7s")
	code, out, errs := mmserve(t, "config", "--config", file, "--deadline", "9s")
	if code != 0 {
		t.Fatal(errs)
	}
	for _, want := range []string{"max-items:", "7 ", "2000", "# environment", "9s", "# flag", "a=/x,b=/y", "# default"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if err := os.WriteFile(file, []byte("max-itms: 7\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := mmserve(t, "config", "--config", file); code != 1 || !strings.Contains(errs, "max-itms") {
		t.Fatalf("status %d: %s", code, errs)
	}
}
