package pipeline_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/models"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// The default model's adapters make of files the very numbers that its recipe was trained on: a
// fault that leaves most answers right (another mean, mel scale or norm, lost normals) shows here.
// The reference case keeps what an adapter reads beside what it gives.
func TestDefaultModelPreprocessesAsTrained(t *testing.T) {
	text, err := fs.ReadFile(models.Default(), "model.json")
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Modalities map[string]struct {
			Adapter string
			Options json.RawMessage
			Input   struct{ Peak *float32 }
		}
	}
	if err := json.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join("..", "testdata", "native", "default", "inputs.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	src, err := weights.Parse("inputs.safetensors", b)
	if err != nil {
		t.Fatal(err)
	}
	load := func(name string) tensor.Tensor {
		raw, err := src.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		return raw.Tensor()
	}
	b, err = os.ReadFile(filepath.Join("..", "testdata", "native", "default", "case.json"))
	if err != nil {
		t.Fatal(err)
	}
	var said struct {
		Inputs map[string]struct{ Note string }
	}
	if err := json.Unmarshal(b, &said); err != nil {
		t.Fatal(err)
	}
	tried := map[string]int{}
	for name := range src.Names() {
		parts := strings.Split(name, ".")
		if parts[0] == "text" { // its note is the text
			m := config.Modalities["text"]
			adapter, err := modality.New(m.Adapter, m.Options)
			if err != nil {
				t.Fatal(err)
			}
			got, want := adapted(t, adapter, "a.txt", []byte(said.Inputs[name].Note)), load(name).Data
			if !slices.Equal(got, want) {
				t.Errorf("%s: %v, want %v", name, got, want)
			}
			tried["text"]++
		}
		if len(parts) != 3 {
			continue
		}
		write, ok := map[string]func(tensor.Tensor) (string, []byte){"pixels": writePixels, "pcm": writePCM, "points": writePoints}[parts[2]]
		if !ok {
			t.Errorf("%s: nothing known that reads it", name)
			continue
		}
		m := config.Modalities[parts[0]]
		adapter, err := modality.New(m.Adapter, m.Options)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) {
			file, data := write(load(name))
			got := adapted(t, adapter, file, data)
			want := load(parts[0] + "." + parts[1]).Data
			if m.Input.Peak != nil {
				toPeak(got, *m.Input.Peak)
				toPeak(want, *m.Input.Peak)
			}
			if len(got) != len(want) {
				t.Fatalf("%d values, want %d", len(got), len(want))
			}
			worst := 0.0
			for i := range got {
				worst = max(worst, math.Abs(float64(got[i]-want[i])))
			}
			if !(worst < 2e-4) {
				t.Errorf("worst difference %.3g", worst)
			}
		})
		tried[parts[0]]++
	}
	for _, medium := range []string{"image", "audio", "pointcloud", "text"} {
		if tried[medium] < 2 {
			t.Errorf("%d inputs of %s with what they were read from, want 2", tried[medium], medium)
		}
	}
}

// adapted are the values that an adapter makes of a file.
func adapted(t *testing.T, adapter modality.Adapter, name string, data []byte) []float32 {
	t.Helper()
	array, err := adapter.Adapt(t.Context(), media.Bytes(name, data))
	if err != nil {
		t.Fatal(err)
	}
	defer array.Close()
	m, c := array.Dims()
	x := tensor.New(m, c)
	if err := array.Read(x, 0, m); err != nil {
		t.Fatal(err)
	}
	return x.Data
}

// toPeak moves values so that the largest is peak.
func toPeak(x []float32, peak float32) {
	shift := peak - slices.Max(x)
	for i := range x {
		x[i] += shift
	}
}

// writePixels writes H×W×3 bytes as PNG.
func writePixels(x tensor.Tensor) (string, []byte) {
	h, w := x.Dim(0), x.Dim(1)
	p := image.NewNRGBA(image.Rect(0, 0, w, h))
	for i := range h * w {
		c := x.Data[3*i : 3*i+3]
		p.SetNRGBA(i%w, i/w, color.NRGBA{uint8(c[0]), uint8(c[1]), uint8(c[2]), 255})
	}
	var b bytes.Buffer
	if err := png.Encode(&b, p); err != nil {
		panic(err) // to memory
	}
	return "a.png", b.Bytes()
}

// writePCM writes 16 kHz mono samples as a WAV file of float32.
func writePCM(x tensor.Tensor) (string, []byte) {
	const rate = 16000
	le, n := binary.LittleEndian, uint32(4*len(x.Data))
	b := le.AppendUint32([]byte("RIFF"), 36+n)
	b = le.AppendUint32(append(b, "WAVEfmt "...), 16)
	b = le.AppendUint16(le.AppendUint16(b, 3), 1)
	b = le.AppendUint32(le.AppendUint32(b, rate), 4*rate)
	b = le.AppendUint16(le.AppendUint16(b, 4), 32)
	b = le.AppendUint32(append(b, "data"...), n)
	for _, v := range x.Data {
		b = le.AppendUint32(b, math.Float32bits(v))
	}
	return "a.wav", b
}

// writePoints writes rows of x y z, normals if there are nine columns, and colours of 0..255 if
// there are more than three, as PLY.
func writePoints(x tensor.Tensor) (string, []byte) {
	m, c := x.Dim(0), x.Dim(1)
	names := []string{"float x", "float y", "float z"}
	if c == 9 {
		names = append(names, "float nx", "float ny", "float nz")
	}
	if c > 3 {
		names = append(names, "uchar red", "uchar green", "uchar blue")
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "ply\nformat ascii 1.0\nelement vertex %d\n", m)
	for _, n := range names {
		fmt.Fprintf(&b, "property %s\n", n)
	}
	b.WriteString("end_header\n")
	for i := range m {
		fmt.Fprintln(&b, strings.Trim(fmt.Sprint(x.Row(i)), "[]"))
	}
	return "a.ply", b.Bytes()
}
