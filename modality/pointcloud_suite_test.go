package modality_test

import (
	"testing"

	"github.com/mmserve/mmserve/modality/modalitytest"
)

func TestPointCloudConformance(t *testing.T) {
	for _, c := range []struct {
		name, options string
		samples       []string
	}{
		{"formats", `{"bands":4}`, []string{"ply_be_rgb_first.ply", "ply_ascii_nan.ply", "trimesh-cube_blender_uv.ply", "pcd_binary_compressed_normals.pcd",
			"pcd_nan.pcd", "coff.off", "laspy-autzen.las", "npy_f2.npy", "xyz_rgb.xyz", "xyz_semicolon.xyz", "json_list.json"}},
		{"as it is", `{"scaling":"none","position":"none","features":["intensity","color","normals"]}`, []string{"laspy-simple1_1.las", "ply_be_rgb_first.ply", "ply_1e38.ply"}},
		{"modelnet40", `{"preset":"modelnet40","points":100}`, []string{"pcl-samp54-utm-ground.pcd", "ply_far_offset.ply"}},
		{"farthest", `{"points":64,"sampling":"farthest","bands":2}`, []string{"ply_le_nan.ply", "ply_identical.ply"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var samples []modalitytest.Sample
			for _, s := range c.samples {
				samples = append(samples, modalitytest.File(t, pointFile(t, "pointcloud/"+s)))
			}
			modalitytest.Run(t, openPoints(t, c.options), samples...)
		})
	}
	t.Run("streamed", func(t *testing.T) { // more points than are kept
		t.Parallel()
		sample := modalitytest.Sample{Name: "large.ply", Data: plyPoints(70_000, 0)}
		modalitytest.Run(t, openPoints(t, `{"position":"none"}`), sample)
		modalitytest.Run(t, openPoints(t, `{"position":"none","scaling":"none"}`), sample)
	})
}

func FuzzPointCloud(f *testing.F) {
	modalitytest.Fuzz(f, openPoints(f, `{"bands":2,"features":["normals","color","intensity"]}`),
		modalitytest.Sample{Data: plyPoints(20, 7)}, modalitytest.Sample{Data: asciiPoints(20)})
}
