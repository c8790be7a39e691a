package pipeline_test

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/models"
	"github.com/mmserve/mmserve/pipeline"
)

// defaultSample is a line of testdata/samples/manifest.json.
type defaultSample struct {
	File     string `json:"file"`
	Modality string `json:"modality"`
	Label    string `json:"label"`
	Caption  string `json:"caption"`
	Category string `json:"category"`
}

// defaultSamples lists the shipped sample files.
func defaultSamples(t *testing.T) []defaultSample {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "testdata", "samples", "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	var samples []defaultSample
	if err := json.Unmarshal(text, &samples); err != nil {
		t.Fatal(err)
	}
	return samples
}

func (s defaultSample) read(t *testing.T) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "testdata", "samples", s.File))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func openDefault(t *testing.T) pipeline.Model {
	t.Helper()
	m, err := pipeline.OpenFS(t.Context(), models.Default(), pipeline.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// best is the likeliest class of a head for one part.
func best(t *testing.T, m pipeline.Model, part pipeline.Part, head string) string {
	t.Helper()
	p, err := m.Predict(t.Context(), pipeline.Item{Parts: []pipeline.Part{part}}, pipeline.PredictOptions{Top: 1})
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range p.Heads {
		if h.Task == head {
			return h.Classes[0].Label
		}
	}
	t.Fatalf("no head %q among %v", head, p.Heads)
	return ""
}

// The default model is right about enough of a few files of each medium that a fault in
// decoding, preprocessing or the network would show. None of them was trained on.
func TestDefaultModelOnRealFiles(t *testing.T) {
	m := openDefault(t)
	type score struct{ right, n int }
	scores := map[string]*score{"image": {}, "audio": {}, "pointcloud": {}, "text": {}}
	note := func(medium string, ok bool) {
		scores[medium].n++
		if ok {
			scores[medium].right++
		}
	}
	for _, s := range defaultSamples(t) {
		b := s.read(t)
		part := pipeline.Part{Input: media.Bytes(s.File, b)}
		switch s.Modality {
		case "image":
			note("image", best(t, m, part, "emoji_category") == s.Category)
		case "audio":
			note("audio", best(t, m, part, "esc10") == s.Label)
		case "pointcloud":
			note("pointcloud", best(t, m, part, "shape") == s.Label)
		case "text":
			for line := range strings.Lines(string(b)) {
				intent, words, _ := strings.Cut(strings.TrimSpace(line), "\t")
				note("text", best(t, m, pipeline.TextPart(words), "snips") == intent)
			}
		}
	}
	for medium, least := range defaultLeast {
		s := scores[medium]
		t.Logf("%s: %d of %d", medium, s.right, s.n)
		if s.right < least {
			t.Errorf("%s: %d of %d right, want at least %d", medium, s.right, s.n, least)
		}
	}
}

// Pictures in a style that training did not show for them lie next to their names, and are
// called by them.
func TestDefaultModelNamesPictures(t *testing.T) {
	m := openDefault(t)
	var names []string
	var pictures, words [][]float32
	called := 0
	vector := func(p pipeline.Part) []float32 {
		enc, err := m.Encode(t.Context(), pipeline.Item{Parts: []pipeline.Part{p}}, pipeline.EncodeOptions{Outputs: []string{pipeline.OutputPooled}})
		if err != nil {
			t.Fatal(err)
		}
		return enc.Pooled.Data
	}
	for _, s := range defaultSamples(t) {
		if s.Modality != "image" {
			continue
		}
		picture := pipeline.Part{Input: media.Bytes(s.File, s.read(t))}
		names = append(names, s.Caption)
		pictures = append(pictures, vector(picture))
		words = append(words, vector(pipeline.TextPart(s.Caption)))
		p, err := m.Predict(t.Context(), pipeline.Item{Parts: []pipeline.Part{picture}}, pipeline.PredictOptions{Top: 1, Caption: true})
		if err != nil {
			t.Fatal(err)
		}
		if p.Caption == s.Caption {
			called++
		} else {
			t.Logf("%s is called %q", s.Caption, p.Caption)
		}
	}
	found := 0
	for i, w := range words {
		at, most := -1, float32(math.Inf(-1))
		for k, p := range pictures {
			dot := float32(0)
			for c := range p {
				dot += p[c] * w[c]
			}
			if dot > most {
				at, most = k, dot
			}
		}
		if at == i {
			found++
		} else {
			t.Logf("%s finds %s", names[i], names[at])
		}
	}
	t.Logf("of %d: %d found by name, %d called by name", len(names), found, called)
	if found < leastFound || called < leastCalled {
		t.Errorf("of %d: %d found by name (want %d), %d called by name (want %d)", len(names), found, leastFound, called, leastCalled)
	}
}

// How many of the sample pictures their names must find, and how many captions must be the name.
const leastFound, leastCalled = 8, 3

// defaultLeast is how many of the samples of a medium must be right.
var defaultLeast = map[string]int{"image": 7, "audio": 6, "pointcloud": 6, "text": 22}

// The embedded weights load quickly: newcomers meet this first. The bound is far above what
// it takes, so that only a change of kind passes it.
func TestDefaultModelLoads(t *testing.T) {
	begin := time.Now()
	info := openDefault(t).Info()
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("loading took %s", took)
	}
	if len(info.Modalities) != 4 || info.SoftTokens == 0 || !strings.HasPrefix(info.Digest, "sha256:") {
		t.Errorf("%+v", info)
	}
}

// A part's own options take the place of the composition's, one by one; what no adapter has, or what
// does not fit the composition, is refused.
func TestDefaultModelTakesOptions(t *testing.T) {
	m := openDefault(t)
	rows := func(options string) (int, error) {
		part := pipeline.TextPart("what is the weather like in Lisbon")
		part.Options = json.RawMessage(options)
		enc, err := m.Encode(t.Context(), pipeline.Item{Parts: []pipeline.Part{part}}, pipeline.EncodeOptions{Outputs: []string{pipeline.OutputByteArray}})
		if err != nil {
			return 0, err
		}
		if enc.ByteArray.Dim(0) != enc.Plan.Rows {
			t.Errorf("%s: %d rows, planned %d", options, enc.ByteArray.Dim(0), enc.Plan.Rows)
		}
		return enc.Plan.Rows, nil
	}
	whole, err := rows("null")
	if err != nil {
		t.Fatal(err)
	}
	if short, err := rows(`{"max_length": 12}`); err != nil || short >= whole {
		t.Errorf("%d rows with a shorter limit, %d without: %v", short, whole, err)
	}
	for _, bad := range []string{`{"bogus": 1}`, `[1]`, `{"max_length": "x"}`} {
		var e *media.Error
		if _, err := rows(bad); !errors.As(err, &e) || e.Code != media.BadOptions {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if _, err := rows(`{"position": "fourier"}`); !errors.Is(err, pipeline.ErrInput) {
		t.Errorf("rows of other channels: %v", err)
	}
}

// A published model prepares its media in one way; options that would be left unread are refused.
func TestPublishedModelsTakeNoOptions(t *testing.T) {
	m, err := pipeline.Open(t.Context(), filepath.Join("..", "testdata", "reference", "perceiver", "mlm_language"), pipeline.Options{})
	if err != nil {
		t.Fatal(err)
	}
	part := pipeline.TextPart("hello [MASK]")
	for options, ok := range map[string]bool{"": true, "null": true, "{}": true, `{"max_length": 8}`: false, `[]`: false} {
		part.Options = json.RawMessage(options)
		_, err := m.Predict(t.Context(), pipeline.Item{Parts: []pipeline.Part{part}}, pipeline.PredictOptions{})
		var e *media.Error
		if ok && err != nil || !ok && (!errors.As(err, &e) || e.Code != media.BadOptions) {
			t.Errorf("options %q: %v", options, err)
		}
	}
}
