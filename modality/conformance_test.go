package modality_test

import (
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/modality/modalitytest"
)

// conformance are the adapters that the suite runs on here, with options and samples.
var conformance = []struct {
	name, modality, options string
	samples                 []string
}{
	{"image", "image", `{"processor": {"image_processor_type": "PerceiverImageProcessor", "size": 64, "crop_size": 72}}`, []string{"image/exif_land_6.jpg", "image/lossless.webp"}},
	{"image formats", "image", `{"preset": "siglip", "patch": 16, "position": "none"}`, []string{"image/alpha.png", "image/anim_6.gif", "image/imagers-rgb24.bmp", "image/cmyk.jpg", "image/alpha_lossy.webp"}},
	{"image tiff", "image", `{"preset": "idefics2", "patch": 14, "tiff": true, "bands": 4}`, []string{"image/tiff_tiff_lzw.tif"}},
	{"text", "text", ``, []string{"text/udhr_eng.txt", "text/utf16le_bom.txt", "text/sjis.txt"}},
	{"text bits", "text", `{"code": "bits", "position": "none", "parse": true, "max_length": 100, "truncate": true}`, []string{"text/udhr_jpn.txt"}},
}

func open(t testing.TB, name, options string) modality.Adapter {
	t.Helper()
	a, err := modality.New(name, json.RawMessage(options))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func sample(t testing.TB, name string) modalitytest.Sample {
	return modalitytest.File(t, filepath.Join("..", "testdata", "media", name))
}

func TestConformance(t *testing.T) {
	for _, c := range conformance {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var samples []modalitytest.Sample
			for _, s := range c.samples {
				samples = append(samples, sample(t, s))
			}
			modalitytest.Run(t, open(t, c.modality, c.options), samples...)
		})
	}
}

func TestConformanceFuse(t *testing.T) {
	parts := []modalitytest.Sample{sample(t, "text/udhr_eng.txt"), sample(t, "image/lossy.webp")}
	a := open(t, "fuse", `{"channels": 400, "parts": [{}, {"modality": "image", "options": {"patch": 8, "bands": 4}}]}`)
	modalitytest.Run(t, a, modalitytest.Sample{Name: "words and picture", Parts: parts})
}

func FuzzImage(f *testing.F) {
	a := open(f, "image", `{"preset": "siglip", "patch": 16, "position": "none", "tiff": true}`)
	var seeds []modalitytest.Sample
	for _, n := range []string{"image/size_7x5.jpg", "image/pngsuite-basi3p02.png", "image/still.gif", "image/imagers-2-color.webp", "image/imagers-rgb24.bmp", "image/imagers-hpredict.tiff"} {
		seeds = append(seeds, sample(f, n))
	}
	modalitytest.Fuzz(f, a, seeds...)
}

func FuzzText(f *testing.F) {
	a := open(f, "text", `{"parse": true}`)
	modalitytest.Fuzz(f, a, sample(f, "text/utf16le_bom.txt"), sample(f, "text/sjis.txt"), modalitytest.Sample{Data: []byte("a [MASK] b")})
}
