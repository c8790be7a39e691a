package audiofile_test

import (
	"context"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/modality/audiofile"
	"github.com/mmserve/mmserve/modality/media"
)

// fuzz feeds a reader files of one format, damaged in every way. Whatever comes, it must end
// soon, with finite samples, no more than its limits allow and no error without a code.
func fuzz(f *testing.F, prefixes ...string) {
	files, err := filepath.Glob(filepath.Join("..", "..", "testdata", "media", "audio", "*"))
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range files {
		for _, p := range prefixes {
			if strings.HasPrefix(filepath.Base(name), p) {
				data, err := os.ReadFile(name)
				if err != nil {
					f.Fatal(err)
				}
				f.Add(data[:min(len(data), 12<<10)])
			}
		}
	}
	f.Fuzz(tryBytes)
}

func tryBytes(t *testing.T, data []byte) {
	in := media.Bytes("x", data)
	in.Limits = media.Limits{Samples: 1 << 20, Seconds: 1 << 20}
	if len(data) > 64<<10 {
		return
	}
	r, err := audiofile.Open(context.Background(), in)
	if err != nil {
		wantCode(t, err)
		return
	}
	buf := make([]float32, 1024*r.Channels)
	total := int64(0)
	for {
		n, err := r.Read(buf)
		for _, v := range buf[:n*r.Channels] {
			if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
				t.Fatal("sample is not finite")
			}
		}
		if total += int64(n); total*int64(r.Channels) > in.Limits.Samples {
			t.Fatalf("%d frames of %d channels beyond the limit", total, r.Channels)
		}
		if err == io.EOF {
			return
		}
		if err != nil {
			wantCode(t, err)
			return
		}
		if n == 0 {
			t.Fatal("nothing read and no error")
		}
	}
}

func wantCode(t *testing.T, err error) {
	if c := media.CodeOf(err); c == "" || c == media.Unreadable {
		t.Fatalf("error of code %q: %v", c, err)
	}
	if strings.Contains(err.Error(), "gave up") {
		t.Fatalf("panic: %v", err)
	}
}

func FuzzWAV(f *testing.F)  { fuzz(f, "wav", "hound", "rifx") }
func FuzzAIFF(f *testing.F) { fuzz(f, "aiff") }
func FuzzMP3(f *testing.F)  { fuzz(f, "mp3", "mp2") }

func FuzzFLAC(f *testing.F) {
	audiofile.IgnoreSums(true)
	fuzz(f, "flac")
}

func FuzzVorbis(f *testing.F) {
	audiofile.IgnoreSums(true)
	fuzz(f, "ogg")
}
