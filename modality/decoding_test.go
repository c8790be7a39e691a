package modality_test

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"os"
	"path/filepath"
	"testing"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/tensor"
)

// decodings are media of all kinds with what is counted of them.
func decodings(t testing.TB) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	img := image.NewPaletted(image.Rect(0, 0, 1600, 1200), nil)
	for i := range 256 {
		img.Palette = append(img.Palette, color.NRGBA{uint8(i), uint8(7 * i), uint8(31 * i), 255})
	}
	for i := range img.Pix {
		img.Pix[i] = uint8(i*i>>14 ^ i%1600>>2 ^ i%7)
	}
	full := image.NewNRGBA(img.Rect)
	for y := range 1200 {
		for x := range 1600 {
			full.Set(x, y, img.At(x, y))
		}
	}
	add := func(name string, encode func(b *bytes.Buffer) error) {
		var b bytes.Buffer
		if err := encode(&b); err != nil {
			t.Fatal(err)
		}
		files[name] = b.Bytes()
	}
	add("image/png", func(b *bytes.Buffer) error { return png.Encode(b, full) })
	add("image/jpeg", func(b *bytes.Buffer) error { return jpeg.Encode(b, full, nil) })
	add("image/gif", func(b *bytes.Buffer) error { return gif.Encode(b, img, nil) })
	for kind, name := range map[string]string{
		"audio/mpeg": "mp3_cbr128_joint.mp3", "audio/flac": "flac_s16_44100_stereo.flac", "audio/ogg": "ogg_vorbis_44100_stereo.ogg",
		"audio/wav": "hound-pop.wav",
	} {
		b, err := os.ReadFile(filepath.Join("..", "testdata", "media", "audio", name))
		if err != nil {
			t.Log(err)
			continue
		}
		files[kind] = b
	}
	add("points/text", func(b *bytes.Buffer) error {
		for i := range 100000 {
			fmt.Fprintf(b, "%.4f %.4f %.4f\n", float64(i%317)/7, float64(i%1013)/3, float64(i)/1000)
		}
		return nil
	})
	add("points/binary", func(b *bytes.Buffer) error {
		fmt.Fprintf(b, "ply\nformat binary_little_endian 1.0\nelement vertex 100000\nproperty float x\nproperty float y\nproperty float z\nend_header\n")
		for i := range 100000 {
			for k := range 3 {
				b.Write([]byte{byte(i), byte(i >> 8), byte(60 + k), 63})
			}
		}
		return nil
	})
	add("text/plain", func(b *bytes.Buffer) error { b.Write(bytes.Repeat([]byte("a word "), 10000)); return nil })
	return files
}

var options = map[string]string{
	"image": `{"position": "none"}`, "text": `{"code": "id", "position": "none", "max_length": 100000}`,
	"audio":      `{"features": "logmel", "sample_rate": 16000, "position": "none", "n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 64, "fmin": 0, "fmax": 8000}`,
	"pointcloud": `{"points": 1024, "sampling": "random", "scaling": "unit_sphere", "features": ["normals", "color"], "position": "fourier", "bands": 8, "resolution": 32}`,
}

func BenchmarkDecoding(b *testing.B) {
	for name, data := range decodings(b) {
		b.Run(name, func(b *testing.B) {
			in := media.Bytes("", data)
			h, err := in.Header()
			if err != nil {
				b.Fatal(err)
			}
			kind, _, err := modality.Detect(h)
			if err != nil {
				b.Fatal(err)
			}
			a, err := modality.New(kind, []byte(options[kind]))
			if err != nil {
				b.Fatal(err)
			}
			cost, err := a.Plan(b.Context(), h)
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				array, err := a.Adapt(b.Context(), in)
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
			ns := float64(b.Elapsed().Nanoseconds()) / float64(b.N)
			for unit, n := range map[string]float64{
				"ns/pixel": float64(cost.Width * cost.Height), "ns/sample": cost.Seconds * float64(cost.SampleRate*cost.Channels),
				"ns/point": float64(max(cost.Points, int64(100000*min(len(kind)/10, 1)))), "ns/value": float64(cost.Rows * cost.RowChannels),
			} {
				if n > 0 {
					b.ReportMetric(ns/n, unit)
				}
			}
		})
	}
}
