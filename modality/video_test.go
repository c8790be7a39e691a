package modality_test

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"image"
	"image/color"
	"image/png"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/modality/media"
)

// zipVideo is an archive of n PNG frames whose pixels tell their frame, row and column.
func zipVideo(t testing.TB, n, w, h int) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for i := range n {
		m := image.NewNRGBA(image.Rect(0, 0, w, h))
		for y := range h {
			for x := range w {
				m.SetNRGBA(x, y, color.NRGBA{uint8(i), uint8(y), uint8(x), 255})
			}
		}
		f, err := z.Create("frame" + string(rune('a'+i)) + ".png")
		if err != nil {
			t.Fatal(err)
		}
		if err := png.Encode(f, m); err != nil {
			t.Fatal(err)
		}
	}
	z.Close()
	return b.Bytes()
}

func openVideo(t testing.TB, options string) modality.Adapter {
	t.Helper()
	a, err := modality.New("video", json.RawMessage(options))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestVideoDefaultsAreTheMultimodalPerceiver(t *testing.T) {
	a := openVideo(t, `{"pad":true}`)
	if c := a.Info().Channels; c != 48+195 {
		t.Fatalf("%d channels, want 243", c)
	}
	array, err := a.Adapt(t.Context(), media.Bytes("a.zip", zipVideo(t, 3, 20, 12)))
	if err != nil {
		t.Fatal(err)
	}
	defer array.Close()
	if m, _ := array.Dims(); m != 16*56*56 {
		t.Errorf("%d rows, want 50176", m)
	}
	if d := array.Grid().Dims(); d[0] != 16 || d[1] != 56 || d[2] != 56 {
		t.Errorf("grid %v", d)
	}
}

func TestVideoPatches(t *testing.T) {
	a := openVideo(t, `{"frames":4,"size":8,"patch":[2,4,2],"position":"none","crop":"center"}`)
	array, err := a.Adapt(t.Context(), media.Bytes("a.zip", zipVideo(t, 5, 12, 8)))
	if err != nil {
		t.Fatal(err)
	}
	defer array.Close()
	m, c := array.Dims()
	if m != 2*2*4 || c != 3*2*4*2 {
		t.Fatalf("%d×%d, want 16×48", m, c)
	}
	got := readBlocks(t, array, 3)
	for r := range m {
		gt, gy, gx := r/8, r/4%2, r%4
		at := 0
		for dt := range 2 {
			for dy := range 4 {
				for dx := range 2 {
					want := []uint8{uint8(2*gt + dt), uint8(4*gy + dy), uint8(2*gx + dx + 2)}
					for k, w := range want {
						if v := got.Row(r)[at+k]; v != float32(w)/255 {
							t.Fatalf("row %d value %d: %v, want %d/255", r, at+k, v*255, w)
						}
					}
					at += 3
				}
			}
		}
	}
}

func TestVideoSampling(t *testing.T) {
	in := media.Bytes("a.zip", zipVideo(t, 10, 4, 4))
	for _, c := range []struct {
		options string
		want    []int
	}{
		{`"frames":3`, []int{0, 1, 2}},
		{`"frames":0`, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}},
		{`"frames":5,"sampling":"uniform"`, []int{1, 3, 5, 7, 9}},
		{`"frames":2,"sampling":"rate"`, []int{0, 1}}, // a zip has no rate
		{`"frames":12,"pad":true`, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9}},
		{`"frames":0,"patch":[3,4,4]`, nil},
	} {
		options := `{"size":4,"position":"none",` + c.options + `}`
		array, err := openVideo(t, options).Adapt(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		x := readBlocks(t, array, 1)
		array.Close()
		if c.want == nil { // the tenth frame does not fill a patch
			if x.Rows() != 3 {
				t.Errorf("%s: %d rows, want 3", c.options, x.Rows())
			}
			continue
		}
		for i, w := range c.want {
			if got := int(x.Row(i)[0]*255 + 0.5); got != w {
				t.Errorf("%s: row %d is of frame %d, want %d", c.options, i, got, w)
			}
		}
	}
}

// TestVideoStreamsEqualHeld reads a video too large to be kept as one frame after the other.
func TestVideoStreamsEqualHeld(t *testing.T) {
	in := media.Bytes("a.zip", zipVideo(t, 4, 30, 30))
	read := func(frames string) []float32 {
		array, err := openVideo(t, `{"size":1900,"patch":[1,50,50],"position":"none","frames":`+frames+`}`).Adapt(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		defer array.Close()
		return readBlocks(t, array, 777).Data
	}
	held, streamed := read("2"), read("4")
	if !equal(held, streamed[:len(held)]) {
		t.Error("streamed frames differ from those held")
	}
}

func TestVideoDetection(t *testing.T) {
	for _, c := range []struct {
		in   modality.Input
		want string
	}{
		{media.Bytes("a.zip", zipVideo(t, 1, 4, 4)), "video"},
		{media.Bytes("a.mp4", []byte("\x00\x00\x00\x18ftypisom\x00\x00\x00\x00")), "video"},
		{media.Input{Size: -1, Parts: []media.Input{media.Bytes("a.png", []byte("\x89PNG\r\n\x1a\n"))}}, "video"},
	} {
		h, err := c.in.Header()
		if err != nil {
			t.Fatal(err)
		}
		if got, _, err := modality.Detect(h); got != c.want {
			t.Errorf("%s: %q (%v), want %q", c.in.Name, got, err, c.want)
		}
	}
	in := media.Bytes("a.mp4", []byte("\x00\x00\x00\x18ftypisom\x00\x00\x00\x00"))
	h, _ := in.Header()
	if _, err := openVideo(t, `{}`).Plan(t.Context(), h); err == nil || !strings.Contains(err.Error(), "modality.Register") {
		t.Errorf("mp4: %v, want a refusal that names the door", err)
	}
}

// wav is a WAV file of n samples of 16 bits at 48 kHz.
func wavOf(n int) []byte {
	var b bytes.Buffer
	b.WriteString("RIFF")
	binary.Write(&b, binary.LittleEndian, uint32(36+2*n))
	b.WriteString("WAVEfmt ")
	binary.Write(&b, binary.LittleEndian, struct {
		Size          uint32
		Tag, Channels uint16
		Rate, Bytes   uint32
		Align, Bits   uint16
	}{16, 1, 1, 48000, 96000, 2, 16})
	b.WriteString("data")
	binary.Write(&b, binary.LittleEndian, uint32(2*n))
	for i := range n {
		binary.Write(&b, binary.LittleEndian, int16(i%1000))
	}
	return b.Bytes()
}

func TestVideoWithSound(t *testing.T) {
	a := openVideo(t, `{"frames":2,"audio":{}}`)
	in := modality.Input{Size: -1, Parts: []modality.Input{media.Bytes("b.png", pngFrame(t)), media.Bytes("a.png", pngFrame(t)), media.Bytes("c.wav", wavOf(1600))}}
	h, err := in.Header()
	if err != nil {
		t.Fatal(err)
	}
	if name, _, err := modality.Detect(h); name != "video" {
		t.Errorf("detected as %q (%v)", name, err)
	}
	plan, err := a.Plan(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	array, err := a.Adapt(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	defer array.Close()
	m, c := array.Dims()
	if m != plan.Rows || c != plan.RowChannels || c != a.Info().Channels {
		t.Errorf("%d×%d, plan %d×%d, info %d", m, c, plan.Rows, plan.RowChannels, a.Info().Channels)
	}
	if len(array.Spans) != 2 || array.Spans[0].Name != "audio" || array.Spans[1].To != m || array.Spans[1].From != m-2*56*56 {
		t.Errorf("spans %v of %d rows", array.Spans, m)
	}
	_, err = a.Adapt(t.Context(), media.Bytes("a.zip", zipVideo(t, 2, 4, 4)))
	if media.CodeOf(err) != media.Empty {
		t.Errorf("without a sound track: %v", err)
	}
}

func pngFrame(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := png.Encode(&b, image.NewNRGBA(image.Rect(0, 0, 4, 4))); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
