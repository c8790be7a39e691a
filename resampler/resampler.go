package resampler

import (
	"fmt"

	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// Input is a batch of pictures as a vision tower saw them.
type Input struct {
	// X holds the tokens, N×V×In.
	X tensor.Tensor
	// Frames says into how many video frames the tokens of one picture divide; 0 means 1.
	// Frame f of N owns tokens [f·V/Frames, (f+1)·V/Frames).
	Frames int
	// Media is the place of each picture in its own sequence, counted from 0, for the kinds
	// with media embeddings; nil means 0 for all.
	Media []int
	// Mask marks, for each picture, which of its V tokens are real; nil means all. Only
	// Idefics2 reads it.
	Mask [][]bool
	// Sizes is the patch grid (rows, columns) of each picture, whose tokens are the first
	// rows·columns; MiniCPMV needs it, the others ignore it.
	Sizes [][2]int
}

// Resampler is a loaded resampler. It never changes and is safe for concurrent use.
type Resampler struct {
	Config Config
	net    network
}

// network is one of the two families: latents that attend in several blocks, or queries that
// attend once.
type network interface {
	check(in Input) error
	forward(a *tensor.Arena, in Input) tensor.Tensor
}

// New reads a resampler at its place in a checkpoint: s is already inside the published
// prefix (Config.Prefix).
func New(s weights.Scope, c Config) (*Resampler, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	switch c.Kind {
	case OpenFlamingo, Lucidrains, Idefics, Idefics2, IPAdapter:
		return &Resampler{Config: c, net: newBlocks(s, c)}, nil
	case QwenVL, MiniCPMV:
		return &Resampler{Config: c, net: newPool(s, c)}, nil
	}
	return nil, fmt.Errorf("resampler: unknown kind %q", c.Kind)
}

// Forward returns the latents of in as scratch, N×Count×Out. Stages go to the arena's Trace
// under the names of the reference cases: layers.I.{attn_out,after_attn,out} and what
// surrounds them.
func (r *Resampler) Forward(a *tensor.Arena, in Input) (tensor.Tensor, error) {
	if err := r.check(in); err != nil {
		return tensor.Tensor{}, err
	}
	out := r.net.forward(a, in)
	a.Emit("output", out)
	return out, nil
}

func (r *Resampler) check(in Input) error {
	if len(in.X.Shape) != 3 {
		return fmt.Errorf("resampler: input: want pictures×tokens×%d, got shape %v", r.Config.In, in.X.Shape)
	}
	n, v, c := in.X.Shape[0], in.X.Shape[1], in.X.Shape[2]
	if c != r.Config.In {
		return fmt.Errorf("resampler: input: token width of %s: want %d, got %d", r.Config.Kind, r.Config.In, c)
	}
	if n == 0 || v == 0 {
		return fmt.Errorf("resampler: input: no tokens in shape %v", in.X.Shape)
	}
	if in.Media != nil && len(in.Media) != n {
		return fmt.Errorf("resampler: input: %d media places for %d pictures", len(in.Media), n)
	}
	if in.Mask != nil && len(in.Mask) != n {
		return fmt.Errorf("resampler: input: %d masks for %d pictures", len(in.Mask), n)
	}
	for i, m := range in.Mask {
		if len(m) != v {
			return fmt.Errorf("resampler: input: mask of picture %d: want %d tokens, got %d", i, v, len(m))
		}
	}
	return r.net.check(in)
}
