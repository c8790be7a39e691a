// Package vision holds the towers that feed resamplers and language models: CLIP's vision
// transformer, SigLIP's, and Idefics2's SigLIP at native aspect ratio.
//
//	pixels B×H×W×3 (normalised) → patches → + positions → Layers × {attention, feed-forward} → tokens B×T×Width
//
//	kind      token 0   before the layers   after them         positions
//	clip      class     LayerNorm           nothing            learned, fixed size
//	siglip    a patch   nothing             LayerNorm          learned, fixed size
//	idefics2  a patch   nothing             LayerNorm          learned, bucketised to the picture's shape
//
// What OpenFlamingo feeds its resampler is Features{DropClass: true} of a CLIP tower: the
// patch tokens without the class token and without the final norm. What IP-Adapter plus takes
// is Features{Skip: 1}: the layer before the last, class token included.
//
// Parameters carry Hugging Face names (vision_model.*); OpenCLIP gives an open_clip
// checkpoint those names. Pictures are processed one by one in attention and together
// elsewhere, so a batch never changes the bits of a picture, and neither does padding.
//
//	cfg, err := vision.ParseConfig(configJSON)
//	t, err := weights.Bind(src, func(s weights.Scope) (*vision.Tower, error) {
//		return vision.New(s, cfg)
//	})
//	tokens, err := t.Forward(&arena, vision.Input{Pixels: px}, vision.Features{DropClass: true})
//
// To add a tower: a Kind, its configuration in config.go, and its embedding in embed.go.
package vision
