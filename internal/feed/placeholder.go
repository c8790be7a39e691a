package feed

import "strings"

// Convention is how a model family marks a picture in text.
type Convention string

// The conventions.
const (
	Idefics2Text     Convention = "idefics2"     // <fake_token_around_image> and <image> per latent
	IdeficsText      Convention = "idefics"      // <fake_token_around_image><image>, latents by image_attention_mask
	OpenFlamingoText Convention = "openflamingo" // <image>, latents by cross-attention
	QwenVLText       Convention = "qwen_vl"      // <img> and <imgpad> per latent
	MiniCPMVText     Convention = "minicpmv"     // <image> and <unk> per latent
)

// texts are the conventions of the architectures.
var texts = map[string]Convention{
	"openflamingo": OpenFlamingoText, "OpenFlamingo": OpenFlamingoText, "openflamingo_perceiver_resampler": OpenFlamingoText,
	"idefics": IdeficsText, "IdeficsForVisionText2Text": IdeficsText,
	"idefics2": Idefics2Text, "Idefics2ForConditionalGeneration": Idefics2Text,
	"qwen_vl_style_resampler": QwenVLText,
	"MiniCPMV":                MiniCPMVText, "minicpmv": MiniCPMVText, "minicpmv_resampler": MiniCPMVText,
}

// TextOf is the convention of an architecture, "" where none is known.
func TextOf(architecture string) Convention { return texts[architecture] }

// Placeholders returns the text that stands for pictures, items in a row, each of that many
// latents: what a tokenizer must see where they are.
func Placeholders(c Convention, items, latents int) (string, error) {
	if items < 0 || latents < 1 {
		return "", refuse("placeholders for %d items of %d latents", items, latents)
	}
	if items == 0 {
		return "", nil
	}
	const fake = "<fake_token_around_image>"
	switch c {
	case Idefics2Text: // neighbouring fake tokens are merged
		return fake + strings.Repeat(strings.Repeat("<image>", latents)+fake, items), nil
	case IdeficsText:
		return fake + strings.Repeat("<image>"+fake, items), nil
	case OpenFlamingoText:
		return strings.Repeat("<image>", items), nil
	case QwenVLText:
		return strings.Repeat("<img>"+strings.Repeat("<imgpad>", latents)+"</img>", items), nil
	case MiniCPMVText:
		return strings.Repeat("<image>"+strings.Repeat("<unk>", latents)+"</image>", items), nil
	}
	return "", refuse("no placeholder text is known for %q", c)
}
