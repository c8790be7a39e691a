package weights_test

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/weights"
)

// mediaFile is what a media manifest says of a file.
type mediaFile struct {
	File, Kind, Validity string
	Expect               struct {
		Tensors map[string]struct {
			Shape    *[]int
			DType    string
			Sum      *float64
			First    *float64
			FirstRow []float64 `json:"first_row"`
		}
	}
}

// eitherMay are the files that may load or not.
var eitherMay = []string{
	"plain_proto4.pkl", "dup_bomb.pkl", "plain_proto3.pkl", "self_list.pkl", "evil_hidden_after_stop.pkl",
	"bad_put_huge.pkl", "laughs_bomb.pkl", "bad_frame_huge.pkl", "header_5mb_spaces.safetensors",
	"leading_space.safetensors", "rank_10000.safetensors", "zero_times_huge.safetensors",
	"name_traversal.safetensors", "name_empty.safetensors", "evil_extra_entry.pt", "zip_bomb.pt", "torchscript.pt",
}

// mediaFiles lists the weight files of a media directory, with what its manifest says.
func mediaFiles(t *testing.T, root string) []mediaFile {
	t.Helper()
	said := map[string]mediaFile{}
	if data, err := os.ReadFile(filepath.Join(root, "manifest.json")); err == nil {
		var m struct{ Files []json.RawMessage }
		if err := json.Unmarshal(data, &m); err != nil {
			t.Fatal(err)
		}
		for _, raw := range m.Files {
			var f mediaFile
			if json.Unmarshal(raw, &f) == nil { // other media put other things in "expect"
				said[f.File] = f
			}
		}
	}
	var out []mediaFile
	for _, dir := range []string{"pickle", "torch", "safetensors"} {
		entries, err := os.ReadDir(filepath.Join(root, dir))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			f, ok := said[dir+"/"+e.Name()]
			if !ok {
				f = mediaFile{File: dir + "/" + e.Name(), Validity: "malformed"}
				switch {
				case strings.HasPrefix(e.Name(), "ok_"):
					f.Validity = "valid"
				case slices.Contains(eitherMay, e.Name()):
					f.Validity = "either"
				}
			}
			out = append(out, f)
		}
	}
	return out
}

func mediaRoots() []string {
	out := []string{filepath.Join("..", "testdata", "media")}
	if dir := os.Getenv("MMSERVE_MEDIA"); dir != "" {
		out = append(out, dir)
	}
	return out
}

func TestMedia(t *testing.T) {
	for _, root := range mediaRoots() {
		root, err := filepath.Abs(root)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(filepath.Base(root), func(t *testing.T) {
			t.Chdir(t.TempDir())
			for _, f := range mediaFiles(t, root) {
				t.Run(f.File, func(t *testing.T) { checkMedia(t, root, f) })
			}
			left, err := os.ReadDir(".")
			if err != nil || len(left) > 0 {
				t.Errorf("files appeared in the working directory: %v (%v)", left, err)
			}
		})
	}
}

func checkMedia(t *testing.T, root string, f mediaFile) {
	path := filepath.Join(root, f.File)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	src, err := weights.Open(path)
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 64<<20 {
		t.Errorf("allocates %d MiB", grown>>20)
	}
	switch {
	case err == nil:
		defer src.Close()
		if f.Validity == "malformed" {
			t.Fatal("a malformed file loads")
		}
	case f.Validity == "valid":
		t.Fatal(err)
	default:
		t.Log(err)
		if !strings.HasPrefix(err.Error(), "weights: "+filepath.Base(path)+": ") {
			t.Errorf("error does not name the file: %v", err)
		}
		return
	}
	for name := range src.Names() {
		if _, err := src.Load(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, want := range f.Expect.Tensors {
		raw, err := src.Load(name)
		if err != nil {
			t.Error(err)
			continue
		}
		x, sum := raw.Tensor(), 0.0
		for _, v := range x.Data {
			sum += float64(v)
		}
		if want.Shape != nil && !slices.Equal(*want.Shape, raw.Shape) {
			t.Errorf("%s: shape %v, want %v", name, raw.Shape, *want.Shape)
		}
		if want.DType != "" && string(raw.DType) != want.DType {
			t.Errorf("%s: %s, want %s", name, raw.DType, want.DType)
		}
		if want.Sum != nil && math.Abs(sum-*want.Sum) > 2e-3 {
			t.Errorf("%s: sum %v, want %v", name, sum, *want.Sum)
		}
		if want.First != nil && float64(x.Data[0]) != *want.First {
			t.Errorf("%s: first %v, want %v", name, x.Data[0], *want.First)
		}
		for i, w := range want.FirstRow {
			if math.Abs(float64(x.Data[i])-w) > 1e-6 {
				t.Errorf("%s[%d] = %v, want %v", name, i, x.Data[i], w)
			}
		}
	}
}
