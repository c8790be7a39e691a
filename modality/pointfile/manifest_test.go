package pointfile_test

import (
	"encoding/json"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/mmserve/mmserve/modality/pointfile"
)

// entry is one file of the media manifest.
type entry struct {
	File     string
	Kind     string
	Validity string
	Expect   struct {
		Result      string
		Points      *int64
		Finite      *int64    `json:"finite_points"`
		HasColor    *bool     `json:"has_color"`
		HasNormals  *bool     `json:"has_normals"`
		RawBBoxMin  []float64 `json:"bbox_min"`
		RawBBoxMax  []float64 `json:"bbox_max"`
		LASVersion  string    `json:"las_version"`
		PointFormat *int      `json:"point_format"`
	}
}

// mediaDir is the media set: the copied part, or all of it where MMSERVE_MEDIA points.
func mediaDir() string {
	if d := os.Getenv("MMSERVE_MEDIA"); d != "" {
		return d
	}
	return filepath.Join("..", "..", "testdata", "media")
}

func manifest(t *testing.T) []entry {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(mediaDir(), "manifest.json"))
	if err != nil {
		t.Skip(err)
	}
	var m struct{ Files []entry }
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	var out []entry
	for _, e := range m.Files {
		if e.Kind == "pointcloud" {
			out = append(out, e)
		}
	}
	return out
}

// found is what reading a whole file tells.
type found struct {
	pointfile.Header
	points, finite int64
	lo, hi         [3]float64
	all            []pointfile.Point
}

func readFile(path string) (*found, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	r, err := pointfile.Open(f, pointfile.Options{Size: info.Size(), Format: pointfile.FormatOf(path)})
	if err != nil {
		return nil, err
	}
	return drain(r)
}

func drain(r *pointfile.Reader) (*found, error) {
	out := &found{Header: r.Header}
	for i := range 3 {
		out.lo[i], out.hi[i] = math.Inf(1), math.Inf(-1)
	}
	block := make([]pointfile.Point, 100)
	for {
		n, err := r.Read(block)
		out.all = append(out.all, block[:n]...)
		for i := range block[:n] {
			out.points++
			if !block[i].Finite() {
				continue
			}
			out.finite++
			for k, v := range block[i].XYZ {
				out.lo[k], out.hi[k] = min(out.lo[k], v), max(out.hi[k], v)
			}
		}
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

func TestManifest(t *testing.T) {
	for _, e := range manifest(t) {
		t.Run(filepath.Base(e.File), func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			got, err := readFile(filepath.Join(mediaDir(), e.File))
			runtime.ReadMemStats(&after)
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 4<<20 {
				t.Errorf("%d bytes allocated", grown)
			}
			switch e.Validity {
			case "malformed":
				if err == nil {
					t.Fatalf("read %d points, want an error", got.points)
				}
				return
			case "either":
				if err != nil {
					t.Log(err)
					return
				}
			default:
				if err != nil {
					t.Fatal(err)
				}
			}
			check(t, e, got)
		})
	}
}

// vertices corrects the manifest where it took the faces of "OFF8 6 12" for vertices: the file
// has eight, and its faces use all of them.
var vertices = map[string]int64{"pointcloud/trimesh-whitespace.off": 8}

func check(t *testing.T, e entry, got *found) {
	x := e.Expect
	if n, ok := vertices[e.File]; ok {
		x.Points = &n
	}
	if x.Points != nil && got.points != *x.Points {
		t.Errorf("%d points, want %d", got.points, *x.Points)
	}
	if got.Points >= 0 && got.Points != got.points {
		t.Errorf("header says %d points, file has %d", got.Points, got.points)
	}
	if x.Finite != nil && got.finite != *x.Finite {
		t.Errorf("%d finite points, want %d", got.finite, *x.Finite)
	}
	if x.HasColor != nil && got.HasColor != *x.HasColor {
		t.Errorf("colour %v, want %v", got.HasColor, *x.HasColor)
	}
	if x.HasNormals != nil && got.HasNormals != *x.HasNormals {
		t.Errorf("normals %v, want %v", got.HasNormals, *x.HasNormals)
	}
	if x.LASVersion != "" && got.Version != x.LASVersion {
		t.Errorf("version %s, want %s", got.Version, x.LASVersion)
	}
	if x.PointFormat != nil && got.PointFormat != *x.PointFormat {
		t.Errorf("point format %d, want %d", got.PointFormat, *x.PointFormat)
	}
	for i := range x.RawBBoxMin {
		near(t, got.lo[i], x.RawBBoxMin[i])
		near(t, got.hi[i], x.RawBBoxMax[i])
	}
}

func near(t *testing.T, got, want float64) {
	t.Helper()
	if math.Abs(got-want) > 1e-3*max(1, math.Abs(want)) {
		t.Errorf("bound %v, want %v", got, want)
	}
}
