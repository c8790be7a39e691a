package audiofile_test

import (
	"context"
	"encoding/json"
	"io"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/mmserve/mmserve/modality/audiofile"
	"github.com/mmserve/mmserve/modality/media"
)

// mediaDirs are the sets of media files to test with: the one in the repository, and that of
// $MMSERVE_MEDIA when it is set.
func mediaDirs() []string {
	dirs := []string{filepath.Join("..", "..", "testdata", "media")}
	if d := os.Getenv("MMSERVE_MEDIA"); d != "" {
		dirs = append(dirs, d)
	}
	return dirs
}

type manifestEntry struct {
	File     string
	Kind     string
	Validity string
	Expect   struct {
		Result  string
		Rate    int      `json:"sample_rate"`
		Chans   int      `json:"channels"`
		Frames  *int64   `json:"frames"`
		RMS     *float64 `json:"rms_mono"`
		Slack   int64    `json:"frames_tolerance"`
		RMSRel  float64  `json:"rms_rel_tolerance"`
		Codec   string
		Seconds float64 `json:"duration_s"`
	}
}

func manifest(t *testing.T, dir string) []manifestEntry {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	var m struct{ Files []manifestEntry }
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return m.Files
}

// measure decodes all of an input and returns frames and the RMS of the mono mix.
func measure(in media.Input) (r *audiofile.Reader, frames int64, rms float64, err error) {
	r, err = audiofile.Open(context.Background(), in)
	if err != nil {
		return nil, 0, 0, err
	}
	mono, sum := audiofile.NewMixer(r), 0.0
	buf := make([]float32, 4096)
	for {
		n, err := mono.Read(buf)
		for _, v := range buf[:n] {
			sum += float64(v) * float64(v)
		}
		frames += int64(n)
		if err == io.EOF {
			return r, frames, math.Sqrt(sum / float64(frames)), nil
		}
		if err != nil {
			return r, frames, 0, err
		}
	}
}

// TestManifest holds every sound file of the manifest against what is expected of it.
func TestManifest(t *testing.T) {
	for _, dir := range mediaDirs() {
		for _, e := range manifest(t, dir) {
			if e.Kind != "audio" {
				continue
			}
			t.Run(e.File, func(t *testing.T) { checkEntry(t, dir, e) })
		}
	}
}

func checkEntry(t *testing.T, dir string, e manifestEntry) {
	data, err := os.ReadFile(filepath.Join(dir, e.File))
	if os.IsNotExist(err) {
		t.Skip("not copied")
	}
	if err != nil {
		t.Fatal(err)
	}
	in := media.Bytes(e.File, data)
	r, frames, rms, err := measure(in)
	if err != nil {
		t.Logf("%s: %v", e.Validity, err)
		if media.CodeOf(err) == "" {
			t.Errorf("error without a code: %v", err)
		}
		if e.Validity == "valid" {
			t.Errorf("valid file refused: %v", err)
		}
		return
	}
	t.Logf("%s: %+v frames %d rms %.5f", e.Validity, r.Info, frames, rms)
	if e.Validity == "malformed" {
		t.Errorf("malformed file accepted: %+v", r.Info)
		return
	}
	want := e.Expect
	if want.Rate != 0 && (r.Rate != want.Rate || r.Channels != want.Chans && want.Chans != 0) {
		t.Errorf("%d Hz %d channels, want %d %d", r.Rate, r.Channels, want.Rate, want.Chans)
	}
	if want.Frames != nil && abs(frames-*want.Frames) > want.Slack {
		t.Errorf("%d frames, want %d", frames, *want.Frames)
	}
	if r.Exact && r.Frames != frames {
		t.Errorf("header says %d frames, found %d", r.Frames, frames)
	}
	if want.RMS != nil && math.Abs(rms-*want.RMS) > max(2e-5, max(want.RMSRel, 1e-4)**want.RMS) && *want.RMS > 0 {
		t.Errorf("rms %.5f, want %.5f", rms, *want.RMS)
	}
	if want.RMS != nil && *want.RMS == 0 && rms > 0.002 {
		t.Errorf("rms %.5f, want 0", rms)
	}
	h, err := in.Header()
	if err != nil {
		t.Fatal(err)
	}
	info, err := audiofile.Probe(context.Background(), h)
	if err != nil || info.Frames != r.Frames || info.Rate != r.Rate || info.Channels != r.Channels || info.Codec != r.Codec {
		t.Errorf("plan %+v, %v; opened %+v", info, err, r.Info)
	}
}

func abs(x int64) int64 { return max(x, -x) }
