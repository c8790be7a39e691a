package main

import (
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/mmserve/mmserve/pipeline"
	"github.com/mmserve/mmserve/tensor"
)

// writeArtifacts writes what of a prediction is not text: flow to a .flo or .png file, a
// reconstruction to a directory of frame-NNN.png and audio.wav.
func writeArtifacts(e *env, path string, p *pipeline.Prediction) error {
	switch {
	case p.Flow != nil:
		write := pipeline.WriteFlo
		switch ext := strings.ToLower(filepath.Ext(path)); ext {
		case ".flo":
		case ".png":
			write = pipeline.WriteFlowPNG
		default:
			return usagef("-o %s: optical flow is written as .flo or .png", path)
		}
		return output(e, path, func(w io.Writer) error { return write(w, p.Flow.Field) })
	case p.Reconstruction != nil:
		return writeReconstruction(e, path, p.Reconstruction)
	}
	return usagef("-o: %s has no file output; use --json", p.Task)
}

func writeReconstruction(e *env, dir string, r *pipeline.Reconstruction) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if r.Frames.Data != nil {
		for i := range r.Frames.Dim(0) {
			name := filepath.Join(dir, fmt.Sprintf("frame-%03d.png", i))
			if err := output(e, name, func(w io.Writer) error { return png.Encode(w, picture(r.Frames.At(i))) }); err != nil {
				return err
			}
		}
	}
	if r.Audio.Data == nil {
		return nil
	}
	return output(e, filepath.Join(dir, "audio.wav"), func(w io.Writer) error {
		return pipeline.WriteWAV(w, r.Audio.Data, pipeline.AutoencoderRate)
	})
}

// picture turns H×W×3 values of about 0..1 into an image, clipped.
func picture(t tensor.Tensor) image.Image {
	h, w := t.Dim(0), t.Dim(1)
	img := image.NewNRGBA(image.Rect(0, 0, w, h))
	b := func(v float32) uint8 { return uint8(min(max(v, 0), 1)*255 + 0.5) }
	for i := range h * w {
		img.SetNRGBA(i%w, i/w, color.NRGBA{b(t.Data[3*i]), b(t.Data[3*i+1]), b(t.Data[3*i+2]), 255})
	}
	return img
}
