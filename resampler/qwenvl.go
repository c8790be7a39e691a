package resampler

import (
	"strings"

	"github.com/mmserve/mmserve/weights"
)

// QwenVLNames gives the resampler of a published Qwen-VL checkpoint the names that New reads:
// there it is "transformer.visual.attn_pool", with ln_post and proj one level up. The rest of
// the checkpoint is hidden.
func QwenVLNames(src weights.Source) weights.Source {
	const visual = "transformer.visual."
	return weights.Rename(src, func(name string) string {
		rest, ok := strings.CutPrefix(name, visual)
		if !ok {
			return ""
		}
		if part, ok := strings.CutPrefix(rest, "attn_pool."); ok {
			return part
		}
		if rest == "proj" || strings.HasPrefix(rest, "ln_post.") {
			return rest
		}
		return ""
	})
}
