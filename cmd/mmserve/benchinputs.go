package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"math"
	"os"
	"strings"

	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/pipeline"
)

// benchInput is a file made up for measuring.
type benchInput struct {
	what, name string
	item       pipeline.Item
}

// benchInputs makes a photo, a second of sound and a cloud of 1,024 points.
func benchInputs() ([]benchInput, error) {
	photo, err := benchPhoto()
	if err != nil {
		return nil, err
	}
	item := func(name string, b []byte) pipeline.Item {
		return pipeline.Item{Parts: []pipeline.Part{{Input: media.Bytes(name, b)}}}
	}
	return []benchInput{
		{"one photo (JPEG, 500×375)", "photo", item("photo.jpg", photo)},
		{"one second of audio (WAV, 16 kHz)", "audio", item("sound.wav", benchSound())},
		{"1,024 points (PLY)", "points", item("cloud.ply", benchCloud())},
	}, nil
}

// benchPhoto is a JPEG with the detail of a photo: shades, edges and grain.
func benchPhoto() ([]byte, error) {
	img := image.NewRGBA(image.Rect(0, 0, 500, 375))
	for y := range 375 {
		for x := range 500 {
			fx, fy := float64(x)/500, float64(y)/375
			grain := float64((x*7919+y*104729)%13) - 6
			shade := 120 + 70*math.Sin(6*fx+3*fy) + grain
			if math.Hypot(fx-0.5, fy-0.5) < 0.3 {
				shade = 200 - 90*fy + grain
			}
			img.Set(x, y, color.RGBA{uint8(shade), uint8(0.8 * shade), uint8(255 - shade), 255})
		}
	}
	var b bytes.Buffer
	err := jpeg.Encode(&b, img, &jpeg.Options{Quality: 85})
	return b.Bytes(), err
}

// benchSound is one second of 16-bit mono WAV: a few partials that fade.
func benchSound() []byte {
	const rate = 16000
	data := make([]int16, rate)
	for i := range data {
		s := float64(i) / rate
		data[i] = int16(9000 * math.Exp(-2*s) * (math.Sin(2*math.Pi*440*s) + math.Sin(2*math.Pi*1170*s*(1+s))))
	}
	var b bytes.Buffer
	b.WriteString("RIFF")
	size := uint32(2 * len(data))
	for _, v := range []any{size + 36, []byte("WAVEfmt "), uint32(16), uint16(1), uint16(1), uint32(rate), uint32(2 * rate), uint16(2), uint16(16), []byte("data"), size, data} {
		binary.Write(&b, binary.LittleEndian, v) // into memory, of fixed-size values: it cannot fail
	}
	return b.Bytes()
}

// benchCloud is a PLY of 1,024 points on a bent surface.
func benchCloud() []byte {
	const n = 1024
	var b bytes.Buffer
	fmt.Fprintf(&b, "ply\nformat binary_little_endian 1.0\nelement vertex %d\nproperty float x\nproperty float y\nproperty float z\nend_header\n", n)
	for i := range n {
		u, v := float64(i%32)/31, float64(i/32)/31
		binary.Write(&b, binary.LittleEndian, []float32{float32(math.Cos(5 * u)), float32(v), float32(math.Sin(5*u) * (1 + v/3))})
	}
	return b.Bytes()
}

// processorName is the processor's own name where the system tells it.
func processorName() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for line := range strings.Lines(string(b)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				return strings.TrimSpace(value)
			}
		}
	}
	return "unknown processor"
}
