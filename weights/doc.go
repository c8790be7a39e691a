// Package weights reads and writes checkpoints: tensors under names.
//
// A Source answers names with bytes. Open makes one from a safetensors file, from a
// directory (model.safetensors, a sharded index, or pytorch_model.bin), or from a torch zip
// file, which is read by an unpickler that knows a short list of names and executes nothing.
// Seeded and Random make sources from thin air, Memory holds a few tensors, and Sub, Rename
// and Merge give a source other names.
//
// A model's constructor takes a Scope, a place in a checkpoint, and says each name and shape
// once. Bind runs it and reports everything missing, mis-shaped and left over in one error:
//
//	src, err := weights.Open("perceiver-io")
//	…
//	defer src.Close()                       // a bound model keeps nothing of the source
//	model, err := weights.Bind(src, func(s weights.Scope) (*Model, error) {
//		return &Model{
//			latents: s.Tensor("latents", 256, 1024),          // float32
//			query:   s.At("query").Linear("weight", 512, 1024), // packed for matrix products
//		}, nil
//	})
//
// Whatever the stored type (F32, F16, BF16, F64 and the integers), Tensor gives exact
// float32 where float32 can hold it, rounded to nearest even where it cannot. A weight that
// is NaN or infinite is an error that names its tensor.
//
// To add a container format: a reader that enters each tensor's place in a Checkpoint, and a
// case in Checkpoint.read.
package weights
