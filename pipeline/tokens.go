package pipeline

import (
	"context"
	"fmt"
	"math"
	"slices"

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
	for _, prefix := range []string{c.Prefix(), "resampler", "transformer.visual.attn_pool"} {
		if p := s.At(prefix); prefix != "" && p.HasAny() {
			at = p
			break
		}
	}
	m := &resamplerModel{}
	if m.net, err = resampler.New(at, c); err != nil {
		return nil, err
	}
	m.limits, m.dtype = opt.Limits, opt.DType
	m.info = Info{
		Architecture: d.Arch, Task: "resampling", Modalities: []string{"array"}, Outputs: []string{OutputLatents, OutputSoftTokens, OutputPooled},
		DType: opt.DType.String(), Latents: c.Count(), LatentDim: c.Out, SoftTokens: c.Count(), SoftTokenDim: c.Out, SoftTokenKind: "cross_attention",
	}
	if c.SoftTokens() {
		m.info.SoftTokenKind = "soft_tokens"
	}
	return m, nil
}

// tokens reads the item's array as a batch. The part's options may hold "grids", the rows and
// columns of each picture's patches; without them a grid is as square as the tokens allow.
func (m *resamplerModel) tokens(ctx context.Context, it Item) (resampler.Input, Plan, error) {
	fail := func(err error) (resampler.Input, Plan, error) { return resampler.Input{}, Plan{}, err }
	p, err := one(it, "array")
	if err != nil {
		return fail(err)
	}
	in := p.Input
	in.Limits = m.limits
	h, err := in.Header()
	if err != nil {
		return fail(err)
	}
	if !h.Has(0, "\x93NUMPY") {
		return fail(media.Errorf(media.Mismatch, "pipeline: %s takes the tokens of a vision tower as an .npy array", m.info.Architecture))
	}
	x, err := readArray(ctx, in)
	if err != nil {
		return fail(err)
	}
	out, err := m.batch(x)
	if err != nil {
		return fail(err)
	}
	var own struct {
		Grids [][2]int `json:"grids"`
	}
	if err := modality.Options("array", p.Options, &own); err != nil {
		return fail(err)
	}
	if out.Sizes = own.Grids; out.Sizes == nil {
		out.Sizes = squarest(out.X)
	}
	x = out.X
	cost := modality.Cost{Modality: "array", MediaType: "application/x-npy", Rows: x.Rows(), RowChannels: x.Cols(), DecodedBytes: int64(4 * len(x.Data))}
	return out, Plan{Cost: cost, FLOPs: float64(x.Dim(0)) * resamplerFLOPs(m.net.Config, x.Dim(1))}, nil
}

// batch sees an array as pictures×tokens×width. Further axes before the tokens are those of
// the references: sequences×media, and frames after them.
func (m *resamplerModel) batch(x tensor.Tensor) (in resampler.Input, err error) {
	s, want := x.Shape, m.net.Config.In
	if n := len(s); n < 2 || n > 5 || s[n-1] != want || len(x.Data) == 0 {
		return in, fmt.Errorf("pipeline: %w: array %v, want tokens×%d or pictures×tokens×%[3]d", ErrInput, s, want)
	}
	switch len(s) {
	case 2:
		in.X = batch1(x)
	case 3:
		in.X = x
	case 4:
		in.X = x.Reshape(s[0]*s[1], s[2], s[3])
	case 5:
		in.X, in.Frames = x.Reshape(s[0]*s[1], s[2]*s[3], s[4]), s[2]
	}
	if len(s) > 3 {
		for i := range s[0] * s[1] {
			in.Media = append(in.Media, i%s[1])
		}
	}
	return in, nil
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

// Plan says what an array costs.
func (m *resamplerModel) Plan(ctx context.Context, it Item) (Plan, error) {
	_, plan, err := m.tokens(ctx, it)
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
