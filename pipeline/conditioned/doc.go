// Package conditioned joins a vision tower, a resampler and a language model into one that
// speaks about pictures, from the parts as they are published.
//
//	pixels P·F×H×W×3 ──Tower──► tokens ──Resampler──► latents P×n×W ──► language model ──► text
//
//	config                 from                                              latents are
//	openflamingo           checkpoint.pt + base language model + CLIP        cross-attention memory
//	idefics                one (sharded) checkpoint                          cross-attention memory
//	idefics2               one (sharded) checkpoint                          soft tokens
//	minicpmv               one (sharded) checkpoint                          soft tokens
//	ip_adapter_plus        adapter + CLIP image encoder; no language model   cross-attention memory
//
// P counts pictures, F the frames of one (1 for stills).
//
//	m, err := conditioned.Load(configJSON, conditioned.Sources{Model: src}, conditioned.Options{})
//	latents, err := m.Encode(&arena, conditioned.Pictures{Pixels: px})
//	for id, err := range m.LM.Stream(ctx, m.Prompt(ids, latents), flamingo.Options{}) { … }
package conditioned
