package modality_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/tensor"
)

// decodable is a medium with the number of pixels, samples or points in it.
type decodable struct {
	name, unit string
	n          int
	modality   string
	options    string
	data       []byte
}

const (
	squarePixels = `{"position": "none"}`
	logMel       = `{"features": "logmel", "sample_rate": 16000, "position": "none", "n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 64, "fmin": 0, "fmax": 8000}`
	oneThousand  = `{"points": 1024, "sampling": "random", "scaling": "unit_sphere", "position": "none"}`
)

// decodables are large media of several formats.
func decodables(t testing.TB, width, height, points int) []decodable {
	t.Helper()
	img := image.NewPaletted(image.Rect(0, 0, width, height), nil)
	for i := range 256 {
		img.Palette = append(img.Palette, color.NRGBA{uint8(i), uint8(7 * i), uint8(31 * i), 255})
	}
	for i := range img.Pix {
		img.Pix[i] = uint8(i*i>>14 ^ i%width>>2 ^ i%7)
	}
	full := image.NewNRGBA(img.Rect)
	for i, p := range img.Pix {
		full.Set(i%width, i/width, img.Palette[p])
	}
	encoded := func(encode func(b *bytes.Buffer) error) []byte {
		var b bytes.Buffer
		if err := encode(&b); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	file := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join("..", "testdata", "media", "audio", name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	table := encoded(func(b *bytes.Buffer) error {
		for i := range points {
			fmt.Fprintf(b, "%.4f %.4f %.4f\n", float64(i%317)/7, float64(i%1013)/3, float64(i)/1000)
		}
		return nil
	})
	ply := encoded(func(b *bytes.Buffer) error {
		fmt.Fprintf(b, "ply\nformat binary_little_endian 1.0\nelement vertex %d\nproperty float x\nproperty float y\nproperty float z\nend_header\n", points)
		for i := range points {
			binary.Write(b, binary.LittleEndian, [3]float32{float32(i % 317), float32(i % 1013), float32(i)})
		}
		return nil
	})
	n := width * height
	return []decodable{
		{"png", "pixel", n, "image", squarePixels, encoded(func(b *bytes.Buffer) error { return png.Encode(b, full) })},
		{"jpeg", "pixel", n, "image", squarePixels, encoded(func(b *bytes.Buffer) error { return jpeg.Encode(b, full, nil) })},
		{"gif", "pixel", n, "image", squarePixels, encoded(func(b *bytes.Buffer) error { return gif.Encode(b, img, nil) })},
		{"mp3", "sample", 0, "audio", logMel, file("mp3_cbr128_joint.mp3")},
		{"flac", "sample", 0, "audio", logMel, file("flac_s16_44100_stereo.flac")},
		{"vorbis", "sample", 0, "audio", logMel, file("ogg_vorbis_44100_stereo.ogg")},
		{"table", "point", points, "pointcloud", oneThousand, table},
		{"ply", "point", points, "pointcloud", oneThousand, ply},
	}
}

// plan opens a medium's adapter and plans it; what n does not say, the plan does.
func (d *decodable) plan(t testing.TB) (modality.Adapter, modality.Cost) {
	t.Helper()
	a, err := modality.New(d.modality, json.RawMessage(d.options))
	if err != nil {
		t.Fatal(err)
	}
	h, err := media.Bytes("", d.data).Header()
	if err != nil {
		t.Fatal(err)
	}
	cost, err := a.Plan(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	if d.n == 0 {
		d.n = int(cost.Seconds * float64(cost.SampleRate*cost.Channels))
	}
	return a, cost
}

// A plan tells what decoding takes from what the header promises.
func TestPlannedDecoding(t *testing.T) {
	for _, d := range decodables(t, 300, 200, 5000) {
		_, cost := d.plan(t)
		if per := cost.Decoding / time.Duration(d.n); per < 10*time.Nanosecond || per > time.Microsecond {
			t.Errorf("%s: %s for %d: %s a %s", d.name, cost.Decoding, d.n, per, d.unit)
		}
	}
	sound := decodables(t, 1, 1, 1)[3]
	_, whole := sound.plan(t)
	sound.options = `{"sample_rate": 16000, "length": 1600}`
	if _, cost := sound.plan(t); cost.Decoding <= 0 || cost.Decoding > whole.Decoding/5 {
		t.Errorf("a tenth of a second is planned as %s of decoding, %g s as %s", cost.Decoding, whole.Seconds, whole.Decoding)
	}
}

// BenchmarkDecoding is what decoding.go's constants come from.
func BenchmarkDecoding(b *testing.B) {
	for _, d := range decodables(b, 1600, 1200, 100000) {
		b.Run(d.name, func(b *testing.B) {
			a, _ := d.plan(b)
			for b.Loop() {
				array, err := a.Adapt(b.Context(), media.Bytes("", d.data))
				if err != nil {
					b.Fatal(err)
				}
				m, c := array.Dims()
				block := tensor.New(min(m, 1024), c)
				for from := 0; from < m; from += 1024 {
					to := min(from+1024, m)
					if err := array.Read(block.Slice(0, to-from), from, to); err != nil {
						b.Fatal(err)
					}
				}
				array.Close()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(d.n), "ns/"+d.unit)
		})
	}
}
