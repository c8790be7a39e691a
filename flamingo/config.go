package flamingo

import (
	"cmp"
	"fmt"
	"math"

	"github.com/mmserve/mmserve/internal/kernel"
)

// Arch names a family of decoders by how it spells its parameters.
type Arch string

// The families.
const (
	GPTNeoX Arch = "gpt_neox"
	MPT     Arch = "mpt"
	LLaMA   Arch = "llama"
	OPT     Arch = "opt"
)

// Config is one language model's sizes. ParseConfig fills it from a published config.json.
type Config struct {
	Arch    Arch
	Vocab   int // rows of the embedding
	Extra   int // further tokens with an embedding of their own (Idefics)
	Width   int
	Layers  int
	Heads   int
	KVHeads int // 0 means Heads
	HeadDim int
	Hidden  int // feed-forward width
	Context int // longest sequence in tokens; 0 means no limit
	Act     kernel.Act
	Eps     float32
	Scale   float32 // of the attention scores

	Tied     bool // the output layer is the embedding
	Bias     bool // biases in linear layers and norms
	QKVBias  bool // biases of the query, key and value layers
	Parallel bool // attention and feed-forward read the same residual (GPT-NeoX)

	RotaryDim  int // channels of a head that turn; 0 for none
	RotaryBase float64
	Rope       *Rope   // nil for positions as trained
	ALiBiMax   float64 // 0 for none
	Clip       float32 // queries, keys, values are kept within ±Clip; 0 for no limit
	QKNorm     bool    // norms on queries and keys (MPT-1B: over the width; Idefics: per head)
	OldMPT     bool    // MosaicGPT's parameter names (MPT-1B)
	Learned    bool    // MPT without ALiBi: a table of positions
	Window     int     // a token sees itself and Window−1 before it; 0 for all (Mistral)
	Embed      int     // width of the embedding where it is projected (OPT-350m); 0 means Width
	PostNorm   bool    // norms after the residual sums, none at the end (OPT-350m)
	MLPBias    bool    // LLaMA: biases in the feed-forward

	Cross *Cross // nil for a plain decoder
	// Soft is the id of the token whose embedding a soft token replaces, −1 for none.
	Soft int
}

// embedWidth is the width of the embedding's rows.
func (c Config) embedWidth() int { return cmp.Or(c.Embed, c.Width) }

// CrossKind is a published form of the gated cross-attention layer.
type CrossKind string

// The published forms.
const (
	OpenFlamingoCross CrossKind = "openflamingo"
	IdeficsCross      CrossKind = "idefics"
)

// Cross describes the gated cross-attention layers of a model.
type Cross struct {
	Kind    CrossKind
	Every   int // one such layer for that many decoder layers
	Media   int // width of the latents
	Heads   int
	HeadDim int
	Hidden  int // feed-forward width
	Eps     float32
	// AllPrevious lets a token attend every picture before it, not the last alone.
	AllPrevious bool
	QKNorm      bool // Idefics
	VectorGate  bool // Idefics: a gate per channel
	// MediaToken is the id that stands for a picture; it is never sampled.
	MediaToken int
	// EndToken ends what a picture is seen by (Idefics' image_attention_mask), −1 for none.
	EndToken int
}

// At reports whether a cross-attention layer stands before decoder layer i.
func (c *Cross) At(i int) bool {
	if c == nil {
		return false
	}
	if c.Kind == IdeficsCross {
		return i%c.Every == 0
	}
	return (i+1)%c.Every == 0
}

// maxSize bounds every size of a configuration, far above anything published.
const maxSize = 1 << 24

func (c *Config) validate() error {
	if c.KVHeads == 0 {
		c.KVHeads = c.Heads
	}
	sizes := []struct {
		name     string
		v, least int
	}{
		{"vocabulary", c.Vocab, 1}, {"additional vocabulary", c.Extra, 0}, {"width", c.Width, 1}, {"layers", c.Layers, 1},
		{"heads", c.Heads, 1}, {"key heads", c.KVHeads, 1}, {"head width", c.HeadDim, 1},
		{"feed-forward width", c.Hidden, 1}, {"context", c.Context, 0}, {"rotary width", c.RotaryDim, 0},
		{"window", c.Window, 0}, {"embedding width", c.Embed, 0},
	}
	if x := c.Cross; x != nil {
		sizes = append(sizes, []struct {
			name     string
			v, least int
		}{
			{"cross-attention interval", x.Every, 1}, {"latent width", x.Media, 1}, {"cross-attention heads", x.Heads, 1},
			{"cross-attention head width", x.HeadDim, 1}, {"cross-attention feed-forward width", x.Hidden, 1},
		}...)
		if x.MediaToken < 0 || x.MediaToken >= c.Vocab+c.Extra {
			return fmt.Errorf("flamingo: config: media token %d is outside the vocabulary of %d", x.MediaToken, c.Vocab+c.Extra)
		}
	}
	for _, f := range sizes {
		if f.v < f.least || f.v > maxSize {
			return fmt.Errorf("flamingo: config: %s of %s: want %d to %d, got %d", f.name, c.Arch, f.least, maxSize, f.v)
		}
	}
	switch {
	case c.Heads%c.KVHeads != 0:
		return fmt.Errorf("flamingo: config: %d heads do not divide over %d key heads", c.Heads, c.KVHeads)
	case c.RotaryDim > c.HeadDim || c.RotaryDim%2 != 0:
		return fmt.Errorf("flamingo: config: %d rotary channels in heads of %d", c.RotaryDim, c.HeadDim)
	case c.RotaryDim > 0 && !(c.RotaryBase > 0) || math.IsInf(c.RotaryBase, 0):
		return fmt.Errorf("flamingo: config: rotary base %v", c.RotaryBase)
	case c.Rope != nil && c.Rope.Kind == DynamicRope && c.RotaryDim == 2:
		return fmt.Errorf("flamingo: config: rope_scaling dynamic wants more than 2 rotary channels")
	case c.Cross != nil && c.Cross.Every > c.Layers:
		return fmt.Errorf("flamingo: config: cross-attention every %d layers of %d would never come", c.Cross.Every, c.Layers)
	}
	if c.Scale == 0 {
		c.Scale = float32(1 / math.Sqrt(float64(c.HeadDim)))
	}
	return nil
}

// CheckTokenizer compares a tokenizer's length with the embedding. The embedding of an
// OpenFlamingo model was resized to exactly that length; others may have rows to spare.
func (c Config) CheckTokenizer(size int) error {
	rows := c.Vocab + c.Extra
	exact := c.Cross != nil && c.Cross.Kind == OpenFlamingoCross
	if size > rows || exact && size != rows {
		return fmt.Errorf("flamingo: the tokenizer has %d tokens, the embedding %d", size, rows)
	}
	return nil
}
