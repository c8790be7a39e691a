package conditioned

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/mmserve/mmserve/flamingo"
	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/resampler"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/vision"
	"github.com/mmserve/mmserve/weights"
)

// Model is a loaded picture-conditioned language model. It never changes and is safe for
// concurrent use.
type Model struct {
	Tower     *vision.Tower
	Features  vision.Features
	Resampler *resampler.Resampler // nil when the tower's tokens are the latents
	LM        *flamingo.Model      // nil when only the picture side was asked for
}

// Sources are where the weights come from.
type Sources struct {
	// Model is the checkpoint; of an OpenFlamingo model the released one.
	Model weights.Source
	// Lang is the base language model of an OpenFlamingo model.
	Lang weights.Source
	// Vision is the tower of an OpenFlamingo model, with Hugging Face names (CLIPVisionModel)
	// or open_clip's ("visual.*").
	Vision weights.Source
}

// Options tune loading. The zero value loads all of the model in float32 arithmetic; weights
// of the language model that are stored in 16 bits stay so in memory, to the same bits.
type Options struct {
	DType kernel.DType // arithmetic of the linear layers, for Load; New goes by its scope
	// PictureOnly leaves the language model out: Encode works and LM is nil.
	PictureOnly bool
}

// Load reads the model that a published config.json describes (model_type openflamingo,
// idefics, idefics2 or minicpmv), or that of a small file where nothing is published: openflamingo (see
// flamingo.ParseConfig) and ip_adapter_plus (see IPAdapterConfig).
func Load(config []byte, from Sources, o Options) (*Model, error) {
	src, err := Join(config, from, o)
	if err != nil {
		return nil, err
	}
	return weights.Bind(src, func(s weights.Scope) (*Model, error) { return New(s, config, o) }, weights.Options{DType: o.DType})
}

// New reads the model from a source that Join made.
func New(s weights.Scope, config []byte, o Options) (*Model, error) {
	c, err := parse(config)
	if err != nil {
		return nil, err
	}
	return build(s, c, o)
}

// configs is a configuration taken apart. tower and lang are the places of those parts within
// the joined source.
type configs struct {
	kind          string
	towerAt, lang string
	tower         vision.Config
	resampler     resampler.Config
	lm            *flamingo.Config // nil for a model without one
	bare          bool             // no resampler
}

func parse(config []byte) (configs, error) {
	var p struct {
		ModelType    string `json:"model_type"`
		UseResampler *bool  `json:"use_resampler"`
		DropLast     bool   `json:"drop_vision_last_layer"` // MiniCPM-V
	}
	if err := json.Unmarshal(config, &p); err != nil {
		return configs{}, fmt.Errorf("conditioned: config: %w", err)
	}
	c := configs{kind: p.ModelType, bare: p.ModelType == "idefics" && p.UseResampler != nil && !*p.UseResampler}
	switch p.ModelType {
	case "openflamingo":
		c.towerAt, c.lang = "vision_encoder", "lang_encoder"
	case "idefics":
		c.towerAt = "model"
	case "idefics2":
		c.towerAt, c.lang = "model", "lang"
	case "minicpmv":
		c.towerAt, c.lang = "tower", "llm"
	case "ip_adapter_plus":
		return c, c.ipAdapter(config)
	default:
		return c, fmt.Errorf("conditioned: no picture-conditioned language model is known for model_type %q", p.ModelType)
	}
	var err error
	if c.tower, err = vision.ParseConfig(config); err != nil {
		return c, err
	}
	if p.DropLast && p.ModelType == "minicpmv" && c.tower.Layers > 1 {
		c.tower.Layers--
	}
	if c.resampler, err = resampler.ParseConfig(config); err != nil {
		return c, err
	}
	lm, err := flamingo.ParseConfig(config)
	if err != nil {
		return c, err
	}
	c.lm = &lm
	return c, c.fit()
}

// fit compares the widths at which the parts meet.
func (c configs) fit() error {
	if c.tower.Width != c.resampler.In {
		return fmt.Errorf("conditioned: the vision tower gives tokens of width %d, the resampler takes %d", c.tower.Width, c.resampler.In)
	}
	if c.lm == nil {
		return nil
	}
	if x := c.lm.Cross; x != nil && c.resampler.Out != x.Media {
		return fmt.Errorf("conditioned: the resampler gives latents of width %d, the cross-attention takes %d", c.resampler.Out, x.Media)
	}
	if c.lm.Cross == nil && c.resampler.Out != c.lm.Width {
		return fmt.Errorf("conditioned: the resampler gives soft tokens of width %d, the language model's hidden size is %d", c.resampler.Out, c.lm.Width)
	}
	return nil
}

// Join puts the sources of a model under one set of names.
func Join(config []byte, from Sources, o Options) (weights.Source, error) {
	if from.Model == nil {
		return nil, fmt.Errorf("conditioned: no checkpoint")
	}
	c, err := parse(config)
	if err != nil {
		return nil, err
	}
	switch c.kind {
	case "openflamingo":
		if from.Vision == nil || from.Lang == nil && !o.PictureOnly {
			return nil, fmt.Errorf("conditioned: an OpenFlamingo model takes three sources: checkpoint, base language model and vision tower")
		}
		if from.Lang == nil {
			from.Lang = weights.Memory{}
		}
		return flamingo.Assemble(from.Model, from.Lang, clipNames(from.Vision), *c.lm)
	case "idefics2":
		return weights.Rename(from.Model, func(name string) string {
			if rest, ok := strings.CutPrefix(name, "model.text_model."); ok {
				return "lang.model." + rest
			}
			if strings.HasPrefix(name, "lm_head.") {
				return "lang." + name
			}
			return name
		}), nil
	case "minicpmv":
		return weights.Rename(from.Model, func(name string) string {
			if rest, ok := strings.CutPrefix(name, "vpm."); ok {
				return "tower.vision_model." + rest
			}
			return name
		}), nil
	case "ip_adapter_plus":
		if from.Vision == nil {
			return nil, fmt.Errorf("conditioned: an IP-Adapter takes two sources: adapter and image encoder")
		}
		return weights.Merge(map[string]weights.Source{"": from.Model, c.towerAt + ".": clipNames(from.Vision)}), nil
	}
	return from.Model, nil
}

// clipNames gives an open_clip tower Hugging Face names.
func clipNames(src weights.Source) weights.Source {
	for n := range src.Names() {
		if strings.HasPrefix(n, "visual.") {
			return vision.OpenCLIP(src)
		}
	}
	return src
}

func build(s weights.Scope, c configs, o Options) (*Model, error) {
	m := &Model{}
	var err error
	tower := s.At(c.towerAt)
	if tower.Has("vision_model.encoder.layers.0.self_attn.in_proj_weight") {
		c.tower.Fused, c.tower.Projection = true, 0
		tower.Ignore("vision_model.proj") // tokens are taken, not the projection
	}
	if m.Tower, err = vision.New(tower, c.tower); err != nil {
		return nil, err
	}
	switch c.resampler.Kind {
	case resampler.OpenFlamingo:
		m.Features.DropClass = true
		tower.Ignore("visual_projection.weight")
	case resampler.IPAdapter:
		m.Features.Skip = 1
		tower.Ignore("visual_projection.weight")
		s.Ignore("ip_adapter.*") // the UNet's side
	}
	if !c.bare {
		if m.Resampler, err = resampler.New(s.At(c.resampler.Prefix()), c.resampler); err != nil {
			return nil, err
		}
	}
	if c.lm == nil {
		return m, nil
	}
	if o.PictureOnly {
		if c.lang != "" {
			s.Ignore(c.lang + ".*")
		}
		s.Ignore("lm_head.*", "model.layers.*", "model.gated_cross_attn_layers.*", "model.embed_tokens.*", "model.norm.*")
		return m, nil
	}
	m.LM, err = flamingo.New(s.At(c.lang), *c.lm)
	return m, err
}

// Pictures is a batch of prepared pictures.
type Pictures struct {
	Pixels tensor.Tensor // P·Frames×H×W×3, normalised
	Frames int           // of one picture; 0 means 1
	// Masks marks the real patches of each picture, for towers of native aspect ratio.
	Masks [][]bool
}

// Encode returns the latents of pictures as scratch, P×n×W: what the language model looks at,
// or takes in place of its image tokens.
func (m *Model) Encode(a *tensor.Arena, p Pictures) (tensor.Tensor, error) {
	tokens, err := m.tokens(a, p)
	if err != nil {
		return tensor.Tensor{}, err
	}
	return m.resample(a, tokens, p)
}

// tokens runs the tower, one row of frames a picture.
func (m *Model) tokens(a *tensor.Arena, p Pictures) (tensor.Tensor, error) {
	if f := max(p.Frames, 1); len(p.Pixels.Shape) != 4 || p.Pixels.Dim(0)%f != 0 {
		return tensor.Tensor{}, fmt.Errorf("conditioned: pictures of shape %v in %d frames", p.Pixels.Shape, f)
	}
	return m.Tower.Forward(a, vision.Input{Pixels: p.Pixels, Masks: p.Masks}, m.Features)
}

func (m *Model) resample(a *tensor.Arena, tokens tensor.Tensor, p Pictures) (tensor.Tensor, error) {
	if m.Resampler == nil {
		return tokens, nil
	}
	f := max(p.Frames, 1)
	n := tokens.Dim(0) / f
	in := resampler.Input{X: tensor.Of(tokens.Data, n, f*tokens.Dim(1), tokens.Dim(2)), Frames: p.Frames, Mask: p.Masks}
	if m.Resampler.Config.Kind == resampler.MiniCPMV {
		c := m.Tower.Config
		for range n {
			in.Sizes = append(in.Sizes, [2]int{p.Pixels.Dim(1) / c.Patch, p.Pixels.Dim(2) / c.Patch})
		}
	}
	for i := range n {
		in.Media = append(in.Media, i)
	}
	return m.Resampler.Forward(a, in)
}

// Prompt puts tokens and the latents of Encode together as the language model takes them.
// The latents are copied.
func (m *Model) Prompt(tokens []int, latents tensor.Tensor) flamingo.Prompt {
	p := flamingo.Prompt{Tokens: tokens}
	switch {
	case latents.Data == nil:
	case m.LM.Config.Cross != nil:
		p.Media = latents.Clone()
	default:
		p.Soft = latents.Clone().Reshape(latents.Rows(), latents.Cols())
	}
	return p
}
