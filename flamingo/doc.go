// Package flamingo holds language models that look at pictures: decoders with gated
// cross-attention layers over resampled latents (Flamingo, arXiv 2204.14198 §3.2), and plain
// decoders that take latents as soft tokens.
//
//	token ids T ──embed──► x T×Width ──┬─ Layers × { [gated cross-attention over the pictures' latents], self-attention, feed-forward }
//	latents P×n×Media ─keys, values────┘                                                        ──► logits T×Vocab
//
// P counts the pictures of a sequence, n the latents of one.
//
//	decoder    names                     positions            published with
//	gpt_neox   gpt_neox.layers.N         rotary               RedPajama-INCITE (OpenFlamingo-4B)
//	mpt        transformer.blocks.N      ALiBi or learned     MPT-1B, MPT-7B (OpenFlamingo-3B, -9B)
//	llama      model.layers.N            rotary, grouped keys Idefics, Mistral of Idefics2, Qwen2 of MiniCPM-V
//	opt        model.decoder.layers.N    learned              OPT
//
// Rotary embeddings may be stretched (Rope: linear, dynamic, llama3, yarn), Mistral's layers
// see a sliding window, and OPT-350m norms after its sums.
//
//	cross-attention  before layer i when   a token attends
//	openflamingo     (i+1) % n == 0        the last picture before it, or all of them
//	idefics          i % n == 0            the pictures of image_attention_mask
//
// A Sequence is what one conversation has computed so far: keys and values of every layer.
// Forward takes new tokens of any number of sequences at once; rows of all of them share each
// matrix product and attention is per sequence, so there is no padding, and a sequence gets
// the same bits alone and in a batch.
//
//	seq := m.NewSequence()
//	err := m.Condition(&arena, seq, latents)                            // P×n×Media
//	logits, err := m.Forward(&arena, []flamingo.Part{{Seq: seq, Tokens: ids}}, false)
//
// Generate and Stream do this for prompts, with greedy choice or sampling. Weights stored in
// 16 bits stay so in memory.
//
// To add a decoder: its configuration in config.go, and a file like opt.go that names its
// parameters.
package flamingo
