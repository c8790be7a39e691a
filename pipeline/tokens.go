package pipeline

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/resampler"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

func init() {
	for _, arch := range []string{
		"openflamingo_perceiver_resampler", "lucidrains_flamingo_perceiver_resampler",
		"ip_adapter_plus_resampler", "qwen_vl_style_resampler", "minicpmv_resampler",
	} {
		Register(arch, openResampler)
	}
	joined["qwen_vl_style_resampler"] = func(d *Dir, _ Options) (weights.Source, func(), error) {
		c, err := d.checkpoint()
		if err != nil {
			return nil, nil, err
		}
		for n := range c.Names() {
			if strings.HasPrefix(n, "transformer.visual.attn_pool.") {
				return resampler.QwenVLNames(c), func() { c.Close() }, nil
			}
		}
		return c, func() { c.Close() }, nil
	}
}

// resamplerModel answers a resampler by itself. It takes the tokens of a vision tower as an
// .npy array: tokens×width, or pictures×tokens×width.
type resamplerModel struct {
	base
	net *resampler.Resampler
}

func openResampler(_ context.Context, d *Dir, s weights.Scope, opt Options) (Model, error) {
	c, err := resampler.ParseConfig(d.Config)
	if err != nil {
		return nil, err
	}
	at := s
	if place := resamplerPlace(inScope(s), c); place != "" {
		at = s.At(place)
	}
	m := &resamplerModel{}
	if m.net, err = resampler.New(at, c); err != nil {
		return nil, err
	}
	m.limits = opt.Limits
	m.info = Info{
		Architecture: d.Arch, Task: "resampling", Modalities: []string{"array"}, Outputs: []string{OutputLatents, OutputSoftTokens, OutputPooled},
		Latents: c.Count(), LatentDim: c.Out, SoftTokens: c.Count(), SoftTokenDim: c.Out, SoftTokenKind: "cross_attention",
	}
	if c.SoftTokens() {
		m.info.SoftTokenKind = "soft_tokens"
	}
	return m, nil
}

// resamplerPlace is where a checkpoint keeps the resampler: the published place, the last part
// of it, or "" for the root.
func resamplerPlace(has func(prefix string) bool, c resampler.Config) string {
	_, last, _ := strings.Cut(c.Prefix(), ".")
	for _, prefix := range []string{c.Prefix(), last, "resampler"} {
		if prefix != "" && has(prefix) {
			return prefix
		}
	}
	return ""
}

// bareResampler reports whether the checkpoint of a whole model's configuration holds its
// resampler alone, as a connector saved by itself does.
func bareResampler(d *Dir, has func(prefix string) bool) bool {
	c, err := resampler.ParseConfig(d.Config)
	part := map[resampler.Kind]string{resampler.Idefics: "blocks", resampler.Idefics2: "perceiver_resampler", resampler.MiniCPMV: "attn"}[c.Kind]
	if err != nil || part == "" || has("model.vision_model") || has("vpm") || has("tower") {
		return false
	}
	place := resamplerPlace(has, c)
	return place != "" || has(part)
}

func inScope(s weights.Scope) func(prefix string) bool {
	return func(prefix string) bool { return s.At(prefix).HasAny() }
}

// below reports which places of a source hold any tensor.
func below(src weights.Source) func(prefix string) bool {
	return func(prefix string) bool {
		for n := range src.Names() {
			if strings.HasPrefix(n, prefix+".") {
				return true
			}
		}
		return false
	}
}

// stated is what the options of an array say of its pictures.
type stated struct {
	// Grids are the rows and columns of each picture's patches; without them a grid is as
	// square as the tokens allow.
	Grids [][2]int `json:"grids"`
	// Masks marks which tokens of each picture are real; without them all are.
	Masks [][]bool `json:"masks"`
}

// plan reads the header of the item's array.
func (m *resamplerModel) plan(it Item) (in media.Input, shape []int, own stated, plan Plan, err error) {
	p, err := one(it, "array")
	if err != nil {
		return in, nil, own, plan, err
	}
	in = p.Input
	in.Limits = m.limits
	h, err := in.Header()
	if err != nil {
		return in, nil, own, plan, err
	}
	if !isArray(p, h) {
		return in, nil, own, plan, media.Errorf(media.Mismatch, "pipeline: %s takes the tokens of a vision tower as an .npy array", m.info.Architecture)
	}
	plan.Cost, shape, err = arrayCost(h, func(s []int) error {
		if n := len(s); n < 2 || n > 5 || s[n-1] != m.net.Config.In {
			return fmt.Errorf("pipeline: %w: array %v, want tokens×%d or pictures×tokens×%[3]d", ErrInput, s, m.net.Config.In)
		}
		return nil
	})
	if err != nil {
		return in, nil, own, plan, err
	}
	pictures, tokens, _ := pictureAxes(shape)
	plan.FLOPs = float64(pictures) * resamplerFLOPs(m.net.Config, tokens)
	return in, shape, own, plan, modality.Options("array", p.Options, &own)
}

// pictureAxes sees a shape as pictures×tokens×width, the tokens of several frames. Axes before
// the tokens are those of the references: sequences×media, and frames after them.
func pictureAxes(s []int) (pictures, tokens, frames int) {
	switch len(s) {
	case 2:
		return 1, s[0], 0
	case 3:
		return s[0], s[1], 0
	case 4:
		return s[0] * s[1], s[2], 0
	}
	return s[0] * s[1], s[2] * s[3], s[2]
}

// tokens reads the item's array as a batch.
func (m *resamplerModel) tokens(ctx context.Context, it Item) (resampler.Input, Plan, error) {
	in, shape, own, plan, err := m.plan(it)
	if err != nil {
		return resampler.Input{}, plan, err
	}
	x, err := readArray(ctx, in, shape)
	if err != nil {
		return resampler.Input{}, plan, err
	}
	pictures, tokens, frames := pictureAxes(shape)
	out := resampler.Input{X: x.Reshape(pictures, tokens, x.Cols()), Frames: frames, Sizes: own.Grids, Mask: own.Masks}
	if len(shape) > 3 {
		for i := range pictures {
			out.Media = append(out.Media, i%shape[1])
		}
	}
	if out.Sizes == nil {
		out.Sizes = squarest(out.X)
	}
	return out, plan, nil
}

// resamplerFLOPs is a resampler over n tokens of one picture.
func resamplerFLOPs(c resampler.Config, n int) float64 {
	v, l, w := float64(n), float64(c.Count()), float64(c.Width)
	if c.Kind == resampler.QwenVL || c.Kind == resampler.MiniCPMV {
		return 2*v*float64(c.In)*w + 4*w*w*(l+v) + 4*l*v*w + 2*l*w*w
	}
	inner := float64(c.Heads * c.HeadDim)
	kv := inner
	if c.KVHeads > 0 {
		kv = float64(c.KVHeads * c.HeadDim)
	}
	layer := 4*l*w*inner + 4*(v+l)*w*kv + 4*l*(v+l)*inner + 4*l*w*float64(c.Hidden)
	return float64(c.Depth) * layer
}

// Plan says what an array costs, from its header alone.
func (m *resamplerModel) Plan(_ context.Context, it Item) (Plan, error) {
	_, _, _, plan, err := m.plan(it)
	return plan, err
}

// squarest is the patch grid of each picture that is as square as its tokens allow.
func squarest(x tensor.Tensor) [][2]int {
	v := x.Dim(1)
	h := int(math.Sqrt(float64(v)))
	for v%h != 0 {
		h--
	}
	return slices.Repeat([][2]int{{h, v / h}}, x.Dim(0))
}

// Encode returns the latents of the array's pictures, one after the other.
func (m *resamplerModel) Encode(ctx context.Context, it Item, opt EncodeOptions) (*Encoding, error) {
	x, plan, err := m.tokens(ctx, it)
	if err != nil {
		return nil, err
	}
	a, done := m.arena(opt.Trace)
	defer done()
	z, err := m.net.Forward(a, x)
	if err != nil {
		return nil, fmt.Errorf("pipeline: %w: %w", ErrInput, err)
	}
	rows := z.Reshape(z.Rows(), z.Cols())
	enc := &Encoding{Plan: plan}
	if opt.wants(OutputSoftTokens) {
		enc.SoftTokens = rows.Clone()
	}
	return enc, fill(enc, opt, rows)
}

// Predict refuses: there is no head.
func (m *resamplerModel) Predict(context.Context, Item, PredictOptions) (*Prediction, error) {
	return nil, m.noTask("a resampler has no head; use encode")
}

// Work implements Bencher: the tokens of pictures of 16×16 patches.
func (m *resamplerModel) Work(batch int) (float64, func(context.Context) error, error) {
	const tokens = 256
	x := noise(batch, tokens, m.net.Config.In)
	return float64(batch) * resamplerFLOPs(m.net.Config, tokens), func(context.Context) error {
		a, done := m.arena(nil)
		defer done()
		_, err := m.net.Forward(a, resampler.Input{X: x, Sizes: squarest(x)})
		return err
	}, nil
}
