package pipeline

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/tensor"
)

// The text around the soft tokens of MiniCPM-V 2.6 (image_processing_minicpmv.py,
// get_slice_image_placeholder).
func TestMiniCPMVText(t *testing.T) {
	m := &pictureModel{family: pictureFamilies["minicpmv"], slicer: &slicer{ids: true}}
	got, err := m.text([]string{"a ", " b ", " c"}, []split{{n: 1, cols: 1}, {n: 5, cols: 2}}, tensor.New(6, 2, 4))
	if err != nil {
		t.Fatal(err)
	}
	const whole, slice = "<image><unk><unk></image>", "<slice><unk><unk></slice>"
	want := "a <image_id>0</image_id>" + whole + " b <image_id>1</image_id>" + whole + slice + slice + "\n" + slice + slice + " c"
	if got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestSlicerReadsTheDirectory(t *testing.T) {
	dir := t.TempDir()
	d := func(config, processor string) *Dir {
		if err := os.WriteFile(filepath.Join(dir, preprocessorFile), []byte(processor), 0o600); err != nil {
			t.Fatal(err)
		}
		return &Dir{Path: dir, FS: os.DirFS(dir), Config: []byte(config)}
	}
	for _, c := range []struct {
		config, processor string
		want              slicer
		fault             string
	}{
		{`{}`, `{}`, slicer{448, 14, 9, false}, ""},
		{`{"use_image_id":true,"slice_config":{"max_slice_nums":4,"scale_resolution":336}}`, `{"image_processor_type":"MiniCPMVImageProcessor"}`, slicer{336, 14, 4, true}, ""},
		{`{"use_image_id":true,"slice_config":{"max_slice_nums":4}}`, `{"max_slice_nums":2,"patch_size":7,"use_image_id":false,"norm_mean":[0,0,0]}`, slicer{448, 7, 2, false}, ""},
		{`{}`, `{"slice_mode":false}`, slicer{}, "slice_mode"},
		{`{}`, `{"scale_resolution":3}`, slicer{}, "3 pixels in patches of 14"},
		{`{}`, `[]`, slicer{}, "cannot unmarshal"},
	} {
		s, p, err := readSlicer(d(c.config, c.processor))
		switch {
		case c.fault != "":
			if err == nil || !strings.Contains(err.Error(), c.fault) {
				t.Errorf("%s: %v, want %q", c.processor, err, c.fault)
			}
		case err != nil || p == nil || *s != c.want:
			t.Errorf("%s: %+v, %v, want %+v", c.processor, s, err, c.want)
		}
	}
}
