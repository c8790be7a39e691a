package modality_test

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/modality/media"
)

// mediaDir is the folder of test media: the whole set when MMSERVE_MEDIA names it.
func mediaDir() string {
	if d := os.Getenv("MMSERVE_MEDIA"); d != "" {
		return d
	}
	return filepath.Join("..", "testdata", "media")
}

// mediaEntry is a file of the manifest with what a decode must find.
type mediaEntry struct {
	File, Kind, Validity string
	Bytes                int64
	Expect               struct {
		Result                string
		Width, Height, Frames int
		Mean                  []float64   `json:"mean_rgb"`
		Quadrants             [][]float64 `json:"quadrant_mean_rgb"`
		SampleRate            int         `json:"sample_rate"`
		Channels              int
		Seconds               float64  `json:"duration_s"`
		RMS                   *float64 `json:"rms_mono"`
		FramesTolerance       float64  `json:"frames_tolerance"`
		RMSTolerance          float64  `json:"rms_rel_tolerance"`
		Points                *int64
		Finite                *int64      `json:"finite_points"`
		BBox                  [][]float64 `json:"bbox"`
		ValidUTF8             *bool       `json:"valid_utf8"`
		Runes                 *int64
	}
}

// manifest lists the media files of the kinds that have adapters.
func manifest(t testing.TB) []mediaEntry {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(mediaDir(), "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct{ Files []mediaEntry }
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	var out []mediaEntry
	for _, e := range doc.Files {
		switch e.Kind {
		case "image", "audio", "pointcloud", "text":
			out = append(out, e)
		}
	}
	return out
}

// probing reads TIFF too, as the command does for a person's own files.
var probing = modality.Probing{Decode: true, Options: map[string]json.RawMessage{"image": json.RawMessage(`{"tiff": true}`)}}

// TestManifest: for every file of the media set, what a probe finds is what other programs
// found; what is malformed is refused with a code, quickly and in little memory.
func TestManifest(t *testing.T) {
	for _, e := range manifest(t) {
		t.Run(strings.ReplaceAll(e.File, "/", "_"), func(t *testing.T) {
			in, file, err := media.File(filepath.Join(mediaDir(), e.File))
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			r := modality.Probe(t.Context(), in, probing)
			took := time.Since(start)
			runtime.ReadMemStats(&after)
			if _, err := json.Marshal(r); err != nil {
				t.Error(err)
			}
			if r.Error != nil {
				if e.Validity == "valid" {
					t.Fatal(r.Error)
				}
				if e.Validity == "either" {
					t.Logf("%v: %v (%s)", r.Error.Code, r.Error, e.Expect.Result)
				}
				if n := after.TotalAlloc - before.TotalAlloc; n > 64<<20 || took > time.Second {
					t.Errorf("refused in %v with %d MiB", took, n>>20)
				}
				return
			}
			if e.Validity == "malformed" {
				t.Fatalf("taken as %+v", *r.Cost)
			}
			e.check(t, r)
		})
	}
}

// disputed are expectations of the manifest that the files themselves contradict.
var disputed = map[string]string{
	"audio/hound-pcmwaveformat-24bit-4byte-48kHz-stereo.wav":        "rms: the expectation reads 24 bits in 4 bytes as 24-bit floats",
	"audio/hound-waveformatextensible-24bit-4byte-48kHz-stereo.wav": "rms: the expectation reads 24 bits in 4 bytes as 24-bit floats",
	"pointcloud/trimesh-whitespace.off":                             "points: \"OFF8 6 12\" announces 8 points and 8 follow, the expectation says 6",
}

// check compares a report with the manifest.
func (e mediaEntry) check(t *testing.T, r modality.Report) {
	t.Helper()
	x := e.Expect
	if why, ok := disputed[e.File]; ok {
		t.Log(why)
		x.RMS, x.Points = nil, nil
	}
	if r.Modality != e.Kind {
		t.Errorf("modality %s, want %s", r.Modality, e.Kind)
	}
	if e.Kind == "image" {
		e.checkImage(t, r)
	}
	equal := func(what string, got, want int) {
		if want != 0 && got != want {
			t.Errorf("%s %d, want %d", what, got, want)
		}
	}
	equal("width", r.Width, x.Width)
	equal("height", r.Height, x.Height)
	equal("sample rate", r.SampleRate, x.SampleRate)
	equal("channels", r.Channels, x.Channels)
	if e.Kind == "audio" {
		slack := 1.0
		if x.FramesTolerance != 0 {
			slack = x.FramesTolerance
		}
		if want := float64(x.Frames); want != 0 && math.Abs(r.Seconds*float64(r.SampleRate)-want) > slack {
			t.Errorf("%.1f samples, want %.0f", r.Seconds*float64(r.SampleRate), want)
		}
		rel := math.Max(x.RMSTolerance, 0.002)
		if x.RMS != nil && (r.RMS == nil || math.Abs(*r.RMS-*x.RMS) > rel**x.RMS+1e-4) {
			t.Errorf("rms %v, want %v", show(r.RMS), *x.RMS)
		}
	}
	if x.Points != nil && r.Points != *x.Points {
		t.Errorf("%d points, want %d", r.Points, *x.Points)
	}
	if x.Finite != nil && (r.FinitePoints == nil || *r.FinitePoints != *x.Finite) {
		t.Errorf("finite points %v, want %d", show(r.FinitePoints), *x.Finite)
	}
	if x.BBox != nil {
		e.checkBox(t, r.BBox)
	}
	if x.ValidUTF8 != nil && (r.ValidUTF8 == nil || *r.ValidUTF8 != *x.ValidUTF8) {
		t.Errorf("valid UTF-8 %v, want %v", show(r.ValidUTF8), *x.ValidUTF8)
	}
	if x.Runes != nil && (r.Runes == nil || *r.Runes != *x.Runes) {
		t.Errorf("runes %v, want %d", show(r.Runes), *x.Runes)
	}
}

func show[T any](v *T) string {
	if v == nil {
		return "absent"
	}
	return fmt.Sprint(*v)
}

func (e mediaEntry) checkImage(t *testing.T, r modality.Report) {
	t.Helper()
	if e.Expect.Frames != 0 && r.Frames != e.Expect.Frames {
		t.Errorf("%d frames, want %d", r.Frames, e.Expect.Frames)
	}
	tolerance := 0.06
	switch r.MediaType {
	case "image/jpeg", "image/webp", "image/tiff":
		tolerance = 1
	}
	near := func(what string, got, want []float64) {
		for i := range want {
			if len(got) != len(want) || math.Abs(got[i]-want[i]) > tolerance {
				t.Errorf("%s %.1f, want %.1f", what, got, want)
				return
			}
		}
	}
	near("mean", r.MeanRGB, e.Expect.Mean)
	for i, want := range e.Expect.Quadrants {
		near(fmt.Sprintf("quadrant %d", i), r.QuadrantMeanRGB[i], want)
	}
}

func (e mediaEntry) checkBox(t *testing.T, got [][]float64) {
	t.Helper()
	for i, side := range e.Expect.BBox {
		for d, want := range side {
			if len(got) != 2 || math.Abs(got[i][d]-want) > 1e-3*math.Max(1, math.Abs(want)) {
				t.Errorf("bbox %v, want %v", got, e.Expect.BBox)
				return
			}
		}
	}
}
