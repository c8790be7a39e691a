package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/pipeline"
	"github.com/mmserve/mmserve/tensor"
)

// oracle is a model whose answers are written in its inputs, so that every number of eval can
// be known: a file's or text's bytes are its class, "fail" is refused, and vectors names the
// embedding of bytes (of others: none).
type oracle struct {
	classes []string
	vectors map[string][]float32
	caption string
}

func (o oracle) Info() pipeline.Info {
	return pipeline.Info{Modalities: []string{"audio", "image", "pointcloud", "text"}, Outputs: []string{pipeline.OutputPooled}}
}

func (o oracle) Plan(context.Context, pipeline.Item) (pipeline.Plan, error) {
	return pipeline.Plan{}, nil
}

func (o oracle) read(it pipeline.Item) (string, error) {
	b, err := io.ReadAll(it.Parts[0].Input.Reader())
	if string(b) == "fail" {
		err = fmt.Errorf("it fails")
	}
	if strings.HasPrefix(string(b), "ply") {
		b = []byte("seat")
	}
	return string(b), err
}

func (o oracle) Encode(_ context.Context, it pipeline.Item, _ pipeline.EncodeOptions) (*pipeline.Encoding, error) {
	s, err := o.read(it)
	v, ok := o.vectors[s]
	if err == nil && !ok {
		err = fmt.Errorf("no vector of %q", s)
	}
	if err != nil {
		return nil, err
	}
	return &pipeline.Encoding{Pooled: tensor.Of(v, len(v))}, nil
}

func (o oracle) Predict(_ context.Context, it pipeline.Item, opt pipeline.PredictOptions) (*pipeline.Prediction, error) {
	s, err := o.read(it)
	if err != nil {
		return nil, err
	}
	classes := []pipeline.Class{{Label: s}}
	for _, c := range o.classes {
		classes = append(classes, pipeline.Class{Label: c})
	}
	p := &pipeline.Prediction{Caption: o.caption}
	for _, head := range []string{"cifar10", "digit", "esc10", "shape", "snips", "clinc150", "language"} {
		p.Heads = append(p.Heads, pipeline.Head{Task: head, Classes: classes[:min(max(opt.Top, 1), len(classes))]})
	}
	for range strings.Count(s, "[MASK]") { // each is surely an "a", by half
		p.Masks = append(p.Masks, pipeline.Masked{Candidates: []pipeline.Class{{Index: 'a' + modality.ByteOffset, Score: 0.5}}})
	}
	return p, nil
}

// file is a member of an archive.
type file struct{ name, data string }

func writeFile(t *testing.T, data []byte, parts ...string) {
	t.Helper()
	name := filepath.Join(parts...)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func zipped(t *testing.T, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, f := range files {
		w, err := z.Create(f.name)
		if err == nil {
			_, err = io.WriteString(w, f.data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	g := gzip.NewWriter(&b)
	if _, err := g.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func tarred(t *testing.T, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.data))}
		if strings.HasSuffix(f.name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return gzipped(t, b.Bytes())
}

// evaluate runs tasks with a model and returns the lines and what was said beside them.
func evaluate(t *testing.T, model pipeline.Model, dir, tasks string, set func(*evaluator)) (lines []evalLine, said string, err error) {
	t.Helper()
	var notes strings.Builder
	ev := &evaluator{ctx: t.Context(), model: model, dir: dir}
	ev.emit = func(l evalLine) error { lines = append(lines, l); return nil }
	ev.note = func(format string, args ...any) { fmt.Fprintf(&notes, format+"\n", args...) }
	if set != nil {
		set(ev)
	}
	chosen, err := chooseTasks(tasks)
	if err != nil {
		t.Fatal(err)
	}
	err = ev.run(chosen, tasks != "", &env{stdout: io.Discard, stderr: io.Discard})
	return lines, notes.String(), err
}

// The sets' layouts: which items count, for every split, and what share of them is right.
func TestEvalReadsTheLayouts(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, tarred(t, file{"test/", ""}, file{"test/dog/0002.jpg", "cat"}, file{"test/cat/0001.jpg", "cat"}, file{"test/cat/0003.jpg", "cat"}, file{"test/ship/0009.jpg", "fail"}), dir, "cifar10", "test.tar.gz")
	writeFile(t, tarred(t, file{"train/cat/0001.jpg", "cat"}), dir, "cifar10", "train.tar.gz")
	writeFile(t, zipped(t, file{"9_theo_13.wav", "9"}, file{"0_george_4.wav", "0"}, file{"0_a_b_0.wav", "1"}, file{"README.md", "words"}, file{"1_theo_5.wav", "0"}), dir, "fsdd", "recordings.zip")
	writeFile(t, zipped(t, file{"rain/5-1-A.mp3", "rain"}, file{"rain/4-1-A.mp3", "rooster"}, file{"rooster/1-1-A.mp3", "rooster"}), dir, "esc10", "clips.zip")
	tsv := "test\tPlay\tPlay\r\ntrain\tPlay\tStop\n\ntest\tStop\tPlay\n\tStop\tStop\nval\tPlay\tPlay\n"
	writeFile(t, []byte(tsv), dir, "text", "snips_intents.tsv")
	writeFile(t, []byte("split\tdomain\tintent\ttext\ntest\tx\toos\toos\ntest\tx\ta\ta\ntest\tx\ta\tb\tand a tab\n"), dir, "text", "clinc150_intents.tsv")
	writeFile(t, []byte("test\teng\teng\n"), dir, "text", "udhr_langid.tsv")
	zeros := make([]byte, 2*6*1024)
	writeFile(t, gzipped(t, zeros), dir, "shapes3d", "xyz.i16le.gz")
	writeFile(t, gzipped(t, zeros[:2*3*1024]), dir, "shapes3d", "normals.i8.gz")
	writeFile(t, gzipped(t, zeros[:2*3*1024]), dir, "shapes3d", "rgb.u8.gz")
	writeFile(t, []byte(`{"i":1,"cls":"seat","split":"test"}`+"\n"+`{"i":0,"cls":"other","split":"test"}`+"\n"+`{"i":0,"cls":"tree","split":"train"}`+"\n"), dir, "shapes3d", "index.jsonl")

	model := oracle{classes: []string{"cat", "dog", "ship", "0", "1", "9", "rain", "rooster", "Play", "Stop", "a", "b", "eng", "seat", "tree"}}
	for split, want := range map[string]map[string]struct {
		right, n int
	}{
		"":      {"cifar10": {2, 4}, "digits": {1, 2}, "esc10": {1, 1}, "snips": {2, 3}, "clinc150": {1, 2}, "language": {1, 1}, "shapes": {1, 1}},
		"test":  {"cifar10": {2, 4}, "digits": {1, 2}, "esc10": {1, 1}, "snips": {1, 2}, "clinc150": {1, 2}, "language": {1, 1}, "shapes": {1, 1}},
		"train": {"cifar10": {1, 1}, "digits": {1, 2}, "esc10": {1, 2}, "snips": {0, 1}, "shapes": {0, 1}},
		"val":   {"snips": {1, 1}},
		"fold4": {"esc10": {0, 1}},
	} {
		t.Run("split "+split, func(t *testing.T) {
			lines, said, err := evaluate(t, model, dir, "", func(ev *evaluator) { ev.split = split })
			if err != nil {
				t.Fatal(err)
			}
			if len(lines) != len(want) {
				t.Errorf("%d lines, want %d; said %s", len(lines), len(want), said)
			}
			for _, l := range lines {
				w, ok := want[l.Task]
				if !ok || l.Metric != "accuracy" || l.N != w.n || l.Value != float64(w.right)/float64(w.n) {
					t.Errorf("%+v, want %v", l, w)
				}
				if (l.Task == "cifar10" && split != "train") != (l.Failed == 1) {
					t.Errorf("%s: %d failed", l.Task, l.Failed)
				}
			}
		})
	}
	lines, _, err := evaluate(t, model, dir, "cifar10,digits", func(ev *evaluator) { ev.limit = 1 })
	if err != nil || len(lines) != 2 || lines[0].N != 1 || lines[1].N != 1 {
		t.Errorf("limited: %v, %v", lines, err)
	}
	// A class that the model does not have is said, and counts as wrong.
	model.classes = model.classes[:1]
	lines, said, err := evaluate(t, model, dir, "cifar10", nil)
	if err != nil || len(lines) != 1 || lines[0].Value != 0.5 || lines[0].Unknown != 2 || !strings.Contains(said, `"dog"`) || !strings.Contains(said, "test/ship/0009.jpg: it fails") {
		t.Errorf("%v, %v: %s", lines, err, said)
	}
}

// Faulty files are named, with the line, and do not keep other sets from being measured.
func TestEvalNamesFaults(t *testing.T) {
	good := func(dir string) { writeFile(t, []byte("test\teng\teng\n"), dir, "text", "udhr_langid.tsv") }
	for name, c := range map[string]struct {
		make func(dir string)
		says []string
	}{
		"TSV columns":    {func(d string) { writeFile(t, []byte("test\ta\tb\nline\n"), d, "text", "snips_intents.tsv") }, []string{"snips_intents.tsv:2: 1 columns, want 3"}},
		"not gzip":       {func(d string) { writeFile(t, []byte("no"), d, "cifar10", "test.tar.gz") }, []string{"cifar10: ", "test.tar.gz: "}},
		"flat tar":       {func(d string) { writeFile(t, tarred(t, file{"1.jpg", "x"}), d, "cifar10", "test.tar.gz") }, []string{"1.jpg: want <split>/<class>/<name>"}},
		"cut zip":        {func(d string) { writeFile(t, []byte("PK"), d, "fsdd", "recordings.zip") }, []string{"digits: ", "recordings.zip: "}},
		"digit's name":   {func(d string) { writeFile(t, zipped(t, file{"seven.wav", "x"}), d, "fsdd", "recordings.zip") }, []string{"seven.wav: want <digit>_<speaker>_<index>.wav"}},
		"clip's name":    {func(d string) { writeFile(t, zipped(t, file{"rain.mp3", "x"}), d, "esc10", "clips.zip") }, []string{"rain.mp3: want <class>/<fold>-<name>.mp3"}},
		"captions":       {func(d string) { writeFile(t, []byte("{}\n"), d, "emoji", "captions.jsonl") }, []string{`captions.jsonl:1: no "hex"`}},
		"captions' JSON": {func(d string) { writeFile(t, []byte("\n{\n"), d, "emoji", "captions.jsonl") }, []string{"captions.jsonl:2: "}},
		"ragged clouds":  {func(d string) { writeFile(t, gzipped(t, []byte("12345")), d, "shapes3d", "xyz.i16le.gz") }, []string{"xyz.i16le.gz: 5 bytes, no whole number of clouds of 6144"}},
		"cloud's number": {func(d string) {
			writeFile(t, gzipped(t, make([]byte, 6144)), d, "shapes3d", "xyz.i16le.gz")
			writeFile(t, []byte(`{"i":0,"cls":"seat"}`+"\n"+`{"i":1,"cls":"seat"}`), d, "shapes3d", "index.jsonl")
		}, []string{"index.jsonl:2: cloud 1, and the arrays hold 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			good(dir)
			c.make(dir)
			lines, _, err := evaluate(t, oracle{classes: []string{"eng"}}, dir, "", nil)
			if err == nil {
				t.Fatal("no error")
			}
			for _, s := range c.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("error %q, want %q in it", err, s)
				}
			}
			if len(lines) != 1 || lines[0].Task != "language" {
				t.Errorf("the good set gave %v", lines)
			}
		})
	}
}

// emojiSet writes an emoji/ with the given captions and pictures.
func emojiSet(t *testing.T, dir string, rows []string, pictures ...file) {
	t.Helper()
	writeFile(t, []byte(strings.Join(rows, "\n")), dir, "emoji", "captions.jsonl")
	writeFile(t, zipped(t, pictures...), dir, "emoji", "images.zip")
}

func emojiLine(hex, label, split string, styles ...string) string {
	images := map[string]map[string]string{}
	for _, s := range styles {
		images[s] = map[string]string{"file": s + "/" + hex + ".png", "split": split}
	}
	b, _ := json.Marshal(map[string]any{"hex": hex, "label": label, "images": images})
	return string(b)
}

// Retrieval by name: right pictures, equal scores, failures, names that are missing, captions.
func TestEvalSearchesByName(t *testing.T) {
	dir := t.TempDir()
	emojiSet(t, dir, []string{
		emojiLine("1", "dog", "test_style", "a"), emojiLine("2", "cat", "test_style", "a"),
		emojiLine("3", "fox", "test_style", "a"), emojiLine("4", "", "test_style", "a"), emojiLine("5", "owl", "train", "a"),
		emojiLine("6", "rat", "test_concept", "a", "b"),
	}, file{"a/3.png", "p3"}, file{"a/6.png", "p6"}, file{"a/1.png", "p1"}, file{"a/2.png", "p2"}, file{"a/5.png", "p5"}, file{"a/4.png", "p4"}, file{"b/6.png", "fail"})
	model := oracle{caption: " dog", vectors: map[string][]float32{
		"dog": {1, 0}, "cat": {0, 1}, "fox": {1, 1}, "rat": {3, 4}, "owl": {1, 0},
		"p1": {2, 0}, "p2": {-1, 1}, "p3": {-2, 2}, "p5": {1, 0}, "p6": {0, 1},
	}}
	// dog: p1 alone is nearest. cat: p2 and p3 are equally near, so p2 is second. fox: p1 before p3.
	want := []evalLine{
		{Task: "emoji_style", Metric: "name_to_picture_top1", Value: 1. / 3, N: 3, Among: 3, Chance: 1. / 3},
		{Task: "emoji_concept", Metric: "name_to_picture_top5", Value: 1, N: 1, Among: 2, Chance: 1, Failed: 1},
		{Task: "emoji_caption", Metric: "exact_match", Value: 1. / 3, N: 3},
	}
	lines, said, err := evaluate(t, model, dir, "", nil)
	if err != nil || len(lines) != len(want) {
		t.Fatalf("%v, %v: %s", lines, err, said)
	}
	for i, w := range want {
		got := lines[i]
		if math.Abs(got.Value-w.Value) > 1e-12 || math.Abs(got.Chance-w.Chance) > 1e-12 {
			t.Errorf("%+v, want %+v", got, w)
		}
		got.Value, got.Chance, w.Value, w.Chance = 0, 0, 0, 0
		if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", w) {
			t.Errorf("%+v, want %+v", got, w)
		}
	}
	lines, _, err = evaluate(t, model, dir, "", func(ev *evaluator) { ev.split = "test_concept" })
	if err != nil || len(lines) != 1 || lines[0].Task != "emoji_concept" {
		t.Errorf("split test_concept: %v, %v", lines, err)
	}
	lines, _, err = evaluate(t, model, dir, "emoji_style", func(ev *evaluator) { ev.split = "train" })
	if err != nil || len(lines) != 1 || lines[0].Value != 1 || lines[0].N != 1 {
		t.Errorf("split train: %v, %v", lines, err)
	}
}

// A sound finds the picture of its thing among all pictures; examples are shown when asked for.
func TestEvalSearchesAcrossMedia(t *testing.T) {
	dir := t.TempDir()
	rows := []string{emojiLine("1", "dog face", "train", "a"), emojiLine("2", "rooster", "test_style", "a")}
	pictures := []file{{"a/1.png", "p1"}, {"a/2.png", "p2"}}
	model := oracle{vectors: map[string][]float32{"p1": {1, 0}, "p2": {0, 1}, "bark": {1, 0.5}, "crow": {1, 0}, "x": {0, -1}}}
	for i := range 5 { // nearer to a rooster's crow than the rooster is
		name := fmt.Sprintf("m%d", i)
		rows = append(rows, emojiLine(name, "moon", "train", "a"))
		pictures = append(pictures, file{"a/" + name + ".png", name})
		model.vectors[name] = []float32{1, 0.1}
	}
	emojiSet(t, dir, rows, pictures...)
	writeFile(t, zipped(t, file{"dog_bark/5-1-A.mp3", "bark"}, file{"rooster/5-1-A.mp3", "crow"}, file{"chainsaw/5-1-A.mp3", "x"}), dir, "esc10", "clips.zip")
	lines, said, err := evaluate(t, model, dir, "sound_to_picture", func(ev *evaluator) { ev.examples = 5 })
	if err != nil || len(lines) != 1 {
		t.Fatalf("%v, %v: %s", lines, err, said)
	}
	l := lines[0]
	if l.Value != 0 || l.N != 2 || l.Among != 7 || math.Abs(l.Chance-5./7) > 1e-12 {
		t.Errorf("%+v", l)
	}
	model.vectors["p1"] = []float32{1, 0.5}
	lines, _, err = evaluate(t, model, dir, "sound_to_picture", func(ev *evaluator) { ev.examples = 1 })
	if err != nil || lines[0].Value != 0.5 || !slices.Equal(lines[0].Examples, []string{"dog (1 of 1) → dog face, moon, moon, moon, moon"}) {
		t.Errorf("%+v, %v", lines, err)
	}
}

func TestRankAndChance(t *testing.T) {
	only := func(k int) func(int) bool { return func(i int) bool { return i == k } }
	inf := math.Inf(-1)
	for _, c := range []struct {
		scores []float64
		right  int
		want   int
	}{
		{[]float64{3, 2, 1}, 0, 1}, {[]float64{3, 2, 1}, 2, 3}, {[]float64{1, 1, 1}, 0, 3}, {[]float64{2, 2, 1}, 1, 2},
		{[]float64{inf, 1}, 0, 3}, {[]float64{inf, 1}, 1, 1}, {nil, 0, 1},
	} {
		if got := rank(c.scores, only(c.right)); got != c.want {
			t.Errorf("rank of %d in %v is %d, want %d", c.right, c.scores, got, c.want)
		}
	}
	for _, c := range []struct {
		right, n, k int
		want        float64
	}{
		{1, 10, 1, 0.1}, {1, 10, 5, 0.5}, {2, 4, 2, 5. / 6}, {3, 4, 2, 1}, {1, 3, 5, 1}, {0, 9, 5, 0},
	} {
		if got := guessed(c.right, c.n, c.k); math.Abs(got-c.want) > 1e-12 {
			t.Errorf("%d draws find one of %d right ones of %d by chance with %v, want %v", c.k, c.right, c.n, got, c.want)
		}
	}
}

// 1,260 bytes are ten windows' worth: the last tenth is held out, one window with 18 masks.
func TestEvalMaskedBytes(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, bytes.Repeat([]byte("a"), 1260), dir, "text", "tinyshakespeare.txt")
	p := 1. / 256 // Witten-Bell, a single kind of byte: p' = (count + p) / (count + 1)
	for k := range 5 {
		p = (float64(1134-k) + p) / (float64(1134-k) + 1)
	}
	for split, n := range map[string]int{"": 18, "test": 18, "train": 9 * 18, "val": 0} {
		lines, _, err := evaluate(t, oracle{}, dir, "masked_bytes", func(ev *evaluator) { ev.split = split })
		if err != nil || (n == 0) != (len(lines) == 0) {
			t.Fatalf("%q: %v, %v", split, lines, err)
		}
		if n == 0 {
			continue
		}
		beside := fmt.Sprintf("byte 5-gram %.4f", -math.Log2(p))
		if split == "train" {
			beside = ""
		}
		if l := lines[0]; l.Value != 1 || l.N != n || l.Beside != beside {
			t.Errorf("%q: %+v, want 1 bit, n %d, %s", split, l, n, beside)
		}
	}
}

// The conditions of --robustness do what their names say, and the same every time.
func TestConditions(t *testing.T) {
	img := image.NewNRGBA(image.Rect(0, 0, 5, 4))
	for i := range 20 {
		img.SetNRGBA(i%5, i/5, color.NRGBA{uint8(10 * i), 200, uint8(255 - i), uint8(255 * (i % 2))})
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	altered := func(t *testing.T, medium, name string, s sample) sample {
		t.Helper()
		i := slices.IndexFunc(conditions[medium], func(a alteration) bool { return a.name == name })
		out, err := conditions[medium][i].of(s)
		if err != nil {
			t.Fatal(err)
		}
		again, err := conditions[medium][i].of(s)
		if err != nil || !bytes.Equal(out.data, again.data) || out.cloud != nil && !bytes.Equal(out.cloud.ply(), again.cloud.ply()) {
			t.Errorf("%s is another thing the second time, %v", name, err)
		}
		return out
	}
	decoded := func(t *testing.T, s sample) image.Image {
		t.Helper()
		p, _, err := image.Decode(bytes.NewReader(s.data))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	s := sample{name: "a.png", data: b.Bytes()}
	if p := decoded(t, altered(t, "image", "half_size", s)); p.Bounds().Dx() != 2 || p.Bounds().Dy() != 2 {
		t.Errorf("half of 5×4 is %v", p.Bounds())
	} else if c := color.NRGBAModel.Convert(p.At(0, 0)).(color.NRGBA); c != (color.NRGBA{30, 200, 252, 128}) {
		// pixels 0, 1, 5, 6; opaque are 1 and 5, of red 10 and 50, blue 254 and 250
		t.Errorf("half size: %v", c)
	}
	if p := decoded(t, altered(t, "image", "grey", s)); p.Bounds() != img.Rect {
		t.Errorf("grey is %v", p.Bounds())
	} else if c := color.NRGBAModel.Convert(p.At(1, 0)).(color.NRGBA); c != (color.NRGBA{149, 149, 149, 255}) {
		t.Errorf("grey: %v", c) // 0.299·10 + 0.587·200 + 0.114·254
	}
	if p := decoded(t, altered(t, "image", "jpeg_q30", s)); p.Bounds() != img.Rect {
		t.Errorf("JPEG is %v", p.Bounds())
	}

	x := make([]float32, 1<<14)
	for i := range x {
		x[i] = 0.3 * float32(math.Sin(float64(i)/7))
	}
	var wav bytes.Buffer
	if err := pipeline.WriteWAV(&wav, x, 8000); err != nil {
		t.Fatal(err)
	}
	loud := altered(t, "audio", "noise_10db", sample{name: "a.wav", data: wav.Bytes()})
	var signal, noise float64
	for i := range x {
		d := float64(int16(binary.LittleEndian.Uint16(loud.data[44+2*i:])))/32767 - float64(x[i])
		signal, noise = signal+float64(x[i])*float64(x[i]), noise+d*d
	}
	if ratio := 10 * math.Log10(signal/noise); math.Abs(ratio-10) > 0.2 {
		t.Errorf("the signal is %.2f dB above the noise, want 10", ratio)
	}
	y := []float32{1, -1}
	addNoise(y, 0, rand.New(rand.NewPCG(1, 0)))
	if max(y[0], y[1], -y[0], -y[1]) > 1 {
		t.Errorf("%v is beyond −1..1", y)
	}

	c := &cloud{xyz: make([]byte, 6*1000), normals: make([]byte, 3*1000), rgb: make([]byte, 3*1000)}
	for i := range 1000 {
		binary.LittleEndian.PutUint16(c.xyz[6*i:], uint16(i))
		c.rgb[3*i] = uint8(i)
	}
	few := altered(t, "pointcloud", "points_256", sample{name: "1", cloud: c}).cloud
	seen := map[uint16]bool{}
	for i := range few.points() {
		x := binary.LittleEndian.Uint16(few.xyz[6*i:])
		if few.rgb[3*i] != uint8(x) {
			t.Fatalf("point %d lost its colour", x)
		}
		seen[x] = true
	}
	if len(seen) != 256 {
		t.Errorf("%d points, want 256", len(seen))
	}
	if bare := altered(t, "pointcloud", "no_colours", sample{cloud: c}).cloud; bare.rgb != nil || bare.normals == nil {
		t.Error("no_colours takes or leaves the wrong thing")
	}
	if bare := altered(t, "pointcloud", "no_normals", sample{cloud: c}).cloud; bare.rgb == nil || bare.normals != nil {
		t.Error("no_normals takes or leaves the wrong thing")
	}
}

// The command line from end to end, with the built-in model and every set: real files where
// there are some, in the sets' layouts.
func TestEvalCommand(t *testing.T) {
	dir := t.TempDir()
	read := func(name string) string {
		b, err := os.ReadFile(data("samples", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	face, tongue := read("emoji-1f622.png"), read("emoji-1f445.png")
	writeFile(t, tarred(t, file{"test/cat/1.jpg", face}, file{"test/zebra/1.jpg", tongue}), dir, "cifar10", "test.tar.gz")
	writeFile(t, zipped(t, file{"rooster/5-1-A.mp3", read("esc10-rooster.mp3")}, file{"rain/5-1-A.mp3", "broken"}), dir, "esc10", "clips.zip")
	emojiSet(t, dir, []string{emojiLine("1F622", "crying face", "test_style", "noto"), emojiLine("1F445", "tongue", "test_concept", "noto"), emojiLine("1F413", "rooster", "train", "noto")},
		file{"noto/1F622.png", face}, file{"noto/1F445.png", tongue})
	writeFile(t, []byte("test\tPlayMusic\tplay some music\n"), dir, "text", "snips_intents.tsv")
	writeFile(t, bytes.Repeat([]byte("To be, or not. "), 100), dir, "text", "tinyshakespeare.txt")

	code, out, errs := mmserve(t, "eval", "--json", "--robustness", dir)
	if code != 0 {
		t.Fatalf("status %d: %s", code, errs)
	}
	type key struct{ task, condition string }
	n := map[key]int{}
	for line := range strings.Lines(out) {
		var l struct {
			Task, Condition, Metric string
			Value                   *float64
			N                       int
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil || l.Value == nil || l.Metric == "" {
			t.Fatalf("%v: %s", err, line)
		}
		if math.IsNaN(*l.Value) || *l.Value < 0 || *l.Value > 1 && l.Task != "masked_bytes" {
			t.Errorf("%s", line)
		}
		n[key{l.Task, l.Condition}] = l.N
	}
	for k, want := range map[key]int{
		{"cifar10", ""}: 2, {"cifar10", "jpeg_q30"}: 2, {"cifar10", "half_size"}: 2, {"cifar10", "grey"}: 2, {"esc10", ""}: 2, {"esc10", "noise_10db"}: 2,
		{"snips", ""}: 1, {"masked_bytes", ""}: 18, {"emoji_style", ""}: 1, {"emoji_style", "grey"}: 1, {"emoji_concept", "half_size"}: 1, {"emoji_caption", ""}: 1,
	} {
		if n[k] != want {
			t.Errorf("%v: n is %d, want %d", k, n[k], want)
		}
	}
	for _, want := range []string{`no class ["zebra"]`, "esc10: 1 of 2 items failed", "images.zip lacks 1 of"} {
		if !strings.Contains(errs, want) {
			t.Errorf("%q is not said:\n%s", want, errs)
		}
	}

	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"unknown task":   {[]string{"eval", "--tasks", "zebra", dir}, 2, "there are cifar10, digits"},
		"no data for it": {[]string{"eval", "--tasks", "digits", dir}, 1, "recordings.zip"},
		"nothing left":   {[]string{"eval", "--split", "nosuch", dir}, 1, "nothing there that this model can be measured on"},
		"no directory":   {[]string{"eval", "nowhere"}, 1, "nowhere"},
		"other model":    {[]string{"eval", "--model", data("reference", "perceiver", "mlm_language"), "--tasks", "cifar10", dir}, 1, "does not take image"},
	} {
		t.Run(name, func(t *testing.T) {
			code, _, errs := mmserve(t, c.args...)
			if code != c.code || !strings.Contains(errs, c.says) {
				t.Errorf("status %d, want %d; says %q, want %q in it", code, c.code, errs, c.says)
			}
		})
	}
}
