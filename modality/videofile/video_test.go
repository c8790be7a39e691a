package videofile_test

import (
	"archive/zip"
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/gif"
	"image/jpeg"
	"image/png"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/modality/videofile"
)

// picture is a plain picture whose red is v.
func picture(w, h int, v uint8) *image.NRGBA {
	m := image.NewNRGBA(image.Rect(0, 0, w, h))
	draw.Draw(m, m.Rect, image.NewUniform(color.NRGBA{v, 100, 50, 255}), image.Point{}, draw.Src)
	return m
}

func pngOf(v uint8) []byte {
	var b bytes.Buffer
	png.Encode(&b, picture(8, 6, v))
	return b.Bytes()
}

func jpegOf(v uint8) []byte {
	var b bytes.Buffer
	jpeg.Encode(&b, picture(16, 16, v), &jpeg.Options{Quality: 100})
	return b.Bytes()
}

// animation has frames smaller than the canvas and each way of disposal.
func animation(n int) []byte {
	g := &gif.GIF{Config: image.Config{Width: 20, Height: 10}}
	for i := range n {
		pal := color.Palette{color.NRGBA{0, 0, 0, 0}, color.NRGBA{uint8(40 * i), 255, 0, 255}, color.NRGBA{0, uint8(30 * i), 255, 255}}
		p := image.NewPaletted(image.Rect(i%5, i%3, i%5+12, i%3+6), pal)
		if i == 0 {
			p = image.NewPaletted(image.Rect(0, 0, 20, 10), pal)
		}
		for k := range p.Pix {
			p.Pix[k] = uint8((k + i) % 3)
		}
		g.Image = append(g.Image, p)
		g.Delay = append(g.Delay, 10)
		g.Disposal = append(g.Disposal, []byte{gif.DisposalNone, gif.DisposalBackground, gif.DisposalPrevious}[i%3])
	}
	var b bytes.Buffer
	if err := gif.EncodeAll(&b, g); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func archive(names []string, data func(i int) []byte) []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for i, n := range names {
		w, _ := z.Create(n)
		w.Write(data(i))
	}
	z.Close()
	return b.Bytes()
}

func multipart(n int, base bool) []byte {
	var b bytes.Buffer
	b.WriteString("preamble\r\n")
	for i := range n {
		body, enc := string(pngOf(uint8(i*20))), ""
		if base {
			body, enc = base64.StdEncoding.EncodeToString(pngOf(uint8(i*20))), "Content-Transfer-Encoding: base64\r\n"
		}
		fmt.Fprintf(&b, "--XX\r\nContent-Type: image/png\r\n%s\r\n%s\r\n", enc, body)
	}
	b.WriteString("--XX--\r\n")
	return b.Bytes()
}

func chunk(id string, body ...[]byte) []byte {
	all := bytes.Join(body, nil)
	b := append([]byte(id), binary.LittleEndian.AppendUint32(nil, uint32(len(all)))...)
	b = append(b, all...)
	if len(all)%2 == 1 {
		b = append(b, 0)
	}
	return b
}

// avi wraps JPEG frames; a nil one is a dropped frame.
func avi(codec string, frames ...[]byte) []byte {
	strh := make([]byte, 56)
	copy(strh, "vids"+codec)
	binary.LittleEndian.PutUint32(strh[20:], 1)
	binary.LittleEndian.PutUint32(strh[24:], 25)
	strf := make([]byte, 40)
	binary.LittleEndian.PutUint32(strf[4:], 16)
	binary.LittleEndian.PutUint32(strf[8:], 16)
	copy(strf[16:], codec)
	sound := make([]byte, 56)
	copy(sound, "auds")
	movi := []byte("movi")
	for _, f := range frames {
		movi = append(movi, chunk("01wb", []byte("sound"))...)
		movi = append(movi, chunk("00dc", f)...)
	}
	return chunk("RIFF", []byte("AVI "), chunk("LIST", []byte("hdrl"), chunk("avih", make([]byte, 56)),
		chunk("LIST", []byte("strl"), chunk("strh", strh), chunk("strf", strf)),
		chunk("LIST", []byte("strl"), chunk("strh", sound))), chunk("LIST", movi))
}

// withoutTables cuts the Huffman tables out of a JPEG, as Motion-JPEG cameras do.
func withoutTables(b []byte) []byte {
	at := bytes.Index(b, []byte{0xff, 0xc4})
	n := 2 + int(b[at+2])<<8 + int(b[at+3])
	return append(append([]byte(nil), b[:at]...), b[at+n:]...)
}

func open(t *testing.T, in media.Input) *videofile.Video {
	t.Helper()
	h, err := in.Header()
	if err != nil {
		t.Fatal(err)
	}
	c, err := videofile.ReadConfig(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	v, err := videofile.Open(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	if !c.Estimated && (c.Frames != v.Frames || c.Width != v.Width || c.Height != v.Height) {
		t.Fatalf("config %+v, opened %+v", c, v.Config)
	}
	return v
}

// reds reads the red of the first pixel of every frame.
func reds(t *testing.T, v *videofile.Video) (out []int) {
	t.Helper()
	for i := range v.Frames {
		m, err := v.Frame(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, int(m.Pix[0]))
	}
	return out
}

func TestSources(t *testing.T) {
	names := []string{"f/frame10.png", "f/frame2.png", "f/frame1.png", "__MACOSX/f/._frame1.png", "f/.hidden", "f/sound.wav"}
	zipped := archive(names, func(i int) []byte { return pngOf(uint8(i * 20)) })
	multi := media.Bytes("", multipart(3, false))
	multi.MediaType = "multipart/mixed; boundary=XX"
	coded := media.Bytes("", multipart(2, true))
	coded.MediaType = `multipart/form-data; boundary="XX"`
	bare := media.Bytes("", bytes.TrimPrefix(multipart(3, false), []byte("preamble\r\n")))
	j := jpegOf(200)
	for _, c := range []struct {
		name string
		in   media.Input
		want []int
		rate float64
	}{
		{"zip in natural order", media.Bytes("a.zip", zipped), []int{40, 20, 0}, 0},
		{"zip as a stream", media.Stream("a.zip", bytes.NewReader(zipped)), []int{40, 20, 0}, 0},
		{"multipart", multi, []int{0, 20, 40}, 0},
		{"multipart in base64", coded, []int{0, 20}, 0},
		{"multipart without a declared type", bare, []int{0, 20, 40}, 0},
		{"avi", media.Bytes("", avi("MJPG", j, nil, jpegOf(100))), []int{200, 200, 100}, 25},
		{"avi without Huffman tables", media.Bytes("", avi("mjpg", withoutTables(j))), []int{200}, 25},
		{"parts", media.Input{Size: -1, Parts: []media.Input{media.Bytes("b10.png", pngOf(9)), media.Bytes("b9.png", pngOf(8)), media.Bytes("a.mp3", []byte("sound"))}}, []int{8, 9}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := open(t, c.in)
			got := reds(t, v)
			if len(got) != len(c.want) {
				t.Fatalf("frames %v, want %v", got, c.want)
			}
			for i, w := range c.want {
				if d := got[i] - w; d < -3 || d > 3 {
					t.Fatalf("frames %v, want %v", got, c.want)
				}
			}
			if v.Rate != c.rate {
				t.Errorf("%v frames a second, want %v", v.Rate, c.rate)
			}
		})
	}
}

func TestSoundTracks(t *testing.T) {
	v := open(t, media.Bytes("a.zip", archive([]string{"a.png", "b.wav"}, func(i int) []byte { return pngOf(1) })))
	if v.Audio() == nil || v.Audio().Name != "b.wav" {
		t.Errorf("sound track %+v, want b.wav", v.Audio())
	}
	got := make([]byte, 4)
	if _, err := v.Audio().At.ReadAt(got, 0); err != nil || string(got[1:]) != "PNG" {
		t.Errorf("read %q, %v", got, err)
	}
}

// TestAnimation compares frames with the standard library's, composited here by hand, in order
// and out of it.
func TestAnimation(t *testing.T) {
	data := animation(9)
	v := open(t, media.Bytes("a.gif", data))
	if v.Frames != 9 || v.Width != 20 || v.Height != 10 || v.Seconds != 0.9 {
		t.Fatalf("config %+v", v.Config)
	}
	g, err := gif.DecodeAll(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	canvas := image.NewNRGBA(image.Rect(0, 0, 20, 10))
	var want [][]byte
	for i, p := range g.Image {
		before := append([]byte(nil), canvas.Pix...)
		draw.Draw(canvas, p.Rect, p, p.Rect.Min, draw.Over)
		want = append(want, append([]byte(nil), canvas.Pix...))
		switch g.Disposal[i] {
		case gif.DisposalBackground:
			draw.Draw(canvas, p.Rect, image.Transparent, image.Point{}, draw.Src)
		case gif.DisposalPrevious:
			canvas.Pix = before
		}
	}
	for _, i := range []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 3, 2, 8, 0, 0} {
		m, err := v.Frame(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(m.Pix, want[i]) {
			t.Errorf("frame %d differs", i)
		}
	}
}

func TestRefusals(t *testing.T) {
	bomb := archive([]string{"a.png"}, func(int) []byte { return bytes.Repeat([]byte{0}, 8<<20) })
	many := make([]string, 50)
	for i := range many {
		many[i] = fmt.Sprintf("%d.png", i)
	}
	small := func(int) []byte { return pngOf(1) }
	for _, c := range []struct {
		name   string
		data   []byte
		limits media.Limits
		want   media.Code
	}{
		{"mp4", []byte("\x00\x00\x00\x18ftypisom\x00\x00\x00\x00"), media.Limits{}, media.Unsupported},
		{"webm", []byte("\x1a\x45\xdf\xa3aaaaaaaa"), media.Limits{}, media.Unsupported},
		{"avi of another codec", avi("H264", jpegOf(1)), media.Limits{}, media.Unsupported},
		{"avi without frames", avi("MJPG"), media.Limits{}, media.Empty},
		{"avi cut off", avi("MJPG", jpegOf(1))[:300], media.Limits{}, media.Truncated},
		{"zip traversal", archive([]string{"../a.png"}, small), media.Limits{}, media.Malformed},
		{"zip absolute", archive([]string{"/a.png"}, small), media.Limits{}, media.Malformed},
		{"zip drive", archive([]string{`c:\a.png`}, small), media.Limits{}, media.Malformed},
		{"zip without pictures", archive([]string{"a.txt"}, small), media.Limits{}, media.Empty},
		{"zip cut off", archive(many, small)[:200], media.Limits{}, media.Truncated},
		{"zip entry", bomb, media.Limits{Decoded: 1 << 20}, media.TooLarge},
		{"zip entries", archive(many, small), media.Limits{Parts: 10}, media.TooLarge},
		{"zip frames", archive(many, small), media.Limits{Frames: 10}, media.TooLarge},
		{"gif frames", animation(9), media.Limits{Frames: 8}, media.TooLarge},
		{"gif seconds", animation(9), media.Limits{Seconds: 0.5}, media.TooLarge},
		{"gif pixels", animation(1), media.Limits{Pixels: 100}, media.TooLarge},
		{"gif cut off", animation(3)[:60], media.Limits{}, media.Truncated},
		{"multipart cut off", []byte("--b\r\nContent-Type: image/png\r\n\r\nabc"), media.Limits{}, media.Truncated},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := media.Bytes("", c.data)
			in.Limits = c.limits
			if _, err := videofile.Open(t.Context(), in); media.CodeOf(err) != c.want {
				t.Errorf("open: %v, want %s", err, c.want)
			}
			h, _ := in.Header()
			if _, err := videofile.ReadConfig(t.Context(), h); media.CodeOf(err) != c.want {
				t.Errorf("config: %v, want %s", err, c.want)
			}
		})
	}
	v, err := videofile.Open(t.Context(), media.Bytes("", archive([]string{"a.png", "b.png"}, func(i int) []byte { return pngOf(1)[:80-70*i] })))
	if err == nil {
		_, err = v.Frame(t.Context(), 1)
	}
	if err == nil || !strings.Contains(err.Error(), "frame") {
		t.Errorf("a broken frame: %v", err)
	}
}

// FuzzOpen opens foreign bytes and decodes the first and last frame.
func FuzzOpen(f *testing.F) {
	f.Add("", animation(3))
	f.Add("", archive([]string{"a.png", "b.wav", "c10.png"}, func(i int) []byte { return pngOf(uint8(i)) }))
	f.Add("multipart/mixed; boundary=XX", multipart(2, false))
	f.Add("multipart/mixed; boundary=XX", multipart(1, true))
	f.Add("", avi("MJPG", withoutTables(jpegOf(3)), nil))
	f.Fuzz(func(t *testing.T, mediaType string, data []byte) {
		in := media.Bytes("", data)
		in.MediaType = mediaType
		in.Limits = media.Limits{Decoded: 4 << 20, Pixels: 1 << 16, Frames: 100, Parts: 100}
		v, err := videofile.Open(t.Context(), in)
		for _, i := range []int{0, -1} {
			if err != nil {
				break
			}
			if i < 0 {
				i = v.Frames - 1
			}
			_, err = v.Frame(t.Context(), i)
		}
		if err != nil && media.CodeOf(err) == "" {
			t.Fatalf("error without a code: %v", err)
		}
	})
}
