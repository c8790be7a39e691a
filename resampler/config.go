package resampler

import (
	"cmp"
	"encoding/json"
	"fmt"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/internal/nn"
)

// Kind names a published resampler.
type Kind string

// The published resamplers.
const (
	OpenFlamingo Kind = "openflamingo"
	Lucidrains   Kind = "lucidrains"
	Idefics      Kind = "idefics"
	Idefics2     Kind = "idefics2"
	IPAdapter    Kind = "ip_adapter"
	QwenVL       Kind = "qwen_vl"
	MiniCPMV     Kind = "minicpmv"
)

// Config is one resampler's sizes. Only the fields a Kind reads need be set.
type Config struct {
	Kind    Kind
	In      int // width of the media tokens
	Width   int // width of the latents inside the blocks
	Out     int // width of the latents that leave; equals Width except for IPAdapter
	Latents int // learned latents (queries); MeanPooled ones come on top
	Depth   int
	Heads   int
	KVHeads int // 0 means Heads
	HeadDim int
	Hidden  int        // feed-forward width
	Act     kernel.Act // feed-forward activation
	Eps     float32

	QKNorm     bool // Idefics: LayerNorm on the queries and keys of each head
	MaxFrames  int  // OpenFlamingo: rows of frame_embs, 0 for none
	MaxMedia   int  // OpenFlamingo, Lucidrains: rows of the media position table, 0 for none
	Projection int  // Idefics2: hidden width of the modality projection
	Positions  int  // IPAdapter: rows of pos_emb, 0 for none
	MeanPooled int  // IPAdapter: latents made from the mean of the tokens
	MaxGrid    int  // MiniCPMV: side of the position table kept ready (70 published)
}

// SoftTokens reports whether the latents can stand in a language model's input sequence.
// The others are keys and values of cross-attention layers.
func (c Config) SoftTokens() bool {
	return c.Kind == Idefics2 || c.Kind == QwenVL || c.Kind == MiniCPMV
}

// Count is the number of latents per picture.
func (c Config) Count() int { return c.Latents + c.MeanPooled }

// Prefix is where the published checkpoints keep the parameters; empty for the root.
func (c Config) Prefix() string {
	switch c.Kind {
	case OpenFlamingo:
		return "perceiver"
	case Idefics:
		return "model.perceiver_resampler"
	case Idefics2:
		return "model.connector"
	case IPAdapter:
		return "image_proj"
	case MiniCPMV:
		return "resampler"
	}
	return ""
}

// published is the union of the fields that published configurations use.
type published struct {
	ModelType      string  `json:"model_type"`
	Dim            int     `json:"dim"`
	Depth          int     `json:"depth"`
	DimHead        int     `json:"dim_head"`
	Heads          int     `json:"heads"`
	NumLatents     int     `json:"num_latents"`
	MaxNumMedia    *int    `json:"max_num_media"`
	MaxNumFrames   *int    `json:"max_num_frames"`
	NumMediaEmbeds *int    `json:"num_media_embeds"`
	FFMult         int     `json:"ff_mult"`
	Eps            float32 `json:"layer_norm_eps"`

	HiddenSize int `json:"hidden_size"` // MiniCPM-V
	QueryNum   int `json:"query_num"`

	NumQueries    int  `json:"num_queries"`
	EmbeddingDim  int  `json:"embedding_dim"`
	OutputDim     int  `json:"output_dim"`
	MaxSeqLen     int  `json:"max_seq_len"`
	ApplyPosEmb   bool `json:"apply_pos_emb"`
	NumMeanPooled int  `json:"num_latents_mean_pooled"`

	GridSize int   `json:"grid_size"`
	EmbedDim int   `json:"embed_dim"`
	NumHeads int   `json:"num_heads"`
	KVDim    int   `json:"kv_dim"`
	MaxSize  []int `json:"max_size"`

	Vision struct {
		EmbedDim   int `json:"embed_dim"`
		HiddenSize int `json:"hidden_size"`
	} `json:"vision_config"`
	Text struct {
		HiddenSize       int     `json:"hidden_size"`
		IntermediateSize int     `json:"intermediate_size"`
		RMSNormEps       float32 `json:"rms_norm_eps"`
		HiddenAct        string  `json:"hidden_act"`
	} `json:"text_config"`
	Perceiver struct {
		Dim        int     `json:"dim"`
		Depth      int     `json:"depth"`
		DimHead    int     `json:"dim_head"`
		Heads      int     `json:"heads"`
		NumLatents int     `json:"num_latents"`
		FFMult     int     `json:"ff_mult"`
		MaxMedia   *int    `json:"max_num_media"`
		MaxFrames  *int    `json:"max_num_frames"`
		Eps        float32 `json:"layer_norm_eps"`
	} `json:"perceiver"`
	PerceiverConfig struct {
		QKNorms   bool   `json:"qk_layer_norms_perceiver"`
		Depth     int    `json:"resampler_depth"`
		HeadDim   int    `json:"resampler_head_dim"`
		Heads     int    `json:"resampler_n_heads"`
		Latents   int    `json:"resampler_n_latents"`
		KVHeads   int    `json:"num_key_value_heads"`
		HiddenAct string `json:"hidden_act"`
	} `json:"perceiver_config"`
}

// ParseConfig reads the resampler's part of a published config.json, or the small file that
// stands in where the published layout has none, by its model_type.
func ParseConfig(data []byte) (Config, error) {
	var p published
	if err := json.Unmarshal(data, &p); err != nil {
		return Config{}, fmt.Errorf("resampler: config: %w", err)
	}
	c, err := p.config()
	if err != nil {
		return Config{}, err
	}
	return c, c.validate()
}

func (p published) config() (Config, error) {
	switch p.ModelType {
	case "openflamingo":
		q := p.Perceiver
		p.Dim, p.Depth, p.DimHead, p.Heads, p.NumLatents, p.FFMult = q.Dim, q.Depth, q.DimHead, q.Heads, q.NumLatents, q.FFMult
		p.MaxNumMedia, p.MaxNumFrames, p.Eps = q.MaxMedia, q.MaxFrames, q.Eps
		if p.Dim == 0 {
			p.Dim = p.Vision.HiddenSize
		}
		return p.flamingo(OpenFlamingo), nil
	case "openflamingo_perceiver_resampler":
		return p.flamingo(OpenFlamingo), nil
	case "lucidrains_flamingo_perceiver_resampler":
		c := p.flamingo(Lucidrains)
		c.MaxMedia = nn.Stated(p.NumMediaEmbeds, 4)
		return c, nil
	case "idefics":
		return p.idefics(), nil
	case "idefics2":
		return p.idefics2()
	case "ip_adapter_plus_resampler":
		return p.ipAdapter(), nil
	case "qwen_vl_style_resampler":
		c := p.pool(QwenVL)
		c.Latents = p.GridSize * p.GridSize
		return c, nil
	case "minicpmv": // a whole MiniCPM-V: heads are 128 wide
		p.EmbedDim, p.KVDim, p.NumQueries = p.HiddenSize, p.Vision.HiddenSize, cmp.Or(p.QueryNum, 64)
		c := p.pool(MiniCPMV)
		c.Latents, c.MaxGrid, c.Eps = p.NumQueries, 70, 1e-6
		return c, nil
	case "minicpmv_resampler":
		c := p.pool(MiniCPMV)
		c.Latents, c.MaxGrid = p.NumQueries, 70
		if len(p.MaxSize) > 0 {
			c.MaxGrid = max(p.MaxSize[0], p.MaxSize[len(p.MaxSize)-1])
		}
		return c, nil
	}
	return Config{}, fmt.Errorf("resampler: config: no resampler is known for model_type %q", p.ModelType)
}

// flamingo fills what the references of OpenFlamingo and lucidrains share; their defaults
// are depth 6, 8 heads of 64, 64 latents.
func (p published) flamingo(k Kind) Config {
	c := Config{
		Kind: k, In: p.Dim, Width: p.Dim, Out: p.Dim,
		Latents: cmp.Or(p.NumLatents, 64), Depth: cmp.Or(p.Depth, 6), Heads: cmp.Or(p.Heads, 8), HeadDim: cmp.Or(p.DimHead, 64),
		Hidden: p.Dim * cmp.Or(p.FFMult, 4), Act: kernel.GELU, Eps: cmp.Or(p.Eps, 1e-5),
		MaxFrames: nn.Stated(p.MaxNumFrames, 0), MaxMedia: nn.Stated(p.MaxNumMedia, 0),
	}
	return c
}

func (p published) idefics() Config {
	q, dim := p.PerceiverConfig, p.Vision.EmbedDim
	return Config{
		Kind: Idefics, In: dim, Width: dim, Out: dim,
		Latents: cmp.Or(q.Latents, 64), Depth: cmp.Or(q.Depth, 6), Heads: cmp.Or(q.Heads, 16), HeadDim: cmp.Or(q.HeadDim, 96),
		Hidden: dim * 4, Act: kernel.ReLU, Eps: 1e-5, QKNorm: q.QKNorms,
	}
}

func (p published) idefics2() (Config, error) {
	q, dim := p.PerceiverConfig, p.Text.HiddenSize
	if dim == 0 {
		dim = 4096
	}
	text, err := nn.ParseAct(cmp.Or(p.Text.HiddenAct, "silu"))
	if err != nil {
		return Config{}, err
	}
	act, err := nn.ParseAct(cmp.Or(q.HiddenAct, "silu"))
	if err != nil {
		return Config{}, err
	}
	if text != act {
		return Config{}, fmt.Errorf("resampler: config: idefics2 with text activation %q and resampler activation %q", p.Text.HiddenAct, q.HiddenAct)
	}
	return Config{
		Kind: Idefics2, In: cmp.Or(p.Vision.HiddenSize, 1152), Width: dim, Out: dim,
		Latents: cmp.Or(q.Latents, 64), Depth: cmp.Or(q.Depth, 3), Heads: cmp.Or(q.Heads, 16), KVHeads: cmp.Or(q.KVHeads, 4),
		HeadDim: cmp.Or(q.HeadDim, 96), Hidden: 4 * dim, Act: act, Eps: cmp.Or(p.Text.RMSNormEps, 1e-5),
		Projection: cmp.Or(p.Text.IntermediateSize, 14336),
	}, nil
}

func (p published) ipAdapter() Config {
	c := Config{
		Kind: IPAdapter, In: cmp.Or(p.EmbeddingDim, 768), Width: cmp.Or(p.Dim, 1024), Out: cmp.Or(p.OutputDim, 1024),
		Latents: cmp.Or(p.NumQueries, 8), Depth: cmp.Or(p.Depth, 8), Heads: cmp.Or(p.Heads, 16), HeadDim: cmp.Or(p.DimHead, 64),
		Act: kernel.GELU, Eps: cmp.Or(p.Eps, 1e-5), MeanPooled: p.NumMeanPooled,
	}
	c.Hidden = c.Width * cmp.Or(p.FFMult, 4)
	if p.ApplyPosEmb {
		c.Positions = cmp.Or(p.MaxSeqLen, 257)
	}
	return c
}

func (p published) pool(k Kind) Config {
	c := Config{
		Kind: k, In: cmp.Or(p.KVDim, p.EmbedDim), Width: p.EmbedDim, Out: p.EmbedDim,
		Depth: 1, Heads: cmp.Or(p.NumHeads, p.EmbedDim/128), Eps: cmp.Or(p.Eps, 1e-6),
	}
	if c.Heads > 0 {
		c.HeadDim = c.Width / c.Heads
	}
	return c
}

// maxSize bounds every size of a configuration: far above anything published, and small
// enough that products of two stay exact.
const maxSize = 1 << 20

func (c Config) validate() error {
	for _, f := range []struct {
		name     string
		v, least int
	}{
		{"token width", c.In, 1}, {"width", c.Width, 1}, {"output width", c.Out, 1}, {"latents", c.Latents, 1},
		{"depth", c.Depth, 1}, {"heads", c.Heads, 1}, {"head width", c.HeadDim, 1}, {"feed-forward width", c.Hidden, 0},
		{"frame embeddings", c.MaxFrames, 0}, {"media embeddings", c.MaxMedia, 0}, {"positions", c.Positions, 0},
		{"mean-pooled latents", c.MeanPooled, 0}, {"key heads", c.KVHeads, 0}, {"position grid", c.MaxGrid, 0},
		{"projection width", c.Projection, 0},
	} {
		if f.v < f.least || f.v > maxSize {
			return fmt.Errorf("resampler: config: %s of %s: want %d to %d, got %d", f.name, c.Kind, f.least, maxSize, f.v)
		}
	}
	if c.KVHeads > 0 && c.Heads%c.KVHeads != 0 {
		return fmt.Errorf("resampler: config: %d heads do not divide over %d key heads", c.Heads, c.KVHeads)
	}
	if c.Kind == QwenVL || c.Kind == MiniCPMV {
		if c.Width%c.Heads != 0 || c.Width%4 != 0 {
			return fmt.Errorf("resampler: config: width %d of %s must divide by %d heads and by 4", c.Width, c.Kind, c.Heads)
		}
	}
	return nil
}
