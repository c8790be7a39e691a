package pipeline_test

import (
	"encoding/json"
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
	Category string `json:"category"`
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
	dir := filepath.Join("..", "testdata", "samples")
	text, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	var samples []defaultSample
	if err := json.Unmarshal(text, &samples); err != nil {
		t.Fatal(err)
	}
	type score struct{ right, n int }
	scores := map[string]*score{"image": {}, "audio": {}, "pointcloud": {}, "text": {}}
	note := func(medium string, ok bool) {
		scores[medium].n++
		if ok {
			scores[medium].right++
		}
	}
	for _, s := range samples {
		b, err := os.ReadFile(filepath.Join(dir, s.File))
		if err != nil {
			t.Fatal(err)
		}
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

// defaultLeast is how many of the samples of a medium must be right.
var defaultLeast = map[string]int{"image": 5, "audio": 5, "pointcloud": 3, "text": 20}

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
