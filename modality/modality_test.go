package modality_test

import (
	"bytes"
	"context"
	"encoding/json"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/tensor"
)

func TestDetect(t *testing.T) {
	png := "\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
	for _, c := range []struct {
		name, declared, data, want string
		code                       media.Code
	}{
		{"a.png", "", png, "image", ""},
		{"a.jpg", "", png, "image", ""}, // another format of the same medium
		{"", "", png, "image", ""},
		{"a.wav", "", png, "", media.Mismatch},
		{"", "audio/wav", png, "", media.Mismatch},
		{"", "application/octet-stream", png, "image", ""},
		{"a.txt", "", png, "text", ""},
		{"notes", "", "hello, world", "text", ""},
		{"", "text/plain; charset=utf-8", "\x00\x01", "text", ""},
		{"x", "", "\x00\x01\x02\x03", "", media.Unsupported},
		{"a.png", "", "no picture", "image", ""},
		{"a.ply", "", "ply\nformat ascii 1.0\n", "pointcloud", ""},
		{"a.gif", "", "GIF89a\x01\x00\x01\x00", "image", ""},
		{"", "", "RIFF\x00\x00\x00\x00WAVEfmt ", "audio", ""},
	} {
		in := media.Bytes(c.name, []byte(c.data))
		in.MediaType = c.declared
		h, err := in.Header()
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := modality.Detect(h)
		if got != c.want || media.CodeOf(err) != c.code {
			t.Errorf("%q %q %.8q: got %q, %v", c.name, c.declared, c.data, got, err)
		}
	}
}

func TestDetectKind(t *testing.T) {
	in := media.Bytes("", []byte("\x89PNG\r\n\x1a\n"))
	in.Kind = "text"
	h, _ := in.Header()
	if name, _, err := modality.Detect(h); name != "text" || err != nil {
		t.Errorf("got %q, %v", name, err)
	}
	h.Kind = "smell"
	if _, _, err := modality.Detect(h); media.CodeOf(err) != media.Unsupported {
		t.Errorf("got %v", err)
	}
}

func TestRegister(t *testing.T) {
	names := modality.Names()
	if !slices.IsSorted(names) || !slices.Contains(names, "image") || !slices.Contains(names, "text") {
		t.Errorf("names %v", names)
	}
	for _, bad := range []string{"", "Image", "image", "a b"} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("registering %q did not panic", bad)
				}
			}()
			modality.Register(bad, modality.OpenText)
		}()
	}
	if _, err := modality.New("smell", nil); media.CodeOf(err) != media.Unsupported {
		t.Errorf("got %v", err)
	}
	infos := modality.Infos()
	if len(infos) != len(names) {
		t.Errorf("%d infos for %d names", len(infos), len(names))
	}
	for i, info := range infos {
		if info.Name != names[i] || !json.Valid(info.Options) {
			t.Errorf("info %d: %q, want %q", i, info.Name, names[i])
		}
	}
}

// TestOptions: every adapter refuses what its schema does not name, and takes an empty object.
func TestOptions(t *testing.T) {
	for _, name := range modality.Names() {
		for _, bad := range []string{`{"nonsense": 1}`, `[]`, `{`, `"x"`, `{} {}`} {
			if _, err := modality.New(name, json.RawMessage(bad)); media.CodeOf(err) != media.BadOptions {
				t.Errorf("%s: options %s: %v", name, bad, err)
			}
		}
		if _, err := modality.New(name, json.RawMessage(`{}`)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, c := range []struct{ name, bad string }{
		{"image", `{"patch": 0}`}, {"image", `{"bands": 0}`}, {"image", `{"resolution": [1]}`}, {"image", `{"resolution": [0, 0]}`},
		{"image", `{"preset": "x"}`}, {"image", `{"position": "x"}`}, {"image", `{"processor": {"size": 4}}`},
		{"text", `{"code": "x"}`}, {"text", `{"max_length": 1}`}, {"text", `{"max_length": -1}`}, {"text", `{"resolution": 0}`},
		{"fuse", `{"channels": -1}`}, {"fuse", `{"parts": [{"modality": "image", "options": {"patch": 0}}]}`},
	} {
		if _, err := modality.New(c.name, json.RawMessage(c.bad)); media.CodeOf(err) != media.BadOptions {
			t.Errorf("%s: options %s: %v", c.name, c.bad, err)
		}
	}
}

// pngOf is a PNG of w×h pixels whose red is x and green is y.
func pngOf(t testing.TB, w, h int) []byte {
	t.Helper()
	img := image.NewNRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			img.SetNRGBA(x, y, color.NRGBA{uint8(x), uint8(y), 7, 255})
		}
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestImageRows(t *testing.T) {
	a := open(t, "image", `{"patch": 2, "bands": 3, "processor": {"image_processor_type": "SiglipImageProcessor",
		"size": {"height": 4, "width": 6}, "do_rescale": false, "do_normalize": false}}`)
	array, err := a.Adapt(t.Context(), media.Bytes("x.png", pngOf(t, 6, 4)))
	if err != nil {
		t.Fatal(err)
	}
	m, c := array.Dims()
	if m != 6 || c != 12+14 {
		t.Fatalf("array %d×%d", m, c)
	}
	dst := tensor.New(1, c)
	if err := array.Read(dst, 4, 5); err != nil { // the patch at row 1, column 1
		t.Fatal(err)
	}
	want := []float32{2, 2, 7, 3, 2, 7, 2, 3, 7, 3, 3, 7}
	if !slices.Equal(dst.Data[:12], want) {
		t.Errorf("patch %v, want %v", dst.Data[:12], want)
	}
	if dst.Data[12] != 1 || dst.Data[13] != 0 { // of two rows the second, of three columns the middle
		t.Errorf("position %v", dst.Data[12:14])
	}
	content := tensor.New(6, 12)
	if err := array.ReadContent(content, 0, 6); err != nil || !slices.Equal(content.Row(4), want) {
		t.Errorf("content %v, %v", content.Row(4), err)
	}
	if n, g := array.Split(); n != 12 || g == nil || !slices.Equal(g.Dims(), []int{2, 3}) {
		t.Error("no grid")
	}
}

func TestFuse(t *testing.T) {
	one := &modality.Array{Content: modality.Values{Data: []float32{1, 2, 3, 4}, C: 2}, Notes: []string{"cut"}}
	two := &modality.Array{Content: modality.Values{Data: []float32{5, 6, 7}, C: 1}}
	a, err := modality.Fuse(4, modality.Member{Name: "one", Array: one, Padding: []float32{8, 9}}, modality.Member{Name: "two", Array: two})
	if err != nil {
		t.Fatal(err)
	}
	dst := tensor.New(5, 4)
	if err := a.Read(dst, 0, 5); err != nil {
		t.Fatal(err)
	}
	want := []float32{1, 2, 8, 9, 3, 4, 8, 9, 5, 0, 0, 0, 6, 0, 0, 0, 7, 0, 0, 0}
	if !slices.Equal(dst.Data, want) {
		t.Errorf("rows %v", dst.Data)
	}
	part := tensor.New(3, 4)
	if err := a.Read(part, 1, 4); err != nil || !slices.Equal(part.Data, want[4:16]) {
		t.Errorf("rows 1 to 3: %v, %v", part.Data, err)
	}
	if len(a.Spans) != 2 || a.Spans[1] != (modality.Span{Name: "two", From: 2, To: 5}) || a.Notes[0] != "one: cut" {
		t.Errorf("spans %v, notes %v", a.Spans, a.Notes)
	}
	for name, m := range map[string]modality.Member{
		"too wide":      {Array: &modality.Array{Content: modality.Values{Data: make([]float32, 9), C: 9}}},
		"wrong padding": {Array: two, Padding: []float32{1}},
	} {
		if _, err := modality.Fuse(4, m); media.CodeOf(err) != media.BadOptions {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := modality.Fuse(4); media.CodeOf(err) != media.Empty {
		t.Errorf("nothing: %v", err)
	}
}

func TestForward(t *testing.T) {
	a := &modality.Array{Content: modality.Values{Data: []float32{1, 2, 3}, C: 1}, Forward: true}
	dst := tensor.New(2, 1)
	if err := a.Read(dst, 0, 2); err != nil {
		t.Fatal(err)
	}
	if err := a.Read(dst, 0, 2); media.CodeOf(err) != media.NotReplayable {
		t.Errorf("got %v", err)
	}
}

// TestProbe: a report is the one JSON object of a plan.
func TestProbe(t *testing.T) {
	in := media.Bytes("x.png", pngOf(t, 60, 40))
	r := modality.Probe(t.Context(), in, modality.Probing{Decode: true})
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"file":"x.png"`, `"modality":"image"`, `"media_type":"image/png"`, `"width":60`, `"height":40`, `"rows":50176`,
		`"row_channels":261`, `"mean_rgb":[29.5,19.5,7]`, `"quadrant_mean_rgb":[[14.5,9.5,7],`, `"notes":["cropped from 60×40`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
	r = modality.Probe(t.Context(), media.Bytes("x.png", pngOf(t, 60, 40)[:50]), modality.Probing{})
	text, _ = json.Marshal(r)
	if !strings.Contains(string(text), `{"file":"x.png","error":{"code":"truncated"`) {
		t.Errorf("got %s", text)
	}
}

func TestProbeCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := modality.Probe(ctx, media.Bytes("x.png", pngOf(t, 60, 40)), modality.Probing{Decode: true})
	if r.Error == nil || r.Error.Code != media.Canceled {
		t.Errorf("got %+v", r.Error)
	}
}

// TestDirectory: a directory of pictures is a video.
func TestDirectory(t *testing.T) {
	dir := t.TempDir()
	for _, n := range []string{"1.png", "2.png"} {
		if err := os.WriteFile(filepath.Join(dir, n), pngOf(t, 60, 40), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	in, c, err := media.File(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	h, err := in.Header()
	if err != nil {
		t.Fatal(err)
	}
	if name, _, err := modality.Detect(h); name != "video" || err != nil {
		t.Errorf("got %q, %v", name, err)
	}
}

func Example() {
	in := media.Bytes("greeting.txt", []byte("hello"))
	a, _ := modality.New("text", nil)
	array, _ := a.Adapt(context.Background(), in)
	defer array.Close()
	m, c := array.Dims()
	block := tensor.New(2, c) // two rows at a time
	_ = array.Read(block, 0, 2)
	println(m, c)
}
