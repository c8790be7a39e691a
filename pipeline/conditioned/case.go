package conditioned

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mmserve/mmserve/flamingo"
	"github.com/mmserve/mmserve/internal/refcase"
	"github.com/mmserve/mmserve/resampler"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/vision"
	"github.com/mmserve/mmserve/weights"
)

// Kinds are the kinds of reference case that RunCase knows.
var Kinds = []string{
	"resampler/openflamingo", "resampler/lucidrains", "resampler/idefics", "resampler/idefics2_connector",
	"resampler/ip_adapter_plus", "resampler/qwen_vl_style", "resampler/minicpmv",
	"vision/clip", "vision/siglip", "vision/idefics2", "vision/open_clip",
	"flamingo/gated_xattn_block", "flamingo/openflamingo", "flamingo/idefics",
}

// RunCase loads what a reference case describes and runs the case's inputs. Every stage goes
// to a.Trace under the case's name for it.
func RunCase(ctx context.Context, a *tensor.Arena, c *refcase.Case) error {
	if !slices.Contains(Kinds, c.Kind) {
		return fmt.Errorf("conditioned: case %s: kind %q is not known", c.Name, c.Kind)
	}
	switch family, part, _ := strings.Cut(c.Kind, "/"); {
	case family == "resampler":
		return resampler.RunCase(a, c)
	case family == "vision":
		return vision.RunCase(a, c)
	case part == "gated_xattn_block":
		return flamingo.RunBlockCase(a, c)
	}
	return runModel(ctx, a, c)
}

// caseTokens is how many greedy tokens a case expects.
const caseTokens = 16

func runModel(ctx context.Context, a *tensor.Arena, c *refcase.Case) error {
	m, err := loadCase(c)
	if err != nil {
		return err
	}
	r := caseRun{m: m, c: c, a: a, emit: a.Trace}
	if r.emit == nil {
		r.emit = func(string, tensor.Tensor) {}
	}
	defer func() { a.Trace = r.emit }()
	var prompts []flamingo.Prompt
	for _, p := range []string{"p0", "p1", "p2", "p3"} {
		if _, ok := c.Input(p + ".input_ids"); !ok {
			break
		}
		prompt, err := r.prompt(ctx, p)
		if err != nil {
			return fmt.Errorf("prompt %s: %w", p, err)
		}
		prompts = append(prompts, prompt)
	}
	if !r.scored() {
		return fmt.Errorf("conditioned: case %s: %w: %d rows for a vocabulary of %d", c.Name, ErrOutputLayer, m.LM.Scored(), m.LM.Config.Vocab)
	}
	return r.batch(ctx, prompts)
}

// ErrOutputLayer says that logits cannot be checked: a checkpoint without its resized output layer has
// none for the tokens that were added, and those of the others are the base model's, not the
// trained one's.
var ErrOutputLayer = errors.New("the files do not hold the whole output layer and the case's seed does not redraw it, so logits and text cannot be checked")

// scored reports whether the case has the whole output layer. A checkpoint over a LLaMA does
// not hold it (see flamingo.Model.Scored); unless it can be redrawn, logits are not reported.
func (r *caseRun) scored() bool { return r.m.LM.Scored() == r.m.LM.Config.Vocab }

func loadCase(c *refcase.Case) (*Model, error) {
	var from Sources
	var err error
	if c.Kind == "flamingo/idefics" {
		from.Model, err = c.Source()
	} else {
		from, err = threeFiles(c)
	}
	if err != nil {
		return nil, err
	}
	return Load(c.Config, from, Options{})
}

// threeFiles opens the parts of an OpenFlamingo case, checkpoint.pt where there is one.
func threeFiles(c *refcase.Case) (from Sources, err error) {
	name := "checkpoint.safetensors"
	if c.Has("checkpoint.pt") {
		name = "checkpoint.pt"
	}
	for _, f := range []struct {
		name string
		dst  *weights.Source
	}{{name, &from.Model}, {"lang_model.safetensors", &from.Lang}, {"vision_model.safetensors", &from.Vision}} {
		if *f.dst, err = c.File(f.name); err != nil {
			return from, err
		}
	}
	from.Lang, err = redrawn(c, from)
	return from, err
}

// caseRun is one case on its way.
type caseRun struct {
	m    *Model
	c    *refcase.Case
	a    *tensor.Arena
	emit func(string, tensor.Tensor)
}

// prompt runs one prompt of the case: pictures, a plain forward, and greedy tokens.
func (r *caseRun) prompt(ctx context.Context, p string) (flamingo.Prompt, error) {
	ids, _, _ := r.c.Ints(p + ".input_ids")
	latents, err := r.pictures(p)
	if err != nil {
		return flamingo.Prompt{}, err
	}
	prompt := r.m.Prompt(ids, latents)
	prompt.Visible = r.visible(p, len(ids))
	r.a.Trace = nil
	seq := r.m.LM.NewSequence()
	if err := r.m.LM.Condition(r.a, seq, prompt.Media); err != nil {
		return prompt, err
	}
	r.a.Trace = func(name string, t tensor.Tensor) {
		if name != "logits" || r.scored() {
			r.emit(p+"."+name, t)
		}
	}
	if _, err := r.m.LM.Forward(r.a, []flamingo.Part{{Seq: seq, Tokens: ids, Visible: prompt.Visible}}, true); err != nil {
		return prompt, err
	}
	time, n := tensor.New(1, len(ids)), 0
	for i, id := range ids {
		if id == r.m.LM.Config.Cross.MediaToken {
			n++
		}
		time.Data[i] = float32(n)
	}
	r.emit(p+".text_time", time)
	r.a.Trace = nil
	if !r.scored() {
		return prompt, nil
	}
	out, err := r.m.LM.Generate(ctx, []flamingo.Prompt{prompt}, flamingo.Options{MaxTokens: caseTokens})
	if err != nil {
		return prompt, err
	}
	r.emit(p+".generated_ids", idsTensor(out[0]).Reshape(len(out[0])))
	return prompt, nil
}

// pictures encodes the pictures of a prompt: vision_x (1×T×F×3×H×W) or pixel_values
// (1×T×3×H×W).
func (r *caseRun) pictures(p string) (tensor.Tensor, error) {
	x, ok := r.c.Tensor(p + ".vision_x")
	in := Pictures{}
	if ok && len(x.Shape) == 6 {
		in.Frames = x.Dim(2)
	} else if x, ok = r.c.Tensor(p + ".pixel_values"); !ok || len(x.Shape) != 5 {
		return tensor.Tensor{}, fmt.Errorf("no pictures")
	}
	n := len(x.Shape)
	h, w := x.Dim(n-2), x.Dim(n-1)
	in.Pixels = vision.ChannelsLast(x.Reshape(len(x.Data)/(3*h*w), 3, h, w))
	r.a.Trace = nil
	tokens, err := r.m.tokens(r.a, in)
	if err != nil {
		return tensor.Tensor{}, err
	}
	r.emit(p+".vision_tokens", tokens)
	r.emit(p+".vision_last_hidden_state", tokens)
	latents, err := r.m.resample(r.a, tokens, in)
	if err != nil {
		return tensor.Tensor{}, err
	}
	r.emit(p+".perceiver", latents)
	return latents, nil
}

// visible reads image_attention_mask (1×T×P), nil when there is none.
func (r *caseRun) visible(p string, tokens int) [][]bool {
	mask, shape, ok := r.c.Ints(p + ".image_attention_mask")
	if !ok || len(shape) != 3 || shape[1] != tokens {
		return nil
	}
	out := make([][]bool, tokens)
	for i := range out {
		for j := range shape[2] {
			out[i] = append(out[i], mask[i*shape[2]+j] != 0)
		}
	}
	return out
}

// batch continues all prompts at once. The reference pads them on the left; here a sequence
// has no padding, so the padded ids are checked against the prompts and set aside.
func (r *caseRun) batch(ctx context.Context, prompts []flamingo.Prompt) error {
	ids, shape, ok := r.c.Ints("batch.input_ids")
	if !ok {
		return nil
	}
	mask, _, _ := r.c.Ints("batch.attention_mask")
	if len(shape) != 2 || shape[0] > len(prompts) || len(mask) != len(ids) {
		return fmt.Errorf("conditioned: case %s: batch of shape %v", r.c.Name, shape)
	}
	for i := range shape[0] {
		var real []int
		for j := range shape[1] {
			if mask[i*shape[1]+j] != 0 {
				real = append(real, ids[i*shape[1]+j])
			}
		}
		prompts[i].Tokens = real
	}
	out, err := r.m.LM.Generate(ctx, prompts[:shape[0]], flamingo.Options{MaxTokens: caseTokens})
	if err != nil {
		return err
	}
	r.emit("batch.generated_ids", idsTensor(out...))
	return nil
}

func idsTensor(rows ...[]int) tensor.Tensor {
	t := tensor.New(len(rows), len(rows[0]))
	for i, ids := range rows {
		for j, id := range ids {
			t.Row(i)[j] = float32(id)
		}
	}
	return t
}
