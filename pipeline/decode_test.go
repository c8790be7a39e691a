package pipeline_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"image"
	"image/color/palette"
	"image/gif"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/models"
	"github.com/mmserve/mmserve/pipeline"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// openReference opens a model of the reference cases, with random weights where it stores none.
func openReference(t *testing.T, name string) pipeline.LatentDecoder {
	t.Helper()
	m, err := pipeline.Open(t.Context(), filepath.Join("..", "testdata", "reference", name), pipeline.Options{Random: strings.Contains(name, "seeded")})
	if err != nil {
		t.Fatal(err)
	}
	return m.(pipeline.LatentDecoder)
}

// film is an animation of n frames.
func film(t *testing.T, n, side int) pipeline.Part {
	t.Helper()
	var g gif.GIF
	for k := range n {
		img := image.NewPaletted(image.Rect(0, 0, side, side), palette.WebSafe)
		for i := range img.Pix {
			img.Pix[i] = uint8((i*3 + 11*k) % len(palette.WebSafe))
		}
		g.Image, g.Delay = append(g.Image, img), append(g.Delay, 4)
	}
	var b bytes.Buffer
	if err := gif.EncodeAll(&b, &g); err != nil {
		t.Fatal(err)
	}
	return pipeline.Part{Input: media.Bytes("film.gif", b.Bytes()), Modality: "video"}
}

// npyPart is an array of small numbers.
func npyPart(t *testing.T, shape ...int) pipeline.Part {
	t.Helper()
	var b bytes.Buffer
	if err := weights.WriteNPY(&b, ramp(shape...), weights.F32); err != nil {
		t.Fatal(err)
	}
	return pipeline.Part{Input: media.Bytes("a.npy", b.Bytes())}
}

// ramp holds numbers between −1 and 1.
func ramp(shape ...int) tensor.Tensor {
	t := tensor.New(shape...)
	for i := range t.Data {
		t.Data[i] = float32(i*37%101)/50 - 1
	}
	return t
}

// latentsOf encodes an item.
func latentsOf(t *testing.T, m pipeline.Model, it pipeline.Item) pipeline.Item {
	t.Helper()
	enc, err := m.Encode(t.Context(), it, pipeline.EncodeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	it.Latents = enc.Latents
	return it
}

// sameAnswer fails unless two predictions are the same bits, but for their plans and notes.
func sameAnswer(t *testing.T, got, want *pipeline.Prediction) {
	t.Helper()
	words := func(p pipeline.Prediction) string {
		p.Plan, p.Notes = pipeline.Plan{}, nil
		b, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if g, w := words(*got), words(*want); g != w {
		t.Errorf("decoded\n%.400s\npredicted\n%.400s", g, w)
	}
	tensors := func(p *pipeline.Prediction) (all []tensor.Tensor) {
		if p.Flow != nil {
			all = append(all, p.Flow.Field)
		}
		if r := p.Reconstruction; r != nil {
			all = append(all, r.Frames, r.Audio)
		}
		return all
	}
	g, w := tensors(got), tensors(want)
	if len(g) != len(w) {
		t.Fatalf("%d tensors, want %d", len(g), len(w))
	}
	for i := range g {
		sameBits(t, g[i], w[i])
	}
}

func sameBits(t *testing.T, got, want tensor.Tensor) {
	t.Helper()
	if !slices.Equal(got.Shape, want.Shape) {
		t.Fatalf("shape %v, want %v", got.Shape, want.Shape)
	}
	for i := range want.Data {
		if math.Float32bits(got.Data[i]) != math.Float32bits(want.Data[i]) {
			t.Fatalf("value %d: %v, want %v", i, got.Data[i], want.Data[i])
		}
	}
}

// What a model answers from latents is what it answers from the medium, bit for bit.
func TestDecodeEqualsPredict(t *testing.T) {
	text := pipeline.TextPart
	for _, c := range []struct {
		model string
		parts []pipeline.Part
		keeps bool // the decoder's queries are made of the medium
	}{
		{"perceiver/image_fourier", []pipeline.Part{drawn(t, 30, 20)}, false},
		{"perceiver/image_conv_q_mask", []pipeline.Part{drawn(t, 30, 20)}, false},
		{"perceiver-seeded/image_learned", []pipeline.Part{drawn(t, 30, 20)}, false},
		{"perceiver/seqcls_blocks3_q", []pipeline.Part{text("abc")}, false},
		{"perceiver/mlm_language", []pipeline.Part{text("a[MASK]c[MASK]")}, true},
		{"perceiver-original/no_fourier_1d_mask", []pipeline.Part{npyPart(t, 9, 13)}, false},
		{"perceiver-original/tied_3d_mask", []pipeline.Part{npyPart(t, 3, 4, 5, 2)}, false},
		{"perceiver-seeded/flow", []pipeline.Part{drawn(t, 8, 6), drawn(t, 8, 6)}, true},
		{"perceiver-seeded/flow_q_wide", []pipeline.Part{drawn(t, 7, 5), drawn(t, 7, 5)}, true},
		{"perceiver-seeded/multimodal", []pipeline.Part{film(t, 2, 16)}, false},
	} {
		t.Run(c.model, func(t *testing.T) {
			m := openReference(t, c.model)
			it := pipeline.Item{Parts: c.parts}
			want, err := m.Predict(t.Context(), it, pipeline.PredictOptions{Top: 3})
			if err != nil {
				t.Fatal(err)
			}
			it = latentsOf(t, m, it)
			if !c.keeps {
				it.Parts = nil
			}
			opt := pipeline.DecodeOptions{Top: 3}
			plan, err := m.PlanDecode(t.Context(), it, opt)
			if err != nil {
				t.Fatal(err)
			}
			if whole := want.Plan.FLOPs; plan.FLOPs <= 0 || plan.FLOPs >= whole || plan.Modality != "latents" {
				t.Errorf("plan %+v, the whole costs %g", plan, whole)
			}
			got, err := m.Decode(t.Context(), it, opt)
			if err != nil {
				t.Fatal(err)
			}
			sameAnswer(t, got.Prediction, want)
			if slices.Contains(m.Info().Decodes, pipeline.OutputLogits) {
				opt.Outputs = []string{pipeline.OutputLogits}
				if got, err = m.Decode(t.Context(), it, opt); err != nil {
					t.Fatal(err)
				}
				sameBits(t, got.Logits, want.Logits)
				if got.Prediction.Classes != nil || got.Prediction.Masks != nil || got.Prediction.Reconstruction != nil {
					t.Error("logits alone were asked for")
				}
			}
		})
	}
}

// The default model's heads, words, vectors and soft tokens from the latents of its four media.
func TestDefaultDecodes(t *testing.T) {
	m := openDefault(t).(pipeline.LatentDecoder)
	seen := map[string]bool{}
	for _, s := range defaultSamples(t) {
		if seen[s.Modality] {
			continue
		}
		seen[s.Modality] = true
		t.Run(s.Modality, func(t *testing.T) {
			it := pipeline.Item{Parts: []pipeline.Part{{Input: media.Bytes(s.File, s.read(t)), Modality: s.Modality}}}
			want, err := m.Predict(t.Context(), it, pipeline.PredictOptions{Caption: true})
			if err != nil {
				t.Fatal(err)
			}
			enc, err := m.Encode(t.Context(), it, pipeline.EncodeOptions{Outputs: []string{"latents", "pooled", "soft_tokens"}})
			if err != nil {
				t.Fatal(err)
			}
			var outputs []string
			for _, h := range want.Heads {
				outputs = append(outputs, h.Task)
			}
			if want.Caption != "" {
				outputs = append(outputs, pipeline.OutputCaption)
			}
			outputs = append(outputs, pipeline.OutputPooled, pipeline.OutputSoftTokens)
			got, err := m.Decode(t.Context(), pipeline.Item{Latents: enc.Latents}, pipeline.DecodeOptions{Outputs: outputs})
			if err != nil {
				t.Fatal(err)
			}
			sameAnswer(t, got.Prediction, want)
			sameBits(t, got.Pooled, enc.Pooled)
			sameBits(t, got.SoftTokens, enc.SoftTokens)
		})
	}
	if len(seen) < 4 {
		t.Errorf("media %v", seen)
	}
}

// Masked bytes are asked with the text's rows: latents and text give what the text gives, in every
// arithmetic.
func TestDefaultDecodesMasks(t *testing.T) {
	for _, dtype := range []string{"f32", "bf16", "int8"} {
		t.Run(dtype, func(t *testing.T) { decodeMasks(t, dtype) })
	}
}

func decodeMasks(t *testing.T, dtype string) {
	model, err := pipeline.OpenFS(t.Context(), models.Default(), pipeline.Options{DType: dtype})
	if err != nil {
		t.Fatal(err)
	}
	m := model.(pipeline.LatentDecoder)
	it := pipeline.Item{Parts: []pipeline.Part{pipeline.TextPart("set an al[MASK]rm for se[MASK]en")}}
	want, err := m.Predict(t.Context(), it, pipeline.PredictOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(want.Masks) != 2 {
		t.Fatalf("masks %v", want.Masks)
	}
	got, err := m.Decode(t.Context(), latentsOf(t, m, it), pipeline.DecodeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	sameAnswer(t, got.Prediction, want)
}

// Positions of a fill-mask model and points of an autoencoder are parts of the whole answer.
func TestDecodeParts(t *testing.T) {
	mlm := openReference(t, "perceiver/mlm_language")
	it := latentsOf(t, mlm, pipeline.Item{Parts: []pipeline.Part{pipeline.TextPart("a[MASK]c[MASK]")}})
	it.Parts = nil
	decode := func(m pipeline.LatentDecoder, it pipeline.Item, opt pipeline.DecodeOptions) *pipeline.Decoding {
		t.Helper()
		d, err := m.Decode(t.Context(), it, opt)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	all := decode(mlm, it, pipeline.DecodeOptions{Outputs: []string{"logits"}}).Logits
	some := decode(mlm, it, pipeline.DecodeOptions{Positions: []int{4, 2}, Outputs: []string{"masks", "logits"}})
	for i, p := range []int{4, 2} {
		sameBits(t, some.Logits.At(i), all.At(p))
		if some.Prediction.Masks[i].Position != p || some.Prediction.Text != "" {
			t.Errorf("mask %d: %+v", i, some.Prediction)
		}
	}

	auto := openReference(t, "perceiver-seeded/multimodal")
	it = latentsOf(t, auto, pipeline.Item{Parts: []pipeline.Part{film(t, 2, 16)}})
	it.Parts = nil
	whole := decode(auto, it, pipeline.DecodeOptions{}).Prediction.Reconstruction
	points := map[string][]int{"image": {300, 0, 511}, "audio": {3}}
	few := decode(auto, it, pipeline.DecodeOptions{Outputs: []string{"frames", "audio"}, Points: points}).Prediction
	if few.Classes != nil {
		t.Error("classes were not asked for")
	}
	for i, p := range points["image"] {
		sameBits(t, few.Reconstruction.Frames.At(i), tensor.Of(whole.Frames.Data[3*p:3*p+3], 3))
	}
	sameBits(t, few.Reconstruction.Audio, tensor.Of(whole.Audio.Data[3*8:4*8], 8))
	sound := decode(auto, it, pipeline.DecodeOptions{Outputs: []string{"audio"}}).Prediction.Reconstruction
	sameBits(t, sound.Audio, whole.Audio)
	if sound.Frames.Data != nil || sound.FrameShape != nil {
		t.Error("frames were not asked for")
	}
}

// Queries of one's own are answered in every decoder, each as if it were alone.
func TestDecodeAnswersQueries(t *testing.T) {
	for model, width := range map[string]int{
		"perceiver/image_fourier": 0, "perceiver/seqcls_blocks3_q": 0, "perceiver/mlm_language": 0,
		"perceiver-seeded/flow": 2, "perceiver-seeded/multimodal": 0, "": 0,
	} {
		t.Run(model, func(t *testing.T) {
			var m pipeline.LatentDecoder
			if model == "" {
				m = openDefault(t).(pipeline.LatentDecoder)
			} else {
				m = openReference(t, model)
			}
			info := m.Info()
			it := pipeline.Item{Latents: ramp(info.Latents, info.LatentDim)}
			queries := ramp(5, info.QueryDim)
			all, err := m.Decode(t.Context(), it, pipeline.DecodeOptions{Queries: queries})
			if err != nil {
				t.Fatal(err)
			}
			if width > 0 && all.Answers.Cols() != width || all.Answers.Dim(0) != 5 {
				t.Errorf("answers %v", all.Answers.Shape)
			}
			for i := range 5 {
				one, err := m.Decode(t.Context(), it, pipeline.DecodeOptions{Queries: queries.Slice(i, i+1)})
				if err != nil {
					t.Fatal(err)
				}
				sameBits(t, one.Answers, all.Answers.Slice(i, i+1))
			}
		})
	}
}

// What does not fit is refused before anything is run, and says what would fit.
func TestDecodeRefuses(t *testing.T) {
	nan := func(t tensor.Tensor) tensor.Tensor { t.Data[len(t.Data)-1] = float32(math.NaN()); return t }
	text := []pipeline.Part{pipeline.TextPart("a[MASK]")}
	for _, c := range []struct {
		name, model string
		it          pipeline.Item
		opt         pipeline.DecodeOptions
		is          error
		says        string
	}{
		{"no latents", "perceiver/image_fourier", pipeline.Item{}, pipeline.DecodeOptions{}, pipeline.ErrInput, "want [6 32]"},
		{"shape", "perceiver/image_fourier", pipeline.Item{Latents: ramp(6, 31)}, pipeline.DecodeOptions{}, pipeline.ErrInput, "latents [6 31], want [6 32]"},
		{"nan", "perceiver/image_fourier", pipeline.Item{Latents: nan(ramp(6, 32))}, pipeline.DecodeOptions{}, pipeline.ErrInput, "NaN"},
		{"content", "perceiver/image_fourier", pipeline.Item{Latents: ramp(6, 32), Parts: text}, pipeline.DecodeOptions{}, pipeline.ErrInput, "latents are enough"},
		{"output", "perceiver/image_fourier", pipeline.Item{Latents: ramp(6, 32)}, pipeline.DecodeOptions{Outputs: []string{"flow"}}, pipeline.ErrNoTask, "classes, logits, answers"},
		{"output twice", "perceiver/image_fourier", pipeline.Item{Latents: ramp(6, 32)}, pipeline.DecodeOptions{Outputs: []string{"logits", "logits"}}, pipeline.ErrInput, "named twice"},
		{"many outputs", "perceiver/image_fourier", pipeline.Item{Latents: ramp(6, 32)}, pipeline.DecodeOptions{Outputs: slices.Repeat([]string{"logits"}, 4)}, pipeline.ErrInput, "4 outputs"},
		{"no queries", "perceiver/image_fourier", pipeline.Item{Latents: ramp(6, 32)}, pipeline.DecodeOptions{Outputs: []string{"answers"}}, pipeline.ErrInput, "both or neither"},
		{"unasked queries", "perceiver/image_fourier", pipeline.Item{Latents: ramp(6, 32)}, pipeline.DecodeOptions{Outputs: []string{"classes"}, Queries: ramp(1, 32)}, pipeline.ErrInput, "both or neither"},
		{"query width", "perceiver/image_fourier", pipeline.Item{Latents: ramp(6, 32)}, pipeline.DecodeOptions{Queries: ramp(4, 31)}, pipeline.ErrInput, "queries [4 31], want O×32"},
		{"query nan", "perceiver/image_fourier", pipeline.Item{Latents: ramp(6, 32)}, pipeline.DecodeOptions{Queries: nan(ramp(4, 32))}, pipeline.ErrInput, "queries: a value"},
		{"query of none", "perceiver-original/tied_3d_mask", pipeline.Item{Latents: ramp(6, 24)}, pipeline.DecodeOptions{Queries: ramp(4, 24)}, pipeline.ErrNoTask, "no decoder for queries"},
		{"positions elsewhere", "perceiver/image_fourier", pipeline.Item{Latents: ramp(6, 32)}, pipeline.DecodeOptions{Positions: []int{1}}, pipeline.ErrInput, "fill-mask"},
		{"points elsewhere", "perceiver/image_fourier", pipeline.Item{Latents: ramp(6, 32)}, pipeline.DecodeOptions{Points: map[string][]int{}}, pipeline.ErrInput, "autoencoders"},
		{"no positions", "perceiver/mlm_language", pipeline.Item{Latents: ramp(8, 32)}, pipeline.DecodeOptions{}, pipeline.ErrInput, "give positions"},
		{"position", "perceiver/mlm_language", pipeline.Item{Latents: ramp(8, 32)}, pipeline.DecodeOptions{Positions: []int{20}}, pipeline.ErrInput, "position 20, want 0 to 19"},
		{"position beyond the text", "perceiver/mlm_language", pipeline.Item{Latents: ramp(8, 32), Parts: text}, pipeline.DecodeOptions{Positions: []int{9}}, pipeline.ErrInput, "position 9"},
		{"many positions", "perceiver/mlm_language", pipeline.Item{Latents: ramp(8, 32)}, pipeline.DecodeOptions{Positions: make([]int, 21)}, pipeline.ErrInput, "21 positions"},
		{"flow alone", "perceiver-seeded/flow", pipeline.Item{Latents: ramp(7, 32)}, pipeline.DecodeOptions{}, pipeline.ErrInput, "give the two pictures"},
		{"flow of tiles", "perceiver-seeded/flow", pipeline.Item{Latents: ramp(7, 32), Parts: []pipeline.Part{drawn(t, 20, 20), drawn(t, 20, 20)}}, pipeline.DecodeOptions{}, pipeline.ErrInput, "of one tile"},
		{"point", "perceiver-seeded/multimodal", pipeline.Item{Latents: ramp(7, 32)}, pipeline.DecodeOptions{Points: map[string][]int{"audio": {-1}}}, pipeline.ErrInput, "audio point -1"},
		{"point kind", "perceiver-seeded/multimodal", pipeline.Item{Latents: ramp(7, 32)}, pipeline.DecodeOptions{Points: map[string][]int{"smell": {1}}}, pipeline.ErrInput, "smell"},
		{"many points", "perceiver-seeded/multimodal", pipeline.Item{Latents: ramp(7, 32)}, pipeline.DecodeOptions{Points: map[string][]int{"image": make([]int, 513)}}, pipeline.ErrInput, "at most 512"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := openReference(t, c.model)
			for _, err := range []error{
				func() error { _, err := m.PlanDecode(t.Context(), c.it, c.opt); return err }(),
				func() error { _, err := m.Decode(t.Context(), c.it, c.opt); return err }(),
			} {
				if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
					t.Errorf("%v, want %q", err, c.says)
				}
			}
		})
	}
	m := openDefault(t).(pipeline.LatentDecoder)
	info := m.Info()
	it := pipeline.Item{Latents: ramp(info.Latents, info.LatentDim)}
	head := info.Decodes[slices.IndexFunc(info.Decodes, func(s string) bool { return strings.Contains(s, "byte") || strings.Contains(s, "mask") })]
	if _, err := m.PlanDecode(t.Context(), it, pipeline.DecodeOptions{Outputs: []string{head}}); !errors.Is(err, pipeline.ErrInput) || !strings.Contains(err.Error(), "give the text") {
		t.Error(err)
	}
	it.Parts = []pipeline.Part{drawn(t, 20, 20)}
	if _, err := m.PlanDecode(t.Context(), it, pipeline.DecodeOptions{}); !errors.Is(err, pipeline.ErrInput) || !strings.Contains(err.Error(), "only a text") {
		t.Error(err)
	}
}

// A file of latents is divided into at most as many items as the reader takes, whatever its header says.
func TestReadLatents(t *testing.T) {
	file := func(shape ...int) []byte {
		t.Helper()
		var b bytes.Buffer
		if err := weights.WriteNPY(&b, tensor.New(shape...), weights.F16); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	if f, err := pipeline.ReadLatents(file(3, 2, 5), 3); err != nil || len(f.Latents) != 3 || !slices.Equal(f.Latents[2].Shape, []int{2, 5}) {
		t.Errorf("%+v, %v", f, err)
	}
	for _, shape := range [][]int{{4, 2, 5}, {1 << 30, 0, 5}, {1 << 16, 1, 1}} {
		if _, err := pipeline.ReadLatents(file(shape...), 3); media.CodeOf(err) != media.TooLarge {
			t.Errorf("%v: %v", shape, err)
		}
	}
	var b bytes.Buffer
	many := map[string]tensor.Tensor{"latents": ramp(2, 5), "10.latents": ramp(2, 5), "2.latents": ramp(2, 5), "-1.latents": ramp(2, 5), "2.pooled": ramp(5)}
	if err := weights.WriteSafetensors(&b, many, weights.F32, map[string]string{"model_digest": "sha256:12"}); err != nil {
		t.Fatal(err)
	}
	f, err := pipeline.ReadLatents(b.Bytes(), 3)
	if err != nil || !slices.Equal(f.Names, []string{"", "2", "10"}) || f.Digest != "sha256:12" {
		t.Errorf("%+v, %v", f, err)
	}
	if _, err := pipeline.ReadLatents(b.Bytes(), 2); media.CodeOf(err) != media.TooLarge {
		t.Error(err)
	}
}
