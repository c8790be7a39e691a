package pipeline_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/pipeline"
)

// imu is a medium of one's own: lines of six numbers become rows.
type imu struct{}

func init() {
	modality.Register("test_imu", func(json.RawMessage) (modality.Adapter, error) { return imu{}, nil })
}

func (imu) Info() modality.Info {
	return modality.Info{Name: "test_imu", Extensions: []string{".imu"}, Options: json.RawMessage(`{"type":"object"}`), Channels: 6, Content: 6, Position: "none"}
}

func (imu) Plan(_ context.Context, h modality.Header) (modality.Cost, error) {
	return modality.Cost{Modality: "test_imu", Rows: bytes.Count(h.Head, []byte("\n")), RowChannels: 6}, nil
}

func (a imu) Adapt(ctx context.Context, in modality.Input) (*modality.Array, error) {
	h, err := in.Header()
	if err != nil {
		return nil, err
	}
	var values []float32
	for _, f := range strings.Fields(string(h.Head)) {
		v, err := strconv.ParseFloat(f, 32)
		if err != nil {
			return nil, media.Wrap(err, media.Malformed, "imu")
		}
		values = append(values, float32(v))
	}
	cost, err := a.Plan(ctx, h)
	return &modality.Array{Content: modality.Values{Data: values, C: 6}, Cost: cost}, err
}

// composition is image + IMU: two media, one encoder, a class head, an embedding, a resampler.
const composition = `{
  "format": "mmserve/1", "model_type": "mmserve", "name": "image+imu", "row_channels": 40,
  "modalities": {
    "image": {
      "adapter": "image",
      "options": {"processor": {"image_processor_type": "PerceiverImageProcessor", "size": {"height": 12, "width": 12}, "crop_size": {"height": 12, "width": 12}}, "position": "none"},
      "input": {"axes": ["y", "x"], "channels": 3},
      "stem": [{"out": 8, "kernel": [3, 3], "stride": [1, 1], "padding": [1, 1], "activation": "relu", "max_pool": [2, 2]},
               {"out": 8, "kernel": [3, 3], "stride": [1, 1], "padding": [1, 1], "activation": "gelu", "residual": true}],
      "position": {"kind": "fourier", "bands": 3, "max_resolution": [6, 6]}
    },
    "test_imu": {
      "adapter": "test_imu",
      "input": {"axes": ["time"], "channels": 6},
      "stem": [{"out": 10, "kernel": [5], "stride": [2], "padding": [2], "activation": "relu"}],
      "position": {"kind": "learned", "rows": 64, "channels": 4}
    }
  },
  "encoder": {"num_latents": 5, "d_latents": 24, "d_model": 40, "num_blocks": 2, "num_self_attends_per_block": 1,
              "num_self_attention_heads": 4, "num_cross_attention_heads": 2},
  "decoder": {"num_heads": 2, "widening_factor": 1, "hidden_act": "gelu", "use_query_residual": true},
  "heads": {
    "activity": {"kind": "classes", "modalities": ["test_imu"], "labels": ["rest", "walk", "run"]},
    "scene": {"kind": "classes", "modalities": ["image"], "labels": ["in", "out"]},
    "space": {"kind": "embedding", "dim": 6, "modalities": ["image", "test_imu"]}
  },
  "resampler": {"kind": "openflamingo", "dim": 24, "depth": 1, "heads": 2, "dim_head": 8, "num_latents": 3, "ff_mult": 2}
}`

func openComposition(t *testing.T, text string) (pipeline.Model, error) {
	t.Helper()
	return pipeline.OpenFS(t.Context(), fstest.MapFS{"model.json": {Data: []byte(text)}}, pipeline.Options{Random: true})
}

func picture(t *testing.T) pipeline.Part {
	t.Helper()
	img := image.NewNRGBA(image.Rect(0, 0, 17, 14))
	for i := range 17 * 14 {
		img.SetNRGBA(i%17, i/17, color.NRGBA{uint8(i), uint8(3 * i), uint8(7 * i), 255})
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	return pipeline.Part{Input: media.Bytes("a.png", b.Bytes())}
}

func movement(n int) pipeline.Part {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%d %d 0.5 -1 %d 2\n", i%3, i%5, i%2)
	}
	return pipeline.Part{Input: media.Bytes("a.imu", []byte(b.String())), Modality: "test_imu"}
}

func TestCompositionOfOnesOwn(t *testing.T) {
	m, err := openComposition(t, composition)
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Info().Modalities; !slices.Equal(got, []string{"image", "test_imu"}) {
		t.Fatalf("modalities %v", got)
	}
	for name, c := range map[string]struct {
		parts []pipeline.Part
		rows  int
		heads []string
	}{
		"picture":  {[]pipeline.Part{picture(t)}, 36, []string{"scene"}},
		"movement": {[]pipeline.Part{movement(21)}, 11, []string{"activity"}},
		"both":     {[]pipeline.Part{picture(t), movement(20)}, 46, []string{"activity", "scene"}},
	} {
		t.Run(name, func(t *testing.T) {
			it := pipeline.Item{Parts: c.parts}
			plan, err := m.Plan(t.Context(), it)
			if err != nil || plan.Rows != c.rows || plan.RowChannels != 40 || plan.FLOPs <= 0 {
				t.Fatalf("plan %+v, %v", plan, err)
			}
			enc, err := m.Encode(t.Context(), it, pipeline.EncodeOptions{Outputs: []string{"all", pipeline.OutputAttention}, Latent: -1})
			if err != nil {
				t.Fatal(err)
			}
			for what, shape := range map[string][2][]int{
				"latents": {enc.Latents.Shape, {5, 24}}, "byte array": {enc.ByteArray.Shape, {c.rows, 40}}, "pooled": {enc.Pooled.Shape, {6}},
				"soft tokens": {enc.SoftTokens.Shape, {3, 24}}, "attention": {enc.Attention.Shape, {c.rows}},
			} {
				if !slices.Equal(shape[0], shape[1]) {
					t.Errorf("%s %v, want %v", what, shape[0], shape[1])
				}
			}
			p, err := m.Predict(t.Context(), it, pipeline.PredictOptions{})
			if err != nil {
				t.Fatal(err)
			}
			var heads []string
			for _, h := range p.Heads {
				heads = append(heads, h.Task)
			}
			if !slices.Equal(heads, c.heads) {
				t.Errorf("heads %v, want %v", heads, c.heads)
			}
			again, err := m.Encode(t.Context(), it, pipeline.EncodeOptions{})
			if err != nil || !slices.Equal(again.Latents.Data, enc.Latents.Data) {
				t.Errorf("a second pass differs: %v", err)
			}
		})
	}
}

func TestCompositionFaultsAreNamed(t *testing.T) {
	for name, c := range map[string]struct{ old, new, says string }{
		"format":         {`"mmserve/1"`, `"mmserve/9"`, "format"},
		"unknown key":    {`"name":`, `"nmae": 1, "name":`, "nmae"},
		"narrow rows":    {`"row_channels": 40`, `"row_channels": 20`, "row_channels"},
		"unknown medium": {`"adapter": "test_imu"`, `"adapter": "smell"`, "smell"},
		"head's medium":  {`["test_imu"], "labels"`, `["taste"], "labels"`, "taste"},
		"head's kind":    {`"kind": "embedding"`, `"kind": "guess"`, "guess"},
		"position":       {`"kind": "learned"`, `"kind": "secret"`, "secret"},
		"residual":       {`"padding": [1, 1], "activation": "gelu"`, `"padding": [0, 0], "activation": "gelu"`, "residual"},
		"kernel axes":    {`"kernel": [5]`, `"kernel": [5, 5]`, "kernel"},
		"act":            {`"activation": "relu"}],`, `"activation": "rely"}],`, "rely"},
		"encoder":        {`"num_latents": 5`, `"num_latents": 0`, "num_latents"},
		"resampler":      {`"dim": 24, "depth"`, `"dim": 16, "depth"`, "dim"},
		"options":        {`"position": "none"},`, `"postion": "none"},`, "postion"},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(composition, c.old) {
				t.Fatalf("%q is not in the composition", c.old)
			}
			_, err := openComposition(t, strings.Replace(composition, c.old, c.new, 1))
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("error %v, want %q in it", err, c.says)
			}
		})
	}
}

func TestCompositionRefusesOtherMedia(t *testing.T) {
	m, err := openComposition(t, composition)
	if err != nil {
		t.Fatal(err)
	}
	for name, it := range map[string]pipeline.Item{
		"nothing":       {},
		"text":          {Parts: []pipeline.Part{pipeline.TextPart("words")}},
		"broken":        {Parts: []pipeline.Part{{Input: media.Bytes("a.png", []byte("\x89PNG\r\n\x1a\nno"))}}},
		"too much":      {Parts: []pipeline.Part{movement(400)}},
		"not a number":  {Parts: []pipeline.Part{{Input: media.Bytes("a.imu", []byte("1 2 3 4 5 x\n")), Modality: "test_imu"}}},
		"unknown media": {Parts: []pipeline.Part{{Input: media.Bytes("a", []byte("x")), Modality: "smell"}}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := m.Encode(t.Context(), it, pipeline.EncodeOptions{}); err == nil {
				t.Fatal("no error")
			}
		})
	}
}
