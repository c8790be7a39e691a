package pointfile_test

import (
	"os"
	"path/filepath"
	"testing"
)

// TestFormatsAgree compares one cloud as many programs would store it: coordinates to the
// digits of the text formats, colours and normals exactly.
func TestFormatsAgree(t *testing.T) {
	read := func(name string) *found {
		path := filepath.Join(mediaDir(), "pointcloud", name)
		if _, err := os.Stat(path); err != nil {
			return nil
		}
		got, err := readFile(path)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return got
	}
	want := read("ply_be_rgb_first.ply")
	if want == nil {
		t.Skip("no media")
	}
	for _, name := range []string{"xyz_rgb.xyz", "ply_be_rgb.ply", "ply_be_nrgb.ply", "ply_ascii_rgb_first.ply", "ply_float_colour.ply", "ply_le_double.ply",
		"pcd_ascii_rgbU.pcd", "pcd_binary_rgbU.pcd", "pcd_binary_compressed_rgbU.pcd", "pcd_binary_compressed_normals.pcd", "pcd_ascii_normals.pcd", "npy_n6.npy", "json_list.json"} {
		got := read(name)
		if got == nil {
			continue
		}
		for i, p := range got.all {
			w := want.all[i]
			for k := range 3 {
				if d := p.XYZ[k] - w.XYZ[k]; d > 1e-4 || d < -1e-4 {
					t.Fatalf("%s: point %d is %v, want %v", name, i, p.XYZ, w.XYZ)
				}
			}
			if got.HasColor && p.Color != w.Color {
				t.Fatalf("%s: colour %d is %v, want %v", name, i, p.Color, w.Color)
			}
			if got.HasNormals && p.Normal != w.Normal {
				t.Fatalf("%s: normal %d is %v, want %v", name, i, p.Normal, w.Normal)
			}
		}
	}
}
