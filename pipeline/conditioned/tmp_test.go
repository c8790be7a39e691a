package conditioned

import (
	"fmt"
	"testing"

	"github.com/mmserve/mmserve/internal/refcase"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

func TestTmp(t *testing.T) {
	c, err := refcase.Load("/work/shared/fixtures/flamingo/openflamingo-llama-default-heads")
	if err != nil {
		t.Fatal(err)
	}
	from, _ := threeFiles(c)
	em, _ := from.Model.Load("lang_encoder.model.embed_tokens.weight")
	hd, _ := from.Lang.Load("lm_head.weight")
	for _, mode := range []string{"tied", "partial"} {
		d := append([]byte{}, em.Data...)
		if mode == "partial" {
			copy(d, hd.Data)
		}
		from.Lang = weights.Merge(map[string]weights.Source{"": weights.Rename(mustLang(c), func(n string) string {
			if n == "lm_head.weight" {
				return ""
			}
			return n
		}), "lm_head.": weights.Memory{"weight": {DType: weights.F32, Shape: []int{99, 32}, Data: d}}})
		m, err := Load(c.Config, from, Options{})
		if err != nil {
			t.Fatal(err)
		}
		r := caseRun{m: m, c: c, a: &tensor.Arena{}, emit: func(name string, x tensor.Tensor) {
			if name == "p0.logits" {
				fmt.Println(mode, x.Row(0)[93:99], x.Row(1)[93:99])
			}
		}}
		r.prompt(t.Context(), "p0")
	}
}

func mustLang(c *refcase.Case) weights.Source { s, _ := c.File("lang_model.safetensors"); return s }
