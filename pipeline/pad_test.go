package pipeline

import (
	"slices"
	"testing"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/modality/imagefile"
	"github.com/mmserve/mmserve/pipeline/conditioned"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/vision"
	"github.com/mmserve/mmserve/weights"
)

// TestPaddingIsLeftOut compares a picture given by its real patches with the same picture
// padded and masked, as the reference has it since transformers 4.45 (a patch that is part
// padding is masked): the tokens have the same bits.
func TestPaddingIsLeftOut(t *testing.T) {
	const patch = 8
	c := vision.Config{Kind: vision.Idefics2, Width: 16, Hidden: 32, Layers: 2, Heads: 2, Image: 56, Patch: patch, Channels: 3, Eps: 1e-6}
	tower, err := weights.Bind(weights.Seeded(), func(s weights.Scope) (*vision.Tower, error) { return vision.New(s, c) })
	if err != nil {
		t.Fatal(err)
	}
	p, err := modality.ParseImageProcessor([]byte(`{"image_processor_type": "SiglipImageProcessor"}`))
	if err != nil {
		t.Fatal(err)
	}
	m := &pictureModel{net: &conditioned.Model{Tower: tower}, processor: p}
	for _, s := range []struct{ h, w, padH, padW int }{
		{45, 31, 56, 56}, {56, 56, 56, 56}, {44, 56, 44, 56}, {8, 8, 56, 20}, {41, 17, 43, 56}, {9, 50, 56, 51},
	} {
		picture, filler := imagefile.NewRGB(s.w, s.h), imagefile.NewRGB(s.padW, s.padH)
		for i := range picture.Pix {
			picture.Pix[i] = uint8(i*i*31 + i)
		}
		padded := p.Normalise([]*imagefile.RGB{picture, filler})
		gh, gw := s.padH/patch, s.padW/patch
		mask := slices.Repeat([]bool{true}, gh*gw)
		for y := range gh * patch {
			for x := range gw * patch {
				if padded.Mask.At(0).Data[y*s.padW+x] == 0 {
					mask[y/patch*gw+x/patch] = false
				}
			}
		}
		var a, b tensor.Arena
		want, err := tower.Forward(&a, vision.Input{Pixels: vision.ChannelsLast(padded.Values.Slice(0, 1)), Masks: [][]bool{mask}}, vision.Features{})
		if err != nil {
			t.Fatal(err)
		}
		got, err := tower.Forward(&b, vision.Input{Pixels: m.pixels(picture)}, vision.Features{})
		if err != nil {
			t.Fatal(err)
		}
		var real []float32
		for i, on := range mask {
			if on {
				real = append(real, want.At(0).Row(i)...)
			}
		}
		if !slices.Equal(got.Data, real) {
			t.Errorf("%+v: %d tokens, want %d with the same bits", s, got.Dim(1), len(real)/c.Width)
		}
	}
}
