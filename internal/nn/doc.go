// Package nn holds the parts every model here is made of: linear layers, norms, attention
// over projected heads, feed-forward blocks, convolutions.
//
// A part is built from its place in a checkpoint (weights.Scope), which says its names and
// shapes once; after that it never changes and is safe for concurrent use. A part takes its
// input and an Arena for scratch, and returns a tensor that lives in that Arena:
//
//	proj := nn.NewLinear(s.At("query"), in, out)   // reads "weight" (out×in) and "bias" (out)
//	y := proj.Forward(&arena, x)                   // x …×in → …×out
//
// Shapes are checked by the models above; a mismatch down here is a bug and panics.
package nn
