package perceiver

import (
	"github.com/mmserve/mmserve/internal/nn"
	"github.com/mmserve/mmserve/weights"
)

// NewEncoder reads an encoder over rows of channels values for a composition of one's own:
// "embeddings.latents" and "encoder" of the scope, in Hugging Face's spelling. Of the
// configuration it uses what concerns the encoder.
func NewEncoder(s weights.Scope, c Config, channels int, opt Options) (*Encoder, error) {
	if err := c.checkCross(channels); err != nil {
		return nil, err
	}
	return newEncoder(s, c, channels, opt), nil
}

// DecoderConfig describes a decoder of a composition.
type DecoderConfig struct {
	QueryDim   int // E, the width of a query
	LatentDim  int // D, the width of a latent
	QKChannels int // 0 means LatentDim
	VChannels  int // 0 means QKChannels
	Heads      int
	Widening   int
	Act        string // as "hidden_act"
	Residual   bool   // add the query to what it attended to
	Outputs    int    // F; 0 for no final Linear: answers are E wide
}

// NewDecoder reads a decoder for a composition: "decoding_cross_attention" and, with Outputs,
// "final_layer" of the scope.
func NewDecoder(s weights.Scope, c DecoderConfig, opt Options) (*Decoder, error) {
	act, err := nn.ParseAct(c.Act)
	if err != nil {
		return nil, err
	}
	if c.QKChannels == 0 {
		c.QKChannels = c.LatentDim
	}
	if c.VChannels == 0 {
		c.VChannels = c.QKChannels
	}
	p := shape{query: c.QueryDim, key: c.LatentDim, qk: c.QKChannels, v: c.VChannels, heads: c.Heads, widening: c.Widening, act: act}
	if err := checkDecoder(p); err != nil {
		return nil, err
	}
	return newDecoder(s, decoderShape{shape: p, residual: c.Residual, final: c.Outputs}, opt), nil
}
