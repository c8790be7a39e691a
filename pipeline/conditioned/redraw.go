package conditioned

import (
	"fmt"
	"math"

	"github.com/mmserve/mmserve/flamingo"
	"github.com/mmserve/mmserve/internal/refcase"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// embeddingSeed is what the reference cases of OpenFlamingo add to their seed before they draw
// the resized embedding, and after it the resized output layer.
const embeddingSeed = 50

// redrawn returns the base language model of an OpenFlamingo case over a LLaMA with the resized
// output layer that the case was made with. The reference's own filter keeps names with "embed",
// which a LLaMA's lm_head is not, so no file of the case holds it. The case drew it from its
// seed right after the resized embedding, with deviation 2/√width; that the same stream gives
// the stored embedding first is checked, and otherwise the files are left as they are.
func redrawn(c *refcase.Case, from Sources) (weights.Source, error) {
	const name = "lm_head.weight"
	cfg, err := flamingo.ParseConfig(c.Config)
	if err != nil {
		return nil, err
	}
	_, base, ok := from.Lang.Stat(name)
	_, _, stored := from.Model.Stat("lang_encoder." + name)
	if cfg.Arch != flamingo.LLaMA || cfg.Tied || stored || !ok || base[0] == cfg.Vocab || cfg.Vocab*cfg.Width < 16 {
		return from.Lang, nil
	}
	seed, err := c.Seed()
	if err != nil {
		return from.Lang, nil
	}
	raw, err := from.Model.Load("lang_encoder.model.embed_tokens.weight")
	if err != nil {
		return from.Lang, nil
	}
	draws := refcase.NewDraws(seed + embeddingSeed)
	if !follows(draws, raw.Tensor().Data) {
		return from.Lang, nil
	}
	head := tensor.New(cfg.Vocab, cfg.Width)
	draws.Normal(head.Data, float32(2/math.Sqrt(float64(cfg.Width))))
	whole, err := weights.Encode(head, weights.F32)
	if err != nil {
		return nil, err
	}
	c.Note = fmt.Sprintf("no file holds the output layer of the %d tokens (the base model's has %d rows): it was redrawn from seed %d, whose stream gives the stored embedding first", cfg.Vocab, base[0], seed+embeddingSeed)
	others := weights.Rename(from.Lang, func(n string) string {
		if n == name {
			return ""
		}
		return n
	})
	return weights.Merge(map[string]weights.Source{"": others, "lm_head.": weights.Memory{"weight": whole}}), nil
}

// follows reports whether values are the next draws of a stream, times some deviation.
func follows(d *refcase.Draws, values []float32) bool {
	drawn := make([]float32, len(values))
	d.Normal(drawn, 1)
	var dot, square float64
	for i, x := range drawn {
		dot += float64(x) * float64(values[i])
		square += float64(x) * float64(x)
	}
	deviation := float32(dot / square)
	for i, x := range drawn {
		if math.Abs(float64(deviation*x-values[i])) > 1e-5 {
			return false
		}
	}
	return deviation > 0
}
