package vision

import (
	"cmp"
	"encoding/json"
	"fmt"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/internal/nn"
)

// Kind names a family of towers.
type Kind string

// The families.
const (
	CLIP     Kind = "clip"
	SigLIP   Kind = "siglip"
	Idefics2 Kind = "idefics2" // SigLIP with a patch mask and bucketised positions
)

// Config is one tower's sizes.
type Config struct {
	Kind     Kind
	Width    int
	Hidden   int // feed-forward width
	Layers   int
	Heads    int
	Image    int // side of the square the positions cover, in pixels
	Patch    int // side of a patch, in pixels
	Channels int
	Act      kernel.Act
	Eps      float32

	// Projection is the width of the pooled output of a CLIP tower with a projection, 0 for
	// a tower without one.
	Projection int
	// Head says that a SigLIP tower has its attention-pooling head.
	Head bool
	// Fused says that queries, keys and values are one weight (open_clip).
	Fused bool
}

// Side is the number of patches along the side of the position grid.
func (c Config) Side() int { return c.Image / c.Patch }

// Tokens is the number of tokens of one full-size picture, the class token included.
func (c Config) Tokens() int {
	n := c.Side() * c.Side()
	if c.Kind == CLIP {
		n++
	}
	return n
}

// published is the union of the fields that published configurations use.
type published struct {
	ModelType     string          `json:"model_type"`
	Architectures []string        `json:"architectures"`
	VisionConfig  json.RawMessage `json:"vision_config"`

	HiddenSize int     `json:"hidden_size"`
	EmbedDim   int     `json:"embed_dim"` // Idefics v1's word for hidden_size
	Hidden     int     `json:"intermediate_size"`
	Layers     int     `json:"num_hidden_layers"`
	Heads      int     `json:"num_attention_heads"`
	Image      int     `json:"image_size"`
	Patch      int     `json:"patch_size"`
	Channels   int     `json:"num_channels"`
	Act        string  `json:"hidden_act"`
	Eps        float32 `json:"layer_norm_eps"`
	Projection int     `json:"projection_dim"`
	UseHead    *bool   `json:"vision_use_head"`

	// open_clip
	Width     int     `json:"width"`
	OCLayers  int     `json:"layers"`
	OCHeads   int     `json:"heads"`
	HeadWidth int     `json:"head_width"`
	MLPRatio  float64 `json:"mlp_ratio"`
	OutputDim int     `json:"output_dim"`
	QuickGELU bool    `json:"quick_gelu"`
}

// ParseConfig reads the tower's part of a published config.json: a tower's own file, or the
// vision_config of a model that contains one.
func ParseConfig(data []byte) (Config, error) {
	var p published
	if err := json.Unmarshal(data, &p); err != nil {
		return Config{}, fmt.Errorf("vision: config: %w", err)
	}
	outer := p.ModelType
	if len(p.VisionConfig) > 0 {
		inner := published{}
		if err := json.Unmarshal(p.VisionConfig, &inner); err != nil {
			return Config{}, fmt.Errorf("vision: config: vision_config: %w", err)
		}
		p = inner
	}
	c, err := p.config(outer)
	if err != nil {
		return Config{}, err
	}
	return c, c.validate()
}

// config reads p, found in a file whose model_type is outer.
func (p published) config(outer string) (Config, error) {
	switch outer {
	case "clip_vision_model", "clip", "openflamingo":
		c, err := p.huggingFace(CLIP, "quick_gelu", 1e-5, 768, 3072, 12, 12, 224, 32)
		for _, a := range p.Architectures {
			if a == "CLIPVisionModelWithProjection" {
				c.Projection = cmp.Or(p.Projection, 512)
			}
		}
		return c, err
	case "idefics":
		p.HiddenSize = cmp.Or(p.HiddenSize, p.EmbedDim)
		return p.huggingFace(CLIP, "gelu", 1e-5, 768, 5120, 32, 16, 224, 14)
	case "siglip_vision_model", "siglip":
		c, err := p.huggingFace(SigLIP, "gelu_pytorch_tanh", 1e-6, 768, 3072, 12, 12, 224, 16)
		c.Head = p.UseHead == nil || *p.UseHead
		return c, err
	case "idefics2":
		return p.huggingFace(Idefics2, "gelu_pytorch_tanh", 1e-6, 768, 3072, 12, 12, 224, 32)
	case "minicpmv": // SigLIP at native aspect ratio, as Idefics2's
		return p.huggingFace(Idefics2, "gelu_pytorch_tanh", 1e-6, 1152, 4304, 27, 16, 980, 14)
	case "open_clip_vision":
		return p.openCLIP(), nil
	}
	return Config{}, fmt.Errorf("vision: config: no tower is known for model_type %q", outer)
}

// huggingFace fills in the defaults of the configuration classes in transformers.
func (p published) huggingFace(k Kind, act string, eps float32, width, hidden, layers, heads, image, patch int) (Config, error) {
	if p.Act != "" {
		act = p.Act
	}
	if p.Eps != 0 {
		eps = p.Eps
	}
	f, err := nn.ParseAct(act)
	if err != nil {
		return Config{}, fmt.Errorf("vision: config: %w", err)
	}
	return Config{
		Kind: k, Width: cmp.Or(p.HiddenSize, width), Hidden: cmp.Or(p.Hidden, hidden), Layers: cmp.Or(p.Layers, layers),
		Heads: cmp.Or(p.Heads, heads), Image: cmp.Or(p.Image, image), Patch: cmp.Or(p.Patch, patch), Channels: cmp.Or(p.Channels, 3),
		Act: f, Eps: eps,
	}, nil
}

// openCLIP reads open_clip's own words; its towers end in a projection.
func (p published) openCLIP() Config {
	c := Config{
		Kind: CLIP, Width: p.Width, Layers: cmp.Or(p.OCLayers, p.Layers), Heads: p.OCHeads,
		Image: p.Image, Patch: p.Patch, Channels: cmp.Or(p.Channels, 3), Act: kernel.GELU, Eps: p.Eps,
		Projection: p.OutputDim, Fused: true,
	}
	if c.Heads == 0 {
		c.Heads = p.Width / cmp.Or(p.HeadWidth, 64)
	}
	ratio := p.MLPRatio
	if ratio == 0 {
		ratio = 4
	}
	c.Hidden = int(float64(p.Width) * ratio)
	if p.QuickGELU {
		c.Act = kernel.QuickGELU
	}
	if c.Eps == 0 {
		c.Eps = 1e-5
	}
	return c
}

// maxSize bounds every size of a configuration, far above anything published.
const maxSize = 1 << 16

func (c Config) validate() error {
	for _, f := range []struct {
		name     string
		v, least int
	}{
		{"width", c.Width, 1}, {"feed-forward width", c.Hidden, 1}, {"layers", c.Layers, 1}, {"heads", c.Heads, 1},
		{"image size", c.Image, 1}, {"patch size", c.Patch, 1}, {"channels", c.Channels, 1}, {"projection", c.Projection, 0},
	} {
		if f.v < f.least || f.v > maxSize {
			return fmt.Errorf("vision: config: %s of %s: want %d to %d, got %d", f.name, c.Kind, f.least, maxSize, f.v)
		}
	}
	if c.Width%c.Heads != 0 {
		return fmt.Errorf("vision: config: width %d does not divide by %d heads", c.Width, c.Heads)
	}
	if c.Patch > c.Image {
		return fmt.Errorf("vision: config: patch of %d pixels in a picture of %d", c.Patch, c.Image)
	}
	return nil
}
