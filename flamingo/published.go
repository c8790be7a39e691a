package flamingo

import (
	"cmp"
	"encoding/json"
	"fmt"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/internal/nn"
)

// published is the union of the fields that published language model configurations use.
type published struct {
	ModelType string `json:"model_type"`
	Vocab     int    `json:"vocab_size"`
	Width     int    `json:"hidden_size"`
	Layers    int    `json:"num_hidden_layers"`
	Heads     int    `json:"num_attention_heads"`
	KVHeads   int    `json:"num_key_value_heads"`
	HeadDim   int    `json:"head_dim"`
	Hidden    int    `json:"intermediate_size"`
	Context   int    `json:"max_position_embeddings"`
	// Window is absent, null or a number, which mean different things.
	Window    json.RawMessage `json:"sliding_window"`
	UseWindow *bool           `json:"use_sliding_window"`
	Act       string          `json:"hidden_act"`
	LNEps     float32         `json:"layer_norm_eps"`
	RMSEps    float32         `json:"rms_norm_eps"`
	Tied      *bool           `json:"tie_word_embeddings"`
	AttnBias  *bool           `json:"attention_bias"`
	MLPBias   *bool           `json:"mlp_bias"`

	RotaryPct   *float64        `json:"rotary_pct"`
	RotaryBase  float64         `json:"rotary_emb_base"`
	RopeTheta   float64         `json:"rope_theta"`
	RopeScaling json.RawMessage `json:"rope_scaling"`
	// RopeParameters is what newer files call it, with the base inside.
	RopeParameters json.RawMessage `json:"rope_parameters"`
	Parallel       *bool           `json:"use_parallel_residual"`

	// MPT
	DModel    int     `json:"d_model"`
	NHeads    int     `json:"n_heads"`
	NLayers   int     `json:"n_layers"`
	Expansion float64 `json:"expansion_ratio"`
	MLPRatio  float64 `json:"mlp_ratio"` // MosaicGPT's word for it
	MaxSeq    int     `json:"max_seq_len"`
	NoBias    *bool   `json:"no_bias"`
	LNEpsilon float32 `json:"layer_norm_epsilon"`
	Attn      *struct {
		ALiBi   bool     `json:"alibi"`
		BiasMax float64  `json:"alibi_bias_max"`
		QKLN    bool     `json:"qk_ln"`
		Clip    *float32 `json:"clip_qkv"`
		Scale   *float32 `json:"softmax_scale"`
		Type    string   `json:"attn_type"`
		Rope    bool     `json:"rope"`
	} `json:"attn_config"`
	ALiBi   bool     `json:"alibi"` // MosaicGPT keeps these at the top
	BiasMax float64  `json:"alibi_bias_max"`
	QKLN    bool     `json:"attn_qk_ln"`
	Clip    *float32 `json:"attn_clip_qkv"`
	Scale   *float32 `json:"softmax_scale"`
	// LogitScale multiplies MosaicGPT's logits in files that no published model has.
	LogitScale json.RawMessage `json:"logit_scale"`
	LearnedPos *bool           `json:"learned_pos_emb"`

	// OPT
	FFNDim     int    `json:"ffn_dim"`
	ActFn      string `json:"activation_function"`
	NormBefore *bool  `json:"do_layer_norm_before"`
	Embed      int    `json:"word_embed_proj_dim"`
	NoFinal    bool   `json:"_remove_final_layer_norm"`
	HasBias    *bool  `json:"enable_bias"`
	Affine     *bool  `json:"layer_norm_elementwise_affine"`

	// Idefics
	Extra      int    `json:"additional_vocab_size"`
	Every      int    `json:"cross_layer_interval"`
	AlphaType  string `json:"alpha_type"`
	QKNorms    bool   `json:"qk_layer_norms"`
	UseSampler *bool  `json:"use_resampler"`
	// EOS is one id or a list of them; the first ends what a picture is seen by.
	EOS        json.RawMessage `json:"eos_token_id"`
	ImageToken *int            `json:"image_token_id"`
	SoftToken  *int            `json:"soft_token_id"`
	Vision     struct {
		EmbedDim   int `json:"embed_dim"`
		HiddenSize int `json:"hidden_size"`
	} `json:"vision_config"`
	Text json.RawMessage `json:"text_config"`

	// OpenFlamingo
	EveryN     int             `json:"cross_attn_every_n_layers"`
	BaseVocab  int             `json:"base_vocab_size"`
	EOC        *int            `json:"eoc_token_id"`
	MediaToken *int            `json:"media_token_id"`
	Pad        *int            `json:"pad_token_id"`
	Lang       json.RawMessage `json:"lang_config"`
	Gated      struct {
		DimHead   int   `json:"dim_head"`
		Heads     int   `json:"heads"`
		FFMult    int   `json:"ff_mult"`
		DimVisual int   `json:"dim_visual"`
		Immediate *bool `json:"only_attend_immediate_media"`
	} `json:"gated_cross_attn"`
}

// ParseConfig reads a published config.json: a language model's own (gpt_neox, mpt,
// mosaic_gpt, llama, mistral, qwen2, opt), or a model with pictures (openflamingo, idefics,
// idefics2), where the language model and its cross-attention are read.
func ParseConfig(data []byte) (Config, error) {
	var p published
	if err := json.Unmarshal(data, &p); err != nil {
		return Config{}, fmt.Errorf("flamingo: config: %w", err)
	}
	c, err := p.config()
	if err != nil {
		return Config{}, err
	}
	return c, c.validate()
}

func (p published) config() (Config, error) {
	switch p.ModelType {
	case "gpt_neox":
		return p.gptNeoX()
	case "mpt", "mosaic_gpt":
		return p.mpt()
	case "llama", "mistral", "qwen2":
		return p.llama()
	case "opt":
		return p.opt()
	case "openflamingo":
		return p.openFlamingo()
	case "idefics":
		return p.idefics()
	case "idefics2":
		return p.idefics2()
	case "minicpmv":
		return p.miniCPMV()
	}
	return Config{}, fmt.Errorf("flamingo: config: no language model is known for model_type %q", p.ModelType)
}

func (p published) gptNeoX() (Config, error) {
	act, err := nn.ParseAct(cmp.Or(p.Act, "gelu"))
	if err != nil {
		return Config{}, fmt.Errorf("flamingo: config: %w", err)
	}
	c := Config{
		Arch: GPTNeoX, Vocab: cmp.Or(p.Vocab, 50432), Width: cmp.Or(p.Width, 6144), Layers: cmp.Or(p.Layers, 44), Heads: cmp.Or(p.Heads, 64),
		Hidden: cmp.Or(p.Hidden, 24576), Context: cmp.Or(p.Context, 2048), Act: act, Eps: cmp.Or(p.LNEps, 1e-5), Bias: true, QKVBias: nn.Stated(p.AttnBias, true),
		Tied: nn.Stated(p.Tied, false), Parallel: nn.Stated(p.Parallel, true), Soft: -1,
	}
	c.HeadDim = headDim(c, 0)
	pct := 0.25
	if p.RotaryPct != nil {
		pct = *p.RotaryPct
	}
	c.RotaryDim = int(float64(c.HeadDim) * pct)
	c.RotaryBase = cmp.Or(p.RotaryBase, cmp.Or(p.RopeTheta, 10000))
	return c, p.rope(&c)
}

func (p published) mpt() (Config, error) {
	old := p.ModelType == "mosaic_gpt"
	c := Config{
		Arch: MPT, Vocab: cmp.Or(p.Vocab, 50368), Width: cmp.Or(p.DModel, 2048), Layers: cmp.Or(p.NLayers, 24), Heads: cmp.Or(p.NHeads, 16),
		Context: cmp.Or(p.MaxSeq, 2048), Act: kernel.GELU, Eps: cmp.Or(p.LNEpsilon, 1e-5), Tied: nn.Stated(p.Tied, true), Bias: !nn.Stated(p.NoBias, !old),
		OldMPT: old, Soft: -1,
	}
	if s := string(p.LogitScale); old && s != "" && s != "null" {
		return c, fmt.Errorf("flamingo: config: logit_scale %s of mosaic_gpt is not known here", s)
	}
	c.QKVBias = c.Bias
	c.HeadDim = headDim(c, 0)
	ratio := cmp.Or(p.Expansion, cmp.Or(p.MLPRatio, 4))
	c.Hidden = int(ratio * float64(c.Width))
	alibi, top, clip, scale := p.ALiBi, p.BiasMax, p.Clip, p.Scale
	c.QKNorm = p.QKLN
	if p.Attn != nil {
		alibi, top, clip, scale, c.QKNorm = p.Attn.ALiBi, p.Attn.BiasMax, p.Attn.Clip, p.Attn.Scale, p.Attn.QKLN
		if t := p.Attn.Type; t != "" && t != "multihead_attention" {
			return c, fmt.Errorf("flamingo: config: attn_type %q of mpt: only multihead_attention is known", t)
		}
		if p.Attn.Rope {
			return c, fmt.Errorf("flamingo: config: mpt with rope is not known here")
		}
	} else if !old {
		alibi = true
	}
	if alibi {
		c.ALiBiMax = cmp.Or(top, 8)
	} else {
		c.Learned = nn.Stated(p.LearnedPos, true)
	}
	if clip != nil {
		c.Clip = *clip
	}
	if scale != nil {
		c.Scale = *scale
	}
	return c, nil
}

func (p published) llama() (Config, error) {
	act, err := nn.ParseAct(cmp.Or(p.Act, "silu"))
	if err != nil {
		return Config{}, fmt.Errorf("flamingo: config: %w", err)
	}
	c := Config{
		Arch: LLaMA, Vocab: cmp.Or(p.Vocab, 32000), Width: cmp.Or(p.Width, 4096), Layers: cmp.Or(p.Layers, 32), Heads: cmp.Or(p.Heads, 32), KVHeads: p.KVHeads,
		Hidden: cmp.Or(p.Hidden, 11008), Context: cmp.Or(p.Context, 2048), Act: act, Eps: cmp.Or(p.RMSEps, 1e-6), Tied: nn.Stated(p.Tied, false),
		QKVBias: nn.Stated(p.AttnBias, p.ModelType == "qwen2"), RotaryBase: cmp.Or(p.RopeTheta, 10000), Soft: -1,
	}
	c.Bias = p.ModelType != "qwen2" && nn.Stated(p.AttnBias, false) // of the output projection
	c.MLPBias = nn.Stated(p.MLPBias, false)
	if p.ModelType == "mistral" {
		c.KVHeads = cmp.Or(c.KVHeads, 8)
		c.Hidden = cmp.Or(p.Hidden, 14336)
		c.Context = cmp.Or(p.Context, 4096*32)
	}
	c.HeadDim = headDim(c, p.HeadDim)
	c.RotaryDim = c.HeadDim
	if err := p.rope(&c); err != nil {
		return c, err
	}
	window := 4096 // what Mistral's files leave out
	if len(p.Window) > 0 {
		window = 0
		if err := json.Unmarshal(p.Window, &window); err != nil {
			return c, fmt.Errorf("flamingo: config: sliding_window: %w", err)
		}
	}
	switch {
	case p.ModelType == "mistral":
		c.Window = window
	case window > 0 && nn.Stated(p.UseWindow, false): // Qwen2 has it in some layers: inside it nothing differs
		c.Context = min(c.Context, window)
	}
	return c, nil
}

func (p published) opt() (Config, error) {
	act, err := nn.ParseAct(cmp.Or(p.ActFn, "relu"))
	if err != nil {
		return Config{}, fmt.Errorf("flamingo: config: %w", err)
	}
	c := Config{
		Arch: OPT, Vocab: cmp.Or(p.Vocab, 50272), Width: cmp.Or(p.Width, 768), Layers: cmp.Or(p.Layers, 12), Heads: cmp.Or(p.Heads, 12),
		Hidden: cmp.Or(p.FFNDim, 3072), Context: cmp.Or(p.Context, 2048), Act: act, Eps: 1e-5, Bias: true, QKVBias: true, Tied: nn.Stated(p.Tied, true), Soft: -1,
	}
	c.Embed, c.PostNorm = cmp.Or(p.Embed, c.Width), !nn.Stated(p.NormBefore, true)
	if p.NoFinal && !c.PostNorm || !nn.Stated(p.HasBias, true) || !nn.Stated(p.Affine, true) {
		return c, fmt.Errorf("flamingo: config: opt without its final norm, biases or the norms' weights is not known here")
	}
	c.HeadDim = headDim(c, 0)
	return c, nil
}

// openFlamingo reads the language model of lang_config and the layers put into it. The
// vocabulary is the resized one: <|endofchunk|>, <image> and, where the tokenizer had none,
// <PAD> follow the base vocabulary.
func (p published) openFlamingo() (Config, error) {
	c, err := ParseConfig(p.Lang)
	if err != nil {
		return c, err
	}
	if p.MediaToken == nil {
		return c, fmt.Errorf("flamingo: config: openflamingo without media_token_id")
	}
	last := *p.MediaToken
	for _, id := range []*int{p.EOC, p.Pad} {
		if id != nil {
			last = max(last, *id)
		}
	}
	c.Vocab = last + 1
	visual := cmp.Or(p.Gated.DimVisual, p.Vision.HiddenSize)
	c.Cross = &Cross{
		Kind: OpenFlamingoCross, Every: cmp.Or(p.EveryN, 1), Media: visual, Heads: cmp.Or(p.Gated.Heads, 8), HeadDim: cmp.Or(p.Gated.DimHead, 64),
		Hidden: cmp.Or(p.Gated.FFMult, 4) * c.Width, Eps: 1e-5, AllPrevious: !nn.Stated(p.Gated.Immediate, true),
		MediaToken: *p.MediaToken, EndToken: -1,
	}
	return c, nil
}

// idefics reads Idefics v1: a LLaMA with an additional vocabulary whose last two tokens are
// <fake_token_around_image> and <image>.
func (p published) idefics() (Config, error) {
	c, err := p.llama()
	if err != nil {
		return c, err
	}
	c.Extra = p.Extra
	end, ends := -1, []int(nil)
	switch {
	case json.Unmarshal(p.EOS, &ends) == nil && len(ends) > 0:
		end = ends[0]
	case len(p.EOS) > 0 && string(p.EOS) != "null":
		if err := json.Unmarshal(p.EOS, &end); err != nil {
			return c, fmt.Errorf("flamingo: config: eos_token_id: %w", err)
		}
	}
	c.Cross = &Cross{
		Kind: IdeficsCross, Every: cmp.Or(p.Every, 1), Media: cmp.Or(p.Vision.EmbedDim, 1280), Heads: c.Heads, HeadDim: c.HeadDim, Hidden: c.Hidden,
		Eps: c.Eps, QKNorm: p.QKNorms, VectorGate: p.AlphaType == "vector", MediaToken: c.Vocab + 1, EndToken: end,
	}
	return c, nil
}

// idefics2 reads the text model of Idefics2, a Mistral whose <image> tokens are replaced.
func (p published) idefics2() (Config, error) {
	inner := published{ModelType: "mistral"}
	if len(p.Text) > 0 {
		if err := json.Unmarshal(p.Text, &inner); err != nil {
			return Config{}, fmt.Errorf("flamingo: config: text_config: %w", err)
		}
	}
	c, err := inner.config()
	if err != nil {
		return c, err
	}
	c.Soft = 32001
	if p.ImageToken != nil {
		c.Soft = *p.ImageToken
	}
	if p.Tied != nil {
		c.Tied = *p.Tied
	}
	return c, nil
}

// miniCPMV reads the Qwen2 inside MiniCPM-V 2.6, whose fields lie at the top. Soft tokens
// replace <unk>, whose id the tokenizer knows: "soft_token_id" states it.
func (p published) miniCPMV() (Config, error) {
	p.ModelType = "qwen2"
	c, err := p.llama()
	if p.SoftToken != nil {
		c.Soft = *p.SoftToken
	}
	return c, err
}

func headDim(c Config, own int) int {
	if own > 0 || c.Heads < 1 {
		return own
	}
	return c.Width / c.Heads
}
