package pipeline

import (
	"bytes"
	"image"
	"image/png"
	"testing"
	"testing/fstest"

	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/tensor"
)

// What a plan says of memory covers the rows, which admission goes by.
func TestNativePlanCountsRows(t *testing.T) {
	const config = `{
  "format": "mmserve/1", "model_type": "mmserve", "name": "wide", "row_channels": 64,
  "modalities": {
    "photo": {"adapter": "image", "options": {"processor": {"image_processor_type": "PerceiverImageProcessor",
        "size": {"height": 200, "width": 200}, "crop_size": {"height": 200, "width": 200}}, "position": "none"},
      "input": {"axes": ["y", "x"], "channels": 3},
      "stem": [{"out": 24, "kernel": [3, 3], "stride": [1, 1], "padding": [1, 1], "activation": "relu", "max_pool": [2, 2]},
               {"out": 24, "kernel": [3, 3], "stride": [1, 1], "padding": [1, 1], "activation": "gelu"}],
      "position": {"kind": "none"}},
    "words": {"adapter": "text", "options": {"code": "id", "position": "none"}, "input": {"axes": ["byte"], "channels": 1},
      "embedding": {"rows": 262, "channels": 60}, "position": {"kind": "none"}}
  },
  "encoder": {"num_latents": 4, "d_latents": 16, "d_model": 64, "num_blocks": 1, "num_self_attends_per_block": 1,
              "num_self_attention_heads": 2, "num_cross_attention_heads": 2},
  "decoder": {"num_heads": 2, "widening_factor": 1},
  "heads": {"kind": {"kind": "classes", "modalities": ["photo", "words"], "labels": ["a", "b"]}}
}`
	opened, err := OpenFS(t.Context(), fstest.MapFS{"model.json": {Data: []byte(config)}}, Options{Random: true})
	if err != nil {
		t.Fatal(err)
	}
	m := opened.(*nativeModel)
	var file bytes.Buffer
	if err := png.Encode(&file, image.NewNRGBA(image.Rect(0, 0, 200, 200))); err != nil {
		t.Fatal(err)
	}
	photo := Part{Input: media.Bytes("", file.Bytes())}
	words := Part{Input: media.Bytes("", bytes.Repeat([]byte("a word "), 4000)), Modality: "text"}
	for name, c := range map[string]struct {
		parts []Part
		rows  int64
	}{
		"a photo": {[]Part{photo}, 100 * 100},
		"words":   {[]Part{words}, 28000},
		"both":    {[]Part{photo, words}, 38000},
	} {
		t.Run(name, func(t *testing.T) {
			plan, err := m.Plan(t.Context(), Item{Parts: c.parts})
			if err != nil {
				t.Fatal(err)
			}
			parts, err := m.parts(t.Context(), Item{Parts: c.parts})
			if err != nil {
				t.Fatal(err)
			}
			adapters := int64(0)
			for _, p := range parts {
				adapters += p.cost.DecodedBytes
			}
			var a tensor.Arena
			if _, err := m.read(t.Context(), &a, Item{Parts: c.parts}); err != nil {
				t.Fatal(err)
			}
			const scratch = 4 << 20 // of a convolution, and what is left over in slabs
			// Parts use each other's scratch, which the plan does not know.
			said, held := plan.DecodedBytes-adapters, int64(a.Bytes())
			if said < 4*64*c.rows || said < held-scratch || said > 2*held {
				t.Errorf("planned %d bytes for %d rows, reading them held %d", said, c.rows, held)
			}
		})
	}
}
