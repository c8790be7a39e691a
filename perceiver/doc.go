// Package perceiver holds the Perceiver networks: Perceiver IO (arXiv 2107.14795) with the
// eight heads that Hugging Face publishes, the original Perceiver (arXiv 2103.03206) and
// Perceiver AR (arXiv 2202.07765).
//
// Letters, here and in every doc comment (batch B first):
//
//	M×C  inputs, the "byte array": Rows, num rows × channels (d_model, kv_dim)
//	N×D  latents (num_latents × d_latents)
//	O×E  decoder queries
//	O×F  outputs
//
// Inputs are read, never held: the encoder asks a Rows for one block after another and keeps an
// online softmax, so its memory does not grow with M; decoder queries are assembled and answered
// in chunks in the same way. The result of a row does not depend on the block size, on the other
// elements of the batch or on the number of threads.
//
//	m, err := weights.Bind(src, func(s weights.Scope) (perceiver.Network, error) {
//		return perceiver.Load(configJSON, s, perceiver.Options{})
//	})
//	clf := m.(*perceiver.ImageClassifier)
//	logits, err := clf.Forward(ctx, &arena, perceiver.Planes(pixels), nil) // B×3×H×W → B×labels
//
// Architectures, as config.json names them, and their types:
//
//	PerceiverForMaskedLM                              *MaskedLM
//	PerceiverForSequenceClassification                *SequenceClassifier
//	PerceiverForImageClassification{Learned,Fourier,ConvProcessing}  *ImageClassifier
//	PerceiverForOpticalFlow                           *OpticalFlow
//	PerceiverForMultimodalAutoencoding                *MultimodalAutoencoder
//	PerceiverModel                                    *Model
//	Perceiver (the original)                          *Original
//	PerceiverCausalLanguageModel (AR)                 *CausalLM
//
// # Less arithmetic, the same numbers
//
// Unless Options.Plain is set, networks use what their structure allows; each way is tested
// against the plain one and against the reference:
//
//   - the first queries come from learned latents and are computed once, on loading;
//   - with one head, the key projection is folded into the queries and the value projection is
//     applied to the weighted sums (foldedCross), or both into the latents' side when the queries
//     are many (foldedQuery);
//   - of rows on a grid with a Fourier code, scores and sums need the content's few channels, a
//     table an axis and the marginals of the weights (separable.go), for keys and for queries;
//   - what follows a decoder's activation is one narrow matrix (tail), and its feed-forward can
//     start from the averaged values (lean).
//
// To add an architecture, write its constructor beside the others and a line in the table of Load.
// Where Hugging Face's and DeepMind's code differ, Hugging Face's numbers are followed.
package perceiver
