// Package resampler turns the tokens of a picture, of whatever number, into a fixed number
// of latents: the Perceiver resampler of Flamingo (arXiv 2204.14198 §3.1) as the published
// models vary it.
//
//	media tokens N×V×C → [projection, positions] → Depth × {attention over (tokens ⊕ latents), feed-forward} → latents N×n×W
//
// N counts pictures, V the tokens of one, n the latents. Every picture is resampled alone;
// a batch shares the work and never the result: latents have the same bits whatever shares
// their batch and however much padding stands beside them.
//
//	kind          after reading                    latents are
//	openflamingo  checkpoint.pt "perceiver.*"      cross-attention memory, vision width
//	lucidrains    flamingo-pytorch module          cross-attention memory, vision width
//	idefics       "model.perceiver_resampler.*"    cross-attention memory, vision width
//	idefics2      "model.connector.*"              soft tokens, the language model's width
//	ip_adapter    "image_proj.*"                   cross-attention memory of a diffusion UNet
//	qwen_vl       "transformer.visual.attn_pool.*" soft tokens (also OmniLMM)
//	minicpmv      "resampler.*"                    soft tokens
//
// Build one with New inside weights.Bind, then call Forward with a tensor.Arena:
//
//	cfg, err := resampler.ParseConfig(configJSON)
//	r, err := weights.Bind(src, func(s weights.Scope) (*resampler.Resampler, error) {
//		return resampler.New(s.At(cfg.Prefix()), cfg)
//	})
//	z, err := r.Forward(&arena, resampler.Input{X: tokens})
//
// To add a variant: a Kind, its reading in config.go, and its names in blocks.go or pool.go.
package resampler
