package vision

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/mmserve/mmserve/internal/refcase"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// RunCase loads the tower of a reference case (kind "vision/…") and runs the case's
// pixel_values, with patch_attention_mask where there is one. Every stage goes to a.Trace,
// under open_clip's names for an open_clip case.
func RunCase(a *tensor.Arena, c *refcase.Case) error {
	src, err := c.Source()
	if err != nil {
		return err
	}
	cfg, err := ParseConfig(c.Config)
	if err != nil {
		return err
	}
	prefix := strings.TrimSuffix(c.Prefix, "vision_model.")
	if cfg.Fused {
		src, prefix = OpenCLIP(src), ""
	}
	t, err := weights.Bind(src, func(s weights.Scope) (*Tower, error) {
		return New(s.At(strings.TrimSuffix(prefix, ".")), cfg)
	})
	if err != nil {
		return err
	}
	in, err := caseInput(c)
	if err != nil {
		return err
	}
	if emit := a.Trace; emit != nil {
		defer func() { a.Trace = emit }()
		a.Trace = caseTrace(emit, cfg.Fused)
	}
	tokens, err := t.Forward(a, in, Features{})
	if err != nil {
		return err
	}
	if t.PooledWidth() > 0 {
		t.Pooled(a, tokens)
	}
	if c.Shape("tokens") == nil {
		return nil
	}
	patches, err := t.Forward(a, in, Features{DropClass: true})
	if err != nil {
		return err
	}
	a.Emit("tokens", patches)
	return nil
}

func caseInput(c *refcase.Case) (Input, error) {
	x, ok := c.Tensor("pixel_values")
	if !ok || len(x.Shape) != 4 {
		return Input{}, fmt.Errorf("vision: case %s has no pixel_values", c.Name)
	}
	in := Input{Pixels: ChannelsLast(x)}
	mask, shape, ok := c.Ints("patch_attention_mask")
	if !ok {
		return in, nil
	}
	n := shape[1] * shape[2]
	for i := range shape[0] {
		row := make([]bool, n)
		for j := range row {
			row[j] = mask[i*n+j] != 0
		}
		in.Masks = append(in.Masks, row)
	}
	return in, nil
}

// ChannelsLast returns pictures given plane by plane, B×C×H×W as PyTorch keeps them, as
// B×H×W×C.
func ChannelsLast(x tensor.Tensor) tensor.Tensor {
	b, c, h, w := x.Dim(0), x.Dim(1), x.Dim(2), x.Dim(3)
	out := tensor.New(b, h, w, c)
	for i := range b {
		for ch := range c {
			plane := x.At(i).At(ch).Data
			dst := out.At(i).Data
			for p, v := range plane {
				dst[p*c+ch] = v
			}
		}
	}
	return out
}

// caseTrace reports the stages under every name that the cases use: open_clip's for its
// towers, and the outputs of layers besides the inputs.
func caseTrace(emit func(string, tensor.Tensor), openCLIP bool) func(string, tensor.Tensor) {
	return func(name string, t tensor.Tensor) {
		emit(name, t)
		if name == "image_embeds" && openCLIP {
			emit("pooled", t)
		}
		i, ok := strings.CutPrefix(name, "hidden_states.")
		if !ok {
			return
		}
		n, _ := strconv.Atoi(i)
		switch {
		case n == 0 && openCLIP:
			emit("ln_pre", t)
		case n == 0:
			emit("pre_layrnorm", t)
		case openCLIP:
			emit("resblocks."+strconv.Itoa(n-1)+".out", t)
		default:
			emit("layers."+strconv.Itoa(n-1)+".out", t)
		}
	}
}
