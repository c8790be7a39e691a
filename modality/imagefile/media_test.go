package imagefile_test

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/mmserve/mmserve/modality/imagefile"
	"github.com/mmserve/mmserve/modality/media"
)

// mediaDir is the folder of test media: the whole set when MMSERVE_MEDIA names it.
func mediaDir() string {
	if d := os.Getenv("MMSERVE_MEDIA"); d != "" {
		return d
	}
	return filepath.Join("..", "..", "testdata", "media")
}

// entry is a picture of the manifest.
type entry struct {
	File, Kind, Validity string
	Expect               struct {
		Result        string
		Width, Height int
		Frames        int
		Mode          string
		Mean          []float64   `json:"mean_rgb"`
		Quadrants     [][]float64 `json:"quadrant_mean_rgb"`
	}
}

func manifest(t testing.TB) []entry {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(mediaDir(), "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct{ Files []entry }
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	var out []entry
	for _, e := range doc.Files {
		if e.Kind == "image" {
			out = append(out, e)
		}
	}
	return out
}

func load(t testing.TB, name string) media.Input {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(mediaDir(), name))
	if err != nil {
		t.Fatal(err)
	}
	return media.Bytes(name, data)
}

func TestManifest(t *testing.T) {
	for _, e := range manifest(t) {
		t.Run(filepath.Base(e.File), func(t *testing.T) {
			in := load(t, e.File)
			start := time.Now()
			img, err := imagefile.Decode(t.Context(), in, imagefile.Options{TIFF: true})
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("took %v", took)
			}
			if err != nil {
				if media.CodeOf(err) == "" {
					t.Errorf("error without a code: %v", err)
				}
				if e.Validity == "valid" {
					t.Fatal(err)
				}
				if e.Validity == "either" {
					t.Logf("%v (%s)", err, e.Expect.Result)
				}
				return
			}
			if e.Validity == "malformed" {
				t.Fatalf("decoded as %d×%d", img.Width, img.Height)
			}
			check(t, e, img)
		})
	}
}

func check(t *testing.T, e entry, img *imagefile.Image) {
	t.Helper()
	x := e.Expect
	if x.Width != 0 && (img.Config.Width != x.Width || img.Config.Height != x.Height || img.Rect.Dx() != x.Width) {
		t.Errorf("%d×%d, want %d×%d", img.Config.Width, img.Config.Height, x.Width, x.Height)
	}
	if x.Frames != 0 && img.Frames != x.Frames {
		t.Errorf("%d frames, want %d", img.Frames, x.Frames)
	}
	tolerance := 0.06
	if strings.Contains(img.MediaType, "jpeg") || img.MediaType == "image/webp" || img.MediaType == "image/tiff" {
		tolerance = 1
	}
	if x.Mean != nil {
		compare(t, "mean", img.Mean(), x.Mean, tolerance)
	}
	for i, q := range img.QuadrantMeans() {
		if x.Quadrants != nil {
			compare(t, "quadrant", q, x.Quadrants[i], tolerance)
		}
	}
}

func compare(t *testing.T, what string, got, want []float64, tolerance float64) {
	t.Helper()
	for i := range want {
		if math.Abs(got[i]-want[i]) > tolerance {
			t.Errorf("%s %.1f, want %.1f", what, got, want)
			return
		}
	}
}

// TestBombs: what lies or explodes is refused from its header, quickly and in little memory.
func TestBombs(t *testing.T) {
	var before, after runtime.MemStats
	for _, e := range manifest(t) {
		if e.Validity == "valid" {
			continue
		}
		in := load(t, e.File)
		runtime.ReadMemStats(&before)
		start := time.Now()
		_, _ = imagefile.Decode(t.Context(), in, imagefile.Options{TIFF: true})
		took := time.Since(start)
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 64<<20 || took > time.Second {
			t.Errorf("%s: %v, %d MiB", e.File, took, n>>20)
		}
	}
}

// TestScanBomb: a progressive JPEG of many scans costs little to refuse.
func TestScanBomb(t *testing.T) {
	data := scanBomb(4000, 4000, 5000)
	start := time.Now()
	_, err := imagefile.Decode(t.Context(), media.Bytes("bomb.jpg", data), imagefile.Options{})
	if media.CodeOf(err) != media.TooLarge {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took > 200*time.Millisecond {
		t.Errorf("took %v", took)
	}
}

// scanBomb is a progressive JPEG with n empty scans.
func scanBomb(w, h, n int) []byte {
	var b bytes.Buffer
	b.Write([]byte{0xFF, 0xD8, 0xFF, 0xC2, 0, 11, 8, byte(h >> 8), byte(h), byte(w >> 8), byte(w), 1, 1, 0x11, 0})
	for range n {
		b.Write([]byte{0xFF, 0xDA, 0, 8, 1, 1, 0, 0, 0, 0})
		b.Write(make([]byte, 30))
	}
	b.Write([]byte{0xFF, 0xD9})
	return b.Bytes()
}
