// Package tokenizer turns text into token ids and back, as a published tokenizer.json says:
// byte-level BPE (GPT-NeoX, MPT, OPT, Qwen2), SentencePiece-style BPE with byte fallback
// (LLaMA, Mistral) and Unigram.
//
//	text ─added tokens─► normaliser ─► pre-tokeniser ─► model ─► template ─► ids
//	ids ─► tokens ─► decoder ─► text
//
//	t, err := tokenizer.Open("tokenizer.json")
//	ids := t.Encode("<image>Output:", true)
//	s := t.NewStream()
//	text := s.Push(id) // whole characters only
//
// The parts of the format that these models use are known; any other is an error that names
// it. Results are those of the tokenizers library, checked on tokenizers it made.
//
// The library itself is Rust and its Go bindings need cgo, which this project does without;
// the pure Go readers of the format are young or leave out Unigram, added tokens or streaming.
package tokenizer
