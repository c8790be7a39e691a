package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// answered is what scripts read from predict --json and caption --json.
type answered struct {
	File, Task, Caption string
	Heads               []struct {
		Task    string
		Classes []struct {
			Index int
			Label string
			Score float64
		}
	}
	Plan struct{ Modality string }
}

func answers(t *testing.T, text string) (out []answered) {
	t.Helper()
	for line := range strings.Lines(text) {
		var a answered
		if err := json.Unmarshal([]byte(line), &a); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		out = append(out, a)
	}
	return out
}

// Each of several inputs is answered by itself; one that fails is said and the rest answered.
func TestPredictSeveral(t *testing.T) {
	png, mp3, ply := data("samples", "emoji-1f622.png"), data("samples", "esc10-rain.mp3"), data("samples", "shape-seat.ply")
	code, out, errs := mmserve(t, "predict", "--json", "--top", "2", png, "nowhere.wav", mp3, ply, "--text", "hello")
	if code != 1 || !strings.Contains(errs, "nowhere.wav") {
		t.Errorf("status %d: %s", code, errs)
	}
	got := answers(t, out)
	want := []struct {
		file, modality string
		heads          []string
	}{
		{png, "image", []string{"cifar10", "emoji_category"}}, {mp3, "audio", []string{"audio_kind", "digit", "esc10"}},
		{ply, "pointcloud", []string{"shape"}}, {`"hello"`, "text", []string{"clinc150", "language", "snips"}},
	}
	if len(got) != len(want) {
		t.Fatalf("%d answers, want %d: %s", len(got), len(want), out)
	}
	for i, w := range want {
		a := got[i]
		if a.File != w.file || a.Plan.Modality != w.modality || a.Caption != "" && w.modality == "text" {
			t.Errorf("%+v, want %+v", a, w)
		}
		heads := map[string]bool{}
		for _, h := range a.Heads {
			heads[h.Task] = true
			if len(h.Classes) != 2 || h.Classes[0].Score < h.Classes[1].Score {
				t.Errorf("%s: %+v", a.File, h)
			}
		}
		for _, h := range w.heads {
			if !heads[h] {
				t.Errorf("%s lacks %s", a.File, h)
			}
		}
	}

	code, out, errs = mmserve(t, "predict", "--json", "--together", png, mp3)
	if a := answers(t, out); code != 0 || len(a) != 1 || a[0].File != "" || a[0].Plan.Modality != "fuse" || len(a[0].Heads) < 5 {
		t.Errorf("together: status %d, %s%s", code, out, errs)
	}
	if code, _, errs := mmserve(t, "predict", data("samples")); code != 1 || !strings.Contains(errs, "name its files") {
		t.Errorf("a folder: status %d, %s", code, errs)
	}
}

// For people: a line a head, best first.
func TestPredictPrints(t *testing.T) {
	code, out, errs := mmserve(t, "predict", "--top", "2", data("samples", "esc10-rain.mp3"))
	if code != 0 {
		t.Fatal(errs)
	}
	lines := map[string]string{}
	for line := range strings.Lines(out) {
		head, rest, _ := strings.Cut(line, " ")
		lines[head] = rest
	}
	if strings.Count(lines["esc10"], "%") != 2 || !strings.Contains(lines["audio_kind"], "environmental sound") {
		t.Errorf("%s", out)
	}
}

func TestStandardInput(t *testing.T) {
	b, err := os.ReadFile(data("samples", "emoji-1f622.png"))
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"predict", "caption", "encode"} {
		var out, errs, file bytes.Buffer
		if code := run(t.Context(), []string{command, "-"}, &env{stdin: bytes.NewReader(b), stdout: &out, stderr: &errs}); code != 0 {
			t.Errorf("%s -: status %d: %s", command, code, errs.String())
		}
		if code := run(t.Context(), []string{command, data("samples", "emoji-1f622.png")}, &env{stdout: &file, stderr: &errs}); code != 0 || out.String() != file.String() {
			t.Errorf("%s: standard input gives %q, the file %q", command, out.String(), file.String())
		}
		if code := run(t.Context(), []string{command, "-"}, &env{stdin: strings.NewReader(""), stdout: &out, stderr: &errs}); code != 1 || !strings.Contains(errs.String(), "no bytes") {
			t.Errorf("%s of nothing: status %d: %s", command, code, errs.String())
		}
	}
}

func TestCaptionSeveral(t *testing.T) {
	a, b := data("samples", "emoji-1f622.png"), data("samples", "shape-seat.ply")
	code, out, errs := mmserve(t, "caption", "--json", a, "nowhere.png", b)
	got := answers(t, out)
	if code != 1 || len(got) != 2 || got[0].File != a || got[1].File != b || !strings.Contains(errs, "nowhere.png") {
		t.Errorf("status %d: %s%s", code, out, errs)
	}
	code, out, _ = mmserve(t, "caption", a, b)
	if code != 0 || !strings.HasPrefix(out, a+": ") || strings.Count(out, "\n") != 2 {
		t.Errorf("status %d: %s", code, out)
	}
	if code, _, errs := mmserve(t, "caption", "--model", data("reference", "perceiver", "mlm_language"), a); code != 1 || !strings.Contains(errs, "caption language model") {
		t.Errorf("status %d: %s", code, errs)
	}
}

// Latents that encode wrote are answered as their input is, with the input where it is asked for.
func TestPredictLatents(t *testing.T) {
	dir := t.TempDir()
	run := func(args ...string) string {
		t.Helper()
		code, out, errs := mmserve(t, args...)
		if code != 0 {
			t.Fatalf("%v: status %d: %s", args, code, errs)
		}
		return out
	}
	classifier := []string{"--model", data("reference", "perceiver", "seqcls_blocks3_q")}
	mlm := []string{"--model", data("reference", "perceiver", "mlm_language")}
	for _, c := range []struct {
		name, file string
		model      []string
		input, too []string
	}{
		{"classes npy", "a.npy", classifier, []string{"--text", "abc"}, nil},
		{"classes safetensors", "a.safetensors", classifier, []string{"--text", "abc"}, nil},
		{"masks", "m.npy", mlm, []string{"--text", "ab[MASK]"}, []string{"--text", "ab[MASK]"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			kept := filepath.Join(dir, c.file)
			run(slices.Concat([]string{"encode", "--format", strings.TrimPrefix(filepath.Ext(kept), "."), "-o", kept}, c.model, c.input)...)
			want := run(slices.Concat([]string{"predict", "--top", "2"}, c.model, c.input)...)
			if got := run(slices.Concat([]string{"predict", "--top", "2", "--latents", kept}, c.model, c.too)...); got != want || want == "" {
				t.Errorf("%q, the input gives %q", got, want)
			}
		})
	}
	code, _, errs := mmserve(t, append([]string{"predict", "--latents", data("media", "text", "udhr_eng.txt")}, mlm...)...)
	if code == 0 || !strings.Contains(errs, "neither") {
		t.Errorf("status %d: %s", code, errs)
	}
}
