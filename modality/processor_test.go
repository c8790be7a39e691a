package modality_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/modality/imagefile"
	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/weights"
)

// referenceDirs are the folders of reference cases: the shipped ones, and the whole set where
// MMSERVE_REFERENCE names it.
func referenceDirs() []string {
	dirs := []string{filepath.Join("..", "testdata", "reference")}
	if d := os.Getenv("MMSERVE_REFERENCE"); d != "" {
		dirs = append(dirs, d)
	}
	return dirs
}

// tensors opens the tensors of a reference file; get returns one's bytes and shape.
func tensors(t *testing.T, path string) (get func(name string) ([]byte, []int), has func(name string) bool) {
	t.Helper()
	src, err := weights.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	get = func(name string) ([]byte, []int) {
		raw, err := src.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		return raw.Data, raw.Shape
	}
	has = func(name string) bool { _, _, ok := src.Stat(name); return ok }
	return get, has
}

func floats(b []byte) []float32 {
	out := make([]float32, len(b)/4)
	for i := range out {
		out[i] = math.Float32frombits(uint32(b[4*i]) | uint32(b[4*i+1])<<8 | uint32(b[4*i+2])<<16 | uint32(b[4*i+3])<<24)
	}
	return out
}

// picture wraps raw RGB as a decoded image.
func picture(pix []byte, shape []int) *imagefile.Image {
	p := &imagefile.RGB{W: shape[1], H: shape[0], Pix: pix}
	return &imagefile.Image{Config: imagefile.Config{Width: p.W, Height: p.H}, NRGBA: p.NRGBA()}
}

// TestPerceiverProcessor matches the reference's image processor bit for bit.
func TestPerceiverProcessor(t *testing.T) {
	for _, root := range referenceDirs() {
		files, _ := filepath.Glob(filepath.Join(root, "perceiver-processors", "image_*.json"))
		for _, file := range files {
			t.Run(filepath.Base(file), func(t *testing.T) { perceiverCase(t, file) })
		}
	}
}

func perceiverCase(t *testing.T, file string) {
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		Config json.RawMessage `json:"preprocessor_config"`
		Shape  []int           `json:"pixel_values_shape"`
		At     []int           `json:"probe_positions"`
		Values []float64       `json:"probe_values"`
		Mean   float64         `json:"pixel_values_mean"`
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		t.Fatal(err)
	}
	p, err := modality.ParseImageProcessor(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	get, has := tensors(t, strings.TrimSuffix(file, ".json")+".safetensors")
	out, err := p.Prepare(t.Context(), picture(get("image")))
	if err != nil {
		t.Fatal(err)
	}
	if want, _ := get("resized"); !bytes.Equal(out.Pictures[0].Pix, want) {
		t.Fatal("resized bytes differ")
	}
	px := p.Normalise(out.Pictures)
	if fmt.Sprint(px.Values.Shape) != fmt.Sprint(c.Shape) {
		t.Fatalf("shape %v, want %v", px.Values.Shape, c.Shape)
	}
	for i, at := range c.At {
		if float64(px.Values.Data[at]) != c.Values[i] {
			t.Fatalf("value %d is %v, want %v", at, px.Values.Data[at], c.Values[i])
		}
	}
	if has("pixel_values") {
		want, _ := get("pixel_values")
		for i, v := range floats(want) {
			if px.Values.Data[i] != v {
				t.Fatalf("value %d is %v, want %v", i, px.Values.Data[i], v)
			}
		}
	}
}

// preprocessCase is what vision/preprocess/case.json says of one picture.
type preprocessCase struct {
	File    string
	Presets map[string]struct {
		Resized []int
		Size    json.RawMessage
	}
}

// TestVisionProcessors matches the processors of CLIP, OpenFlamingo, SigLIP and both Idefics.
func TestVisionProcessors(t *testing.T) {
	found := false
	for _, root := range referenceDirs() {
		dir := filepath.Join(root, "vision", "preprocess")
		raw, err := os.ReadFile(filepath.Join(dir, "case.json"))
		if err != nil {
			continue
		}
		found = true
		var doc struct{ Images []preprocessCase }
		if err := json.Unmarshal(raw, &doc); err != nil {
			t.Fatal(err)
		}
		for _, c := range doc.Images {
			t.Run(c.File, func(t *testing.T) { visionCase(t, dir, c) })
		}
	}
	if !found {
		t.Skip("set MMSERVE_REFERENCE to the folder of all reference cases")
	}
}

func visionCase(t *testing.T, dir string, c preprocessCase) {
	data, err := os.ReadFile(filepath.Join(dir, c.File))
	if err != nil {
		t.Fatal(err)
	}
	img, err := imagefile.Decode(t.Context(), media.Bytes(c.File, data), imagefile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	stem := strings.TrimSuffix(c.File, filepath.Ext(c.File))
	get, has := tensors(t, filepath.Join(dir, stem+".expected.safetensors"))
	decoded, shape := get("decoded_rgb")
	if got := img.RGB(imagefile.DropAlpha).Pix; strings.HasSuffix(c.File, ".jpg") {
		if mean, worst := distance(got, decoded); mean > 0.05 || worst > 6 {
			t.Errorf("JPEG decode: mean %.3f, worst %d from libjpeg", mean, worst)
		} else {
			t.Logf("JPEG decode: mean %.4f, worst %d from libjpeg", mean, worst)
		}
		img = picture(decoded, shape)
	} else if !bytes.Equal(got, decoded) {
		t.Error("decoded bytes differ")
	}
	for preset, x := range c.Presets {
		config := fmt.Sprintf(`{"image_processor_type": %q, "do_image_splitting": false}`, preset+"ImageProcessor")
		if x.Size != nil {
			config = fmt.Sprintf(`{"image_processor_type": %q, "do_image_splitting": false, "size": %s}`, preset+"ImageProcessor", x.Size)
		}
		p, err := modality.ParseImageProcessor([]byte(config))
		if err != nil {
			t.Fatal(err)
		}
		out, err := p.Prepare(t.Context(), img)
		if err != nil {
			t.Fatal(err)
		}
		q := out.Pictures[0]
		if name := preset + ".resized_u8"; has(name) {
			want, shape := get(name)
			resized := q.Pix
			if preset == "clip" { // the resize before the crop
				resized = img.RGB(imagefile.DropAlpha).Resize(shape[1], shape[0], imagefile.Bicubic).Pix
			}
			if !bytes.Equal(resized, want) {
				mean, worst := distance(resized, want)
				t.Errorf("%s: resized bytes differ: mean %.3f, worst %d", preset, mean, worst)
			}
		}
		if name := preset + ".cropped_u8"; has(name) {
			if want, _ := get(name); !bytes.Equal(q.Pix, want) {
				t.Errorf("%s: cropped bytes differ", preset)
			}
		}
		if name := preset + ".pixel_values"; has(name) {
			want, _ := get(name)
			got := p.Normalise(out.Pictures).Values.Data
			for i, v := range floats(want) {
				if math.Abs(float64(got[i]-v)) > 0 {
					t.Fatalf("%s: value %d is %v, want %v", preset, i, got[i], v)
				}
			}
		}
	}
}

func distance(a, b []byte) (mean float64, worst int) {
	if len(a) != len(b) {
		return math.Inf(1), 255
	}
	for i := range a {
		d := max(int(a[i])-int(b[i]), int(b[i])-int(a[i]))
		mean += float64(d)
		worst = max(worst, d)
	}
	return mean / float64(len(a)), worst
}

func TestSplit(t *testing.T) {
	p, err := modality.ImagePreset("idefics2")
	if err != nil {
		t.Fatal(err)
	}
	img := &imagefile.Image{Config: imagefile.Config{Width: 1001, Height: 500}, NRGBA: image.NewNRGBA(image.Rect(0, 0, 1001, 500))}
	out, err := p.Prepare(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	want := [][2]int{{378, 500}, {378, 501}, {378, 500}, {378, 501}, {489, 980}}
	if got := p.Sizes(1001, 500); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("sizes %v, want %v", got, want)
	}
	px := p.Normalise(out.Pictures)
	if fmt.Sprint(px.Values.Shape) != "[5 3 489 980]" || px.Mask.At(0).Data[377*980+499] != 1 || px.Mask.At(0).Data[378*980] != 0 {
		t.Errorf("shape %v", px.Values.Shape)
	}
	for i, q := range out.Pictures {
		if q.H != want[i][0] || q.W != want[i][1] {
			t.Errorf("picture %d is %d×%d", i, q.H, q.W)
		}
	}
}

func TestProcessorConfigs(t *testing.T) {
	for name, config := range map[string]string{
		"no type":     `{}`,
		"unknown":     `{"image_processor_type": "NopeImageProcessor"}`,
		"not JSON":    `{`,
		"huge":        `{"image_processor_type": "CLIPImageProcessor", "size": 99999999}`,
		"zero std":    `{"image_processor_type": "CLIPImageProcessor", "image_std": [0, 1, 1], "image_mean": [0, 0, 0]}`,
		"two means":   `{"image_processor_type": "CLIPImageProcessor", "image_mean": [0, 0]}`,
		"one side":    `{"image_processor_type": "SiglipImageProcessor", "size": {"height": 3}}`,
		"resample 9":  `{"image_processor_type": "SiglipImageProcessor", "resample": 9}`,
		"no longest":  `{"image_processor_type": "Idefics2ImageProcessor", "size": {"shortest_edge": 9}}`,
		"crop of 0":   `{"image_processor_type": "PerceiverImageProcessor", "crop_size": 0}`,
		"negative":    `{"image_processor_type": "PerceiverImageProcessor", "crop_size": -4}`,
		"size string": `{"image_processor_type": "PerceiverImageProcessor", "size": "big"}`,
	} {
		if _, err := modality.ParseImageProcessor([]byte(config)); media.CodeOf(err) != media.BadOptions {
			t.Errorf("%s: got %v", name, err)
		}
	}
	for _, name := range modality.ImagePresets() {
		if _, err := modality.ImagePreset(name); err != nil {
			t.Error(err)
		}
	}
}
