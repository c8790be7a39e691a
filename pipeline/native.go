package pipeline

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"image"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/internal/nn"
	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/modality/imagefile"
	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/perceiver"
	"github.com/mmserve/mmserve/resampler"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// nativeArch is the architecture of a model.json.
const nativeArch = "mmserve"

func init() { Register(nativeArch, openNative) }

// nativeModel answers a composition: media through their own rows into one shared encoder,
// heads that query its latents, a resampler to soft tokens, a caption language model.
type nativeModel struct {
	base
	config    *nativeConfig
	encoderIs perceiver.Config
	media     map[string]*nativeRows
	encoder   *perceiver.Encoder
	decoder   *perceiver.Decoder
	heads     map[string]nativeOutput
	order     []string // names of heads, sorted
	resampler *resampler.Resampler
	caption   *captioner
}

// nativeOutput is a loaded head.
type nativeOutput struct {
	nativeHead
	query     tensor.Tensor // 1×D; for masked bytes empty
	rowsQuery nn.Linear     // masked bytes: a row to its query
	out       nn.Linear
}

func openNative(_ context.Context, d *Dir, s weights.Scope, opt Options) (Model, error) {
	c, err := parseNative(d.Config)
	if err != nil {
		return nil, fmt.Errorf("pipeline: %s: %w", d.name(), err)
	}
	m := &nativeModel{config: c, media: map[string]*nativeRows{}, heads: map[string]nativeOutput{}}
	if err := m.build(s, opt); err != nil {
		return nil, fmt.Errorf("pipeline: %s: %w", d.name(), err)
	}
	m.describe(d, m.encoderIs, opt)
	m.info.Name, m.info.Task = c.Name, "several"
	m.info.Modalities = slices.Sorted(maps.Keys(m.media))
	m.info.Decodes = m.latentOutputs()
	if m.decoder != nil {
		m.info.QueryDim = m.decoder.QueryDim()
	}
	if r := m.resampler; r != nil {
		m.info.Outputs = append(m.info.Outputs, OutputSoftTokens)
		m.info.SoftTokens, m.info.SoftTokenDim = r.Config.Count(), r.Config.Out
		m.info.SoftTokenKind = "cross_attention"
	}
	return m, nil
}

// build loads every part.
func (m *nativeModel) build(s weights.Scope, opt Options) error {
	c, popt := m.config, perceiver.Options{Plain: opt.Plain}
	// Stems are small and precede everything else: they stay in float32.
	for name, mod := range c.Modalities {
		rows, err := newNativeRows(s.At("modalities", name).WithDType(kernel.F32), name, c.withParsing(mod), c.RowChannels)
		if err != nil {
			return err
		}
		m.media[name] = rows
	}
	var err error
	if m.encoderIs, err = perceiver.ParseConfig(c.Encoder); err != nil {
		return err
	}
	if m.encoder, err = perceiver.NewEncoder(s, m.encoderIs, c.RowChannels, popt); err != nil {
		return err
	}
	if err := m.buildHeads(s, popt); err != nil {
		return err
	}
	if r := c.Resampler; r != nil {
		m.resampler, err = resampler.New(s.At("resampler"), resampler.Config{
			Kind: resampler.OpenFlamingo, In: r.Dim, Width: r.Dim, Out: r.Dim, Latents: r.Latents, Depth: r.Depth,
			Heads: r.Heads, HeadDim: r.DimHead, Hidden: r.Dim * r.FFMult, Act: kernel.GELU, Eps: 1e-5,
		})
		if err != nil {
			return err
		}
	}
	if len(c.Caption) > 0 {
		m.caption, err = newCaptioner(s.At("caption"), c.Caption, m.resampler)
	}
	return err
}

// withParsing lets a text adapter read "[MASK]" where a head fills masks.
func (c *nativeConfig) withParsing(m nativeModality) nativeModality {
	masks := slices.ContainsFunc(slices.Collect(maps.Values(c.Heads)), func(h nativeHead) bool { return h.Kind == headMaskedBytes })
	if m.Adapter != "text" || !masks {
		return m
	}
	options := map[string]json.RawMessage{}
	if len(m.Options) > 0 && json.Unmarshal(m.Options, &options) != nil {
		return m // the adapter says what is wrong with its options
	}
	if _, said := options["parse"]; !said {
		options["parse"] = json.RawMessage("true")
	}
	m.Options = mustJSON(options)
	return m
}

func (m *nativeModel) buildHeads(s weights.Scope, opt perceiver.Options) (err error) {
	c := m.config
	if c.Decoder == nil {
		return nil
	}
	d := m.encoderIs.LatentDim
	m.decoder, err = perceiver.NewDecoder(s.At("decoder"), perceiver.DecoderConfig{
		QueryDim: d, LatentDim: d, QKChannels: c.Decoder.QK, VChannels: c.Decoder.V, Heads: c.Decoder.Heads,
		Widening: c.Decoder.Widening, Act: cmp.Or(c.Decoder.Act, "gelu"), Residual: c.Decoder.Residual == nil || *c.Decoder.Residual,
	}, opt)
	if err != nil {
		return err
	}
	m.order = slices.Sorted(maps.Keys(c.Heads))
	for _, name := range m.order {
		h := c.Heads[name]
		at := s.At("heads", name)
		out := nativeOutput{nativeHead: h, out: nn.NewLinear(at, d, h.width())}
		if h.Kind == headMaskedBytes {
			out.rowsQuery = nn.NewLinear(at.At("query"), c.RowChannels, d)
		} else {
			out.query = at.Tensor("query", 1, d)
		}
		m.heads[name] = out
	}
	return nil
}

// part is one medium of an item with the rows that read it.
type nativePart struct {
	name string
	in   media.Input
	rows *nativeRows
	cost modality.Cost
}

// parts finds the modality of every part of an item and plans it.
func (m *nativeModel) parts(ctx context.Context, it Item) ([]nativePart, error) {
	if len(it.Parts) == 0 {
		return nil, fmt.Errorf("pipeline: %w: no parts", ErrInput)
	}
	var parts []nativePart
	for _, p := range it.Parts {
		in := p.Input
		in.Limits = m.limits
		h, err := in.Header()
		if err != nil {
			return nil, err
		}
		name, err := m.modality(p, h)
		if err != nil {
			return nil, err
		}
		r, err := m.media[name].with(p.Options)
		if err != nil {
			return nil, err
		}
		cost, err := r.adapter.Plan(ctx, h)
		if err != nil {
			return nil, err
		}
		parts = append(parts, nativePart{name, in, r, cost})
	}
	return parts, nil
}

// modality is the name of the modality that reads a part: the part's role or modality where
// the model has one of that name, else the one whose adapter reads the medium.
func (m *nativeModel) modality(p Part, h media.Header) (string, error) {
	for _, name := range []string{p.Role, p.Modality} {
		if _, ok := m.media[name]; ok {
			return name, nil
		}
	}
	adapter := p.Modality
	if adapter == "" {
		var err error
		if adapter, _, err = modality.Detect(h); err != nil {
			return "", err
		}
	}
	var names []string
	for _, name := range m.info.Modalities {
		if m.config.Modalities[name].Adapter == adapter {
			names = append(names, name)
		}
	}
	switch {
	case len(names) == 1:
		return names[0], nil
	case len(names) > 1:
		return "", fmt.Errorf("pipeline: %w: %s is read by %s of %s: give the part one of these as its role", ErrInput, adapter, strings.Join(names, " and by "), m.info.Name)
	case h.Parts != nil:
		adapter = "a folder of them: name its files"
	}
	return "", media.Errorf(media.Unsupported, "pipeline: %s takes %s, not %s", m.info.Name, strings.Join(m.info.Modalities, ", "), adapter)
}

// reads reports whether the modality of that name has an adapter.
func (m *nativeModel) reads(name, adapter string) bool {
	return m.config.Modalities[name].Adapter == adapter
}

// Plan says what an item costs.
func (m *nativeModel) Plan(ctx context.Context, it Item) (Plan, error) {
	_, plan, err := m.planned(ctx, it)
	return plan, err
}

// planned is the parts of an item and what they cost together.
func (m *nativeModel) planned(ctx context.Context, it Item) ([]nativePart, Plan, error) {
	parts, err := m.parts(ctx, it)
	if err != nil {
		return nil, Plan{}, err
	}
	var plan Plan
	rows := 0
	for i, p := range parts {
		n, flops, held, err := p.rows.plan(p.cost)
		if err != nil {
			return nil, Plan{}, err
		}
		if i == 0 {
			plan.Cost = p.cost
		} else {
			plan.Modality, plan.MediaType = "fuse", ""
			plan.DecodedBytes += p.cost.DecodedBytes
			plan.Decoding += p.cost.Decoding
		}
		rows += n
		plan.DecodedBytes += held
		plan.FLOPs += flops
	}
	plan.Rows, plan.RowChannels = rows, m.config.RowChannels
	if len(parts) > 1 {
		plan.DecodedBytes += bytesOf(rows, m.config.RowChannels) // all after one another
	}
	plan.FLOPs += encoderFLOPs(m.encoderIs, rows, m.config.RowChannels)
	return parts, plan, nil
}

// pass is one item on its way through the model: everything lives in the arena.
type nativePass struct {
	rows    tensor.Tensor // M×C, all parts after one another
	latents tensor.Tensor // 1×N×D
	grid    []int
	names   []string // modality of each part
	plan    Plan
	parts   []nativePart
}

// run reads an item and encodes it.
func (m *nativeModel) run(ctx context.Context, a *tensor.Arena, it Item) (*nativePass, error) {
	p, err := m.read(ctx, a, it)
	if err != nil {
		return nil, err
	}
	p.latents, err = m.encoder.Encode(ctx, a, []perceiver.Input{{Rows: perceiver.Matrix(p.rows)}})
	return p, err
}

// read makes the rows of an item.
func (m *nativeModel) read(ctx context.Context, a *tensor.Arena, it Item) (*nativePass, error) {
	parts, plan, err := m.planned(ctx, it)
	if err != nil {
		return nil, err
	}
	p := &nativePass{plan: plan, parts: parts}
	var pieces []tensor.Tensor
	total := 0
	for _, part := range parts {
		rows, grid, found, err := part.rows.adapt(ctx, a, part.in)
		if err != nil {
			return nil, err
		}
		pieces = append(pieces, rows)
		total += rows.Dim(0)
		p.names = append(p.names, part.name)
		p.grid = grid
		for _, n := range found.Notes {
			if !slices.Contains(p.plan.Notes, n) {
				p.plan.Notes = append(p.plan.Notes, n)
			}
		}
	}
	p.rows = pieces[0]
	if len(pieces) > 1 {
		p.grid = nil
		p.rows = a.New(total, m.config.RowChannels)
		at := 0
		for _, piece := range pieces {
			at += copy(p.rows.Data[at:], piece.Data)
		}
	}
	p.plan.Rows = total
	return p, nil
}

// answer queries the latents with one head's query: its values, width of the head.
func (m *nativeModel) answer(ctx context.Context, a *tensor.Arena, latents tensor.Tensor, name string) (tensor.Tensor, error) {
	h := m.heads[name]
	return m.query(ctx, a, latents, h, h.query)
}

// query answers rows of queries (O×D) from latents with a head's Linear: O×width.
func (m *nativeModel) query(ctx context.Context, a *tensor.Arena, latents tensor.Tensor, h nativeOutput, queries tensor.Tensor) (tensor.Tensor, error) {
	out := a.New(queries.Dim(0), h.width())
	err := m.decoder.Decode(ctx, a, m.decoder.Remember(a, latents), []perceiver.Rows{perceiver.Matrix(queries)}, func(_, from int, y tensor.Tensor) error {
		h.out.Into(out.Slice(from, from+y.Dim(0)), y, kernel.Epilogue{})
		return nil
	})
	if err != nil {
		return out, err
	}
	if h.Kind == headEmbedding {
		normalise(out.Data)
	}
	if !finite(out) {
		return out, fmt.Errorf("pipeline: head: %w", ErrNotFinite)
	}
	return out, nil
}

// normalise scales a vector to length one.
func normalise(x []float32) {
	sum := 0.0
	for _, v := range x {
		sum += float64(v) * float64(v)
	}
	k := float32(1 / max(math.Sqrt(sum), 1e-12))
	for i := range x {
		x[i] *= k
	}
}

// embedding is the name of the head that gives vectors for search, "" for none.
func (m *nativeModel) embedding() string {
	for _, name := range m.order {
		if m.heads[name].Kind == headEmbedding {
			return name
		}
	}
	return ""
}

// pooled is the vector for search of latents (1×N×D): the embedding head's, else their mean.
func (m *nativeModel) pooled(ctx context.Context, a *tensor.Arena, latents tensor.Tensor) (tensor.Tensor, error) {
	name := m.embedding()
	if name == "" {
		return pooled(latents.At(0)), nil
	}
	v, err := m.answer(ctx, a, latents, name)
	if err != nil {
		return tensor.Tensor{}, err
	}
	return tensor.Of(v.Clone().Data, v.Cols()), nil
}

// Encode returns the latents of an item. The pooled vector is the embedding head's, where the
// model has one: a unit vector in the space all its media share.
func (m *nativeModel) Encode(ctx context.Context, it Item, opt EncodeOptions) (*Encoding, error) {
	a, done := m.arena(opt.Trace)
	defer done()
	p, err := m.run(ctx, a, it)
	if err != nil {
		return nil, err
	}
	enc := &Encoding{Plan: p.plan, Notes: p.plan.Notes, Grid: p.grid}
	x := p.latents.At(0)
	if err := fill(enc, opt, x); err != nil {
		return nil, err
	}
	if opt.wants(OutputByteArray) {
		enc.ByteArray = p.rows.Clone()
	}
	if m.embedding() != "" && opt.wants(OutputPooled) {
		if enc.Pooled, err = m.pooled(ctx, a, p.latents); err != nil {
			return nil, err
		}
	}
	if opt.wants(OutputSoftTokens) && m.resampler != nil {
		soft, err := m.resampler.Forward(a, resampler.Input{X: p.latents})
		if err != nil {
			return nil, err
		}
		enc.SoftTokens = soft.At(0).Clone()
	}
	if opt.wants(OutputAttention) {
		enc.Attention, err = attentionOf(ctx, a, m.encoder, perceiver.Input{Rows: perceiver.Matrix(p.rows)}, opt.Latent)
	}
	return enc, err
}

// Predict answers every head that the item's media have, and captions what is not text alone
// when asked to.
func (m *nativeModel) Predict(ctx context.Context, it Item, opt PredictOptions) (*Prediction, error) {
	a, done := m.arena(opt.Trace)
	defer done()
	p, err := m.run(ctx, a, it)
	if err != nil {
		return nil, err
	}
	out := &Prediction{Task: "several", Plan: p.plan, Notes: p.plan.Notes}
	for _, name := range m.order {
		h := m.heads[name]
		if !slices.ContainsFunc(p.names, func(n string) bool { return slices.Contains(h.Modalities, n) }) {
			continue
		}
		switch h.Kind {
		case headClasses:
			logits, err := m.answer(ctx, a, p.latents, name)
			if err != nil {
				return nil, err
			}
			out.Heads = append(out.Heads, Head{Task: name, Classes: topClasses(logits.Row(0), opt.top(), labeler(h.Labels))})
		case headMaskedBytes:
			if err := m.fillMasks(ctx, a, p, h, opt.top(), out); err != nil {
				return nil, err
			}
		}
	}
	if opt.Caption && m.caption != nil && !m.onlyText(p.names) {
		out.Caption, err = m.caption.say(ctx, a, m.resampler, p.latents)
	}
	return out, err
}

// onlyText reports whether every part of an item is text, which needs no caption.
func (m *nativeModel) onlyText(names []string) bool {
	return !slices.ContainsFunc(names, func(n string) bool { return !m.reads(n, "text") })
}

// fillMasks answers the masked bytes of a text, when it has any.
func (m *nativeModel) fillMasks(ctx context.Context, a *tensor.Arena, p *nativePass, h nativeOutput, top int, out *Prediction) error {
	if len(p.names) != 1 || !m.reads(p.names[0], "text") {
		return nil
	}
	values, err := textIDs(ctx, p.parts[0])
	if err != nil {
		return err
	}
	var at []int
	for i, id := range values {
		if id == modality.MASK && i < p.rows.Dim(0) {
			at = append(at, i)
		}
	}
	if len(at) == 0 {
		return nil
	}
	rows := a.New(len(at), m.config.RowChannels)
	for i, r := range at {
		copy(rows.Row(i), p.rows.Row(r))
	}
	logits, err := m.query(ctx, a, p.latents, h, h.rowsQuery.Forward(a, rows))
	if err != nil {
		return err
	}
	for i, pos := range at {
		c := topClasses(logits.Row(i), top, byteLabel)
		out.Masks = append(out.Masks, Masked{Position: pos, Candidates: c})
		values[pos] = c[0].Index
	}
	out.Text = modality.Tokenizer{}.Decode(values, true)
	return nil
}

// textIDs reads a text's ids through its adapter.
func textIDs(ctx context.Context, p nativePart) ([]int, error) {
	arr, err := p.rows.adapter.Adapt(ctx, p.in)
	if err != nil {
		return nil, err
	}
	defer arr.Close()
	t, err := materialise(ctx, arr)
	if err != nil || t.Dim(1) != 1 {
		return nil, err
	}
	ids := make([]int, len(t.Data))
	for i, v := range t.Data {
		ids[i] = int(v)
	}
	return ids, nil
}

// Canary is a short text or a small picture; no parts for a model that reads neither.
func (m *nativeModel) Canary() Item {
	if it := m.madeUp("text"); len(it.Parts) > 0 {
		return it
	}
	return m.madeUp("image")
}

// Work implements Bencher: pictures, or short texts where the model reads none, all heads of
// each answered.
func (m *nativeModel) Work(batch int) (float64, func(context.Context) error, error) {
	it := m.madeUp("image")
	if len(it.Parts) == 0 {
		it = m.madeUp("text")
	}
	if len(it.Parts) == 0 {
		return 0, nil, fmt.Errorf("pipeline: %s reads neither pictures nor text: it cannot be measured on made-up input", m.info.Name)
	}
	plan, err := m.Plan(context.Background(), it)
	return float64(batch) * plan.FLOPs, func(ctx context.Context) error {
		for range batch {
			if _, err := m.Predict(ctx, it, PredictOptions{}); err != nil {
				return err
			}
		}
		return nil
	}, err
}

// madeUp is a small input for the modality that has that adapter, without parts for none.
func (m *nativeModel) madeUp(adapter string) Item {
	data := map[string][]byte{"text": []byte("canary"), "image": greyPNG()}[adapter]
	for _, name := range m.info.Modalities {
		if m.reads(name, adapter) {
			return Item{Parts: []Part{{Input: media.Bytes("", data), Modality: name}}}
		}
	}
	return Item{}
}

// greyPNG is a grey picture of 64×64 pixels.
var greyPNG = sync.OnceValue(func() []byte {
	p := image.NewNRGBA(image.Rect(0, 0, 64, 64))
	for i := range p.Pix {
		p.Pix[i] = 128 | uint8(i%4/3*127) // opaque
	}
	b, err := imagefile.EncodePNG(p)
	if err != nil {
		panic("pipeline: " + err.Error()) // it is always the same picture
	}
	return b
})
