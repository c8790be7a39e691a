package pipeline_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/mmserve/mmserve/pipeline"
	"github.com/mmserve/mmserve/tensor"
)

// The table in docs/performance.md holds a row for each measurement, of every published
// architecture in bf16 and int8, and a loaded model says its own.
func TestPrecisionsAreDocumented(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "docs", "performance.md"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(doc), "\n")
	models, err := filepath.Glob(referenceCase("fullsize", "*-perceiver*"))
	if err != nil || len(models) == 0 {
		t.Fatalf("no full-size cases: %v", err)
	}
	want := map[string]bool{}
	for _, dir := range models {
		for _, dt := range []string{"bf16", "int8"} {
			want[filepath.Base(dir)+" "+dt] = true
		}
	}
	for _, p := range pipeline.Precisions() {
		delete(want, p.Model+" "+p.DType)
		if p.Deviation == nil {
			continue // of a trained model, see below
		}
		if !slices.Contains(lines, p.Markdown()) {
			t.Errorf("docs/performance.md lacks the row\n%s", p.Markdown())
		}
	}
	trained := slices.DeleteFunc(slices.Clone(pipeline.Precisions()), func(p pipeline.Precision) bool { return p.Deviation != nil })
	if table := pipeline.AgreementMarkdown(trained); len(trained) > 0 && !strings.Contains(string(doc), table) {
		t.Errorf("docs/performance.md lacks the table\n%s", table)
	}
	for missing := range want {
		t.Errorf("pipeline/precision.jsonl lacks %s: run make precision", missing)
	}
}

func TestDTypeChoosesWhatRuns(t *testing.T) {
	dir := referenceCase("perceiver", "image_fourier")
	var want []pipeline.Observation
	last := 0.0
	for _, dt := range []string{"f32", "", "bf16w", "bf16", "int8"} {
		info, got, err := pipeline.ObserveCase(t.Context(), dir, nil, pipeline.Options{DType: dt})
		if err != nil {
			t.Fatal(err)
		}
		if shown := info.DType; shown != dt && (dt != "" || shown != "f32") {
			t.Errorf("dtype %q is shown as %q", dt, shown)
		}
		if wrong := (dt == "bf16" || dt == "int8") != (info.Precision != ""); wrong {
			t.Errorf("dtype %q: precision %q", dt, info.Precision)
		}
		if want == nil {
			want = got
			continue
		}
		d, err := pipeline.Deviate(want, got)
		if err != nil {
			t.Fatal(err)
		}
		// Coarser arithmetics are further off, and none is far.
		if dt == "" && d.Latents.Max != 0 || dt != "" && d.Latents.Relative <= last || d.Latents.Relative > 0.1 {
			t.Errorf("dtype %q: %+v after %g", dt, d, last)
		}
		last = d.Latents.Relative
	}
	if _, _, err := pipeline.ObserveCase(t.Context(), dir, nil, pipeline.Options{DType: "fp8"}); err == nil || !strings.Contains(err.Error(), `"fp8"`) {
		t.Errorf("dtype fp8: %v", err)
	}
}

// model.json names an arithmetic; the options come before it.
func TestDTypeOfAComposition(t *testing.T) {
	for _, c := range []struct{ file, option, want string }{{"", "", "f32"}, {"bf16", "", "bf16"}, {"bf16", "f32", "f32"}, {"", "int8", "int8"}} {
		text := composition
		if c.file != "" {
			text = strings.Replace(text, "{", `{"dtype": "`+c.file+`",`, 1)
		}
		m, err := pipeline.OpenFS(t.Context(), fstest.MapFS{"model.json": {Data: []byte(text)}}, pipeline.Options{Random: true, DType: c.option})
		if err != nil {
			t.Fatal(err)
		}
		if got := m.Info().DType; got != c.want {
			t.Errorf("file %q, option %q: %q, want %q", c.file, c.option, got, c.want)
		}
	}
}

func TestDeviate(t *testing.T) {
	of := func(latent float32, logits ...float32) []pipeline.Observation {
		return []pipeline.Observation{{
			Latents: tensor.Of([]float32{latent, 3}, 1, 2),
			Logits:  []tensor.Tensor{tensor.Of(logits, 2, 3)}, Scores: []bool{true},
		}}
	}
	d, err := pipeline.Deviate(of(4, 1, 2, 3, 9, 0, 0), of(4.5, 3, 2.5, 2, 8, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	if d.Latents.Max != 0.5 || d.Latents.Relative != 0.1 || d.Choices != 2 || d.Agree != 1 || d.Rank != 3 || d.Logits.Max != 2 {
		t.Errorf("%+v", d)
	}
	if _, err := pipeline.Deviate(of(1, make([]float32, 6)...), nil); err == nil {
		t.Error("a missing observation is compared")
	}
}
