package conditioned

import (
	"encoding/json"
	"fmt"

	"github.com/mmserve/mmserve/resampler"
	"github.com/mmserve/mmserve/vision"
	"github.com/mmserve/mmserve/weights"
)

// ipAdapter reads {"model_type": "ip_adapter_plus", "vision_config": {…}, "resampler": {…}}.
func (c *configs) ipAdapter(config []byte) error {
	var p struct {
		Vision    json.RawMessage `json:"vision_config"`
		Resampler json.RawMessage `json:"resampler"`
	}
	err := json.Unmarshal(config, &p)
	if err != nil {
		return fmt.Errorf("conditioned: config: %w", err)
	}
	c.towerAt = "image_encoder"
	if c.tower, err = vision.ParseConfig(p.Vision); err != nil {
		return err
	}
	c.tower.Projection = 0 // the penultimate layer is taken
	if c.resampler, err = resampler.ParseConfig(p.Resampler); err != nil {
		return err
	}
	return c.fit()
}

// IPAdapterConfig makes the configuration of a published IP-Adapter plus, which has none, from
// the shapes in its file and the config.json of its image encoder. Heads are 64 wide, as in
// every published one.
func IPAdapterConfig(adapter weights.Source, encoder []byte) ([]byte, error) {
	shape := func(name string, rank int) []int {
		_, s, ok := adapter.Stat("image_proj." + name)
		if !ok || len(s) != rank {
			return make([]int, rank)
		}
		return s
	}
	latents, in, out := shape("latents", 3), shape("proj_in.weight", 2), shape("proj_out.weight", 2)
	if latents[2] == 0 || in[1] == 0 || out[0] == 0 {
		return nil, fmt.Errorf("conditioned: not an IP-Adapter plus: image_proj.latents is %v, proj_in.weight %v, proj_out.weight %v", latents, in, out)
	}
	depth := 0
	for shape(fmt.Sprintf("layers.%d.0.to_q.weight", depth), 2)[0] != 0 {
		depth++
	}
	inner := shape("layers.0.0.to_q.weight", 2)[0]
	r := map[string]any{
		"model_type": "ip_adapter_plus_resampler", "dim": latents[2], "num_queries": latents[1], "depth": depth,
		"heads": max(inner/64, 1), "dim_head": 64, "embedding_dim": in[1], "output_dim": out[0],
	}
	if up := shape("layers.0.1.1.weight", 2)[0]; latents[2] > 0 && up > 0 {
		r["ff_mult"] = up / latents[2]
	}
	if pos := shape("pos_emb.weight", 2)[0]; pos > 0 {
		r["apply_pos_emb"], r["max_seq_len"] = true, pos
	}
	if pool := shape("to_latents_from_mean_pooled_seq.1.weight", 2)[0]; pool > 0 {
		r["num_latents_mean_pooled"] = pool / latents[2]
	}
	return json.Marshal(map[string]any{"model_type": "ip_adapter_plus", "vision_config": json.RawMessage(encoder), "resampler": r})
}
