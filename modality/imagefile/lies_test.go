package imagefile_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"math"
	"runtime"
	"testing"
	"time"

	"github.com/mmserve/mmserve/modality/imagefile"
	"github.com/mmserve/mmserve/modality/media"
)

// quadrants is a picture of four colours: red, green, blue, white.
func quadrants(w, h int) *image.NRGBA {
	img := image.NewNRGBA(image.Rect(0, 0, w, h))
	colours := []color.NRGBA{{255, 0, 0, 255}, {0, 255, 0, 255}, {0, 0, 255, 255}, {255, 255, 255, 255}}
	for y := range h {
		for x := range w {
			img.SetNRGBA(x, y, colours[2*x/w+2*(2*y/h)])
		}
	}
	return img
}

// withOrientation puts an EXIF block after a JPEG's first marker.
func withOrientation(data []byte, o byte) []byte {
	body := append([]byte("Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00"), o, 0, 0, 0, 0, 0, 0)
	head := []byte{0xFF, 0xD8, 0xFF, 0xE1, 0, byte(len(body) + 2)}
	return append(append(head, body...), data[2:]...)
}

// TestOrientations: for each of the eight, the upright picture has its colours in their place.
func TestOrientations(t *testing.T) {
	var b bytes.Buffer
	if err := jpeg.Encode(&b, quadrants(64, 32), nil); err != nil {
		t.Fatal(err)
	}
	// Where the stored quadrants 0..3 (top left, top right, bottom left, bottom right) go.
	upright := [9]string{1: "0123", 2: "1032", 3: "3210", 4: "2301", 5: "0213", 6: "2031", 7: "3120", 8: "1302"}
	colours := [][]float64{{255, 0, 0}, {0, 255, 0}, {0, 0, 255}, {255, 255, 255}}
	for o := byte(1); o <= 8; o++ {
		img, err := imagefile.Decode(t.Context(), media.Bytes("", withOrientation(b.Bytes(), o)), imagefile.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if wide := img.Rect.Dx() == 64; wide != (o < 5) || img.Orientation != int(o) {
			t.Errorf("orientation %d read as %d: %v", o, img.Orientation, img.Rect)
		}
		for i, mean := range img.QuadrantMeans() {
			for c, want := range colours[upright[o][i]-'0'] {
				if math.Abs(mean[c]-want) > 12 {
					t.Errorf("orientation %d: quadrant %d is %.0f", o, i, mean)
					break
				}
			}
		}
	}
}

// pngLie is a PNG whose header claims a size its data does not have.
func pngLie(w, h uint32) []byte {
	var b bytes.Buffer
	_ = png.Encode(&b, quadrants(8, 8))
	data := b.Bytes()
	binary.BigEndian.PutUint32(data[16:], w)
	binary.BigEndian.PutUint32(data[20:], h)
	binary.BigEndian.PutUint32(data[29:], crc32.ChecksumIEEE(data[12:29]))
	return data
}

func jpegLie(w, h uint16, progressive bool) []byte {
	var b bytes.Buffer
	_ = jpeg.Encode(&b, quadrants(8, 8), nil)
	data := b.Bytes()
	at := bytes.Index(data, []byte{0xFF, 0xC0})
	binary.BigEndian.PutUint16(data[at+5:], h)
	binary.BigEndian.PutUint16(data[at+7:], w)
	if progressive {
		data[at+1] = 0xC2
	}
	return data
}

func bmpLie(w, h int32, depth, compression byte) []byte {
	data := make([]byte, 54+1024+64)
	copy(data, "BM")
	binary.LittleEndian.PutUint32(data[10:], 54+1024)
	binary.LittleEndian.PutUint32(data[14:], 40)
	binary.LittleEndian.PutUint32(data[18:], uint32(w))
	binary.LittleEndian.PutUint32(data[22:], uint32(h))
	data[26], data[28], data[30] = 1, depth, compression
	return data
}

// TestLies: headers that promise what is not there, and pictures out of proportion to their
// bytes, are refused at once and without allocating for the promise.
func TestLies(t *testing.T) {
	for name, data := range map[string][]byte{
		"png 8000":         pngLie(8000, 8000),
		"png 2000":         pngLie(2000, 2000),
		"png 2^31-1":       pngLie(math.MaxInt32, math.MaxInt32),
		"jpeg 8000":        jpegLie(8000, 8000, false),
		"jpeg 2000":        jpegLie(2000, 2000, false),
		"jpeg progressive": jpegLie(8000, 8000, true),
		"gif canvas":       append([]byte("GIF89a\x40\x1f\x40\x1f\x80\x00\x00\x00\x00\x00\xff\xff\xff,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02\x44\x01\x00"), ';'),
		"gif frame":        append([]byte("GIF89a\x40\x1f\x40\x1f\x80\x00\x00\x00\x00\x00\xff\xff\xff,\x00\x00\x00\x00\x40\x1f\x40\x1f\x00\x02\x02\x44\x01\x00"), ';'),
		"webp lossless":    []byte("RIFF\x20\x00\x00\x00WEBPVP8L\x10\x00\x00\x00\x2f\x3f\xdf\xcf\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"),
		"bmp":              bmpLie(5000, 5000, 24, 0),
		"bmp run lengths":  bmpLie(8000, 8000, 8, 1),
		"bmp negative":     bmpLie(-5, 5, 24, 0),
		"bmp least":        bmpLie(math.MinInt32, math.MinInt32, 24, 0),
		"tiff":             []byte("II*\x00\x08\x00\x00\x00\x02\x00\x00\x01\x03\x00\x01\x00\x00\x00\x40\x1f\x00\x00\x01\x01\x03\x00\x01\x00\x00\x00\x40\x1f\x00\x00\x00\x00\x00\x00"),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		_, err := imagefile.Decode(t.Context(), media.Bytes(name, data), imagefile.Options{TIFF: true})
		took := time.Since(start)
		runtime.ReadMemStats(&after)
		if media.CodeOf(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 4<<20 || took > 200*time.Millisecond {
			t.Errorf("%s: %v and %d MiB to say %v", name, took, n>>20, err)
		}
	}
}

// TestPlainCMYK: a CMYK JPEG without Adobe's marker is not inverted.
func TestPlainCMYK(t *testing.T) {
	in := load(t, "image/cmyk.jpg")
	data := make([]byte, in.Size)
	if _, err := in.At.ReadAt(data, 0); err != nil {
		t.Fatal(err)
	}
	marked, err := imagefile.Decode(t.Context(), in, imagefile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(data, []byte("\xFF\xEE\x00\x0EAdobe"))
	if at < 0 || data[at+15] != 0 {
		t.Skip("the sample has no plain Adobe marker")
	}
	bare := append(append([]byte(nil), data[:at]...), data[at+16:]...)
	img, err := imagefile.Decode(t.Context(), media.Bytes("", bare), imagefile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	// The same bytes read as ink, not as its absence: black and white exchange.
	a, b := marked.Mean(), img.Mean()
	if math.Abs(a[0]-b[0]) < 10 {
		t.Errorf("means %.0f and %.0f", a, b)
	}
}

// TestPNGKinds: every kind of PNG the encoder writes comes back to the byte.
func TestPNGKinds(t *testing.T) {
	src := quadrants(9, 7)
	src.SetNRGBA(3, 3, color.NRGBA{1, 2, 3, 4})
	for name, img := range map[string]image.Image{"rgba": src, "gray": toGray(src), "sixteen": toNRGBA64(src)} {
		var b bytes.Buffer
		if err := png.Encode(&b, img); err != nil {
			t.Fatal(err)
		}
		got, err := imagefile.Decode(t.Context(), media.Bytes("", b.Bytes()), imagefile.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for y := range 7 {
			for x := range 9 {
				want := color.NRGBAModel.Convert(img.At(x, y))
				if name == "sixteen" {
					want = src.NRGBAAt(x, y)
				}
				if got.NRGBAAt(x, y) != want {
					t.Fatalf("%s: %d,%d is %v, want %v", name, x, y, got.NRGBAAt(x, y), want)
				}
			}
		}
	}
}

func toGray(src image.Image) image.Image {
	g := image.NewGray(src.Bounds())
	for y := range src.Bounds().Dy() {
		for x := range src.Bounds().Dx() {
			g.Set(x, y, src.At(x, y))
		}
	}
	return g
}

func toNRGBA64(src *image.NRGBA) image.Image {
	g := image.NewNRGBA64(src.Bounds())
	for y := range src.Bounds().Dy() {
		for x := range src.Bounds().Dx() {
			c := src.NRGBAAt(x, y)
			g.SetNRGBA64(x, y, color.NRGBA64{uint16(c.R)<<8 | 77, uint16(c.G)<<8 | 77, uint16(c.B)<<8 | 77, uint16(c.A)<<8 | 77})
		}
	}
	return g
}

// BenchmarkResize shrinks twelve megapixels to what a model takes.
func BenchmarkResize(b *testing.B) {
	p := imagefile.NewRGB(4000, 3000)
	for b.Loop() {
		p.Resize(224, 224, imagefile.Bicubic)
	}
	b.ReportMetric(12*float64(b.N)/b.Elapsed().Seconds(), "Mpixel/s")
}

// BenchmarkDecodeJPEG decodes and upsamples two megapixels.
func BenchmarkDecodeJPEG(b *testing.B) {
	var buf bytes.Buffer
	if err := jpeg.Encode(&buf, quadrants(1920, 1080), nil); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := imagefile.Decode(b.Context(), media.Bytes("", buf.Bytes()), imagefile.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
