package pipeline

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/mmserve/mmserve/flamingo"
	"github.com/mmserve/mmserve/flamingo/tokenizer"
	"github.com/mmserve/mmserve/internal/feed"
	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/modality/imagefile"
	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/pipeline/conditioned"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/vision"
	"github.com/mmserve/mmserve/weights"
)

func init() {
	for _, arch := range []string{"IdeficsForVisionText2Text", "idefics", "Idefics2ForConditionalGeneration", "idefics2", "openflamingo", "ip_adapter_plus", "MiniCPMV", "minicpmv", "OpenFlamingo", "IPAdapter"} {
		Register(arch, openPictures)
		joined[arch], partFiles[arch] = joinPictures, pictureFiles
	}
}

// pictureModel answers the published models that speak about pictures, and the picture sides
// of those whose language model is elsewhere.
type pictureModel struct {
	base
	net       *conditioned.Model
	processor *modality.ImageProcessor
	slicer    *slicer              // MiniCPM-V; nil for others
	tok       *tokenizer.Tokenizer // nil without a tokenizer.json
	family    pictureFamily
	stop      []int
}

func openPictures(ctx context.Context, d *Dir, s weights.Scope, opt Options) (Model, error) {
	if bareResampler(d, inScope(s)) {
		return openResampler(ctx, d, s, opt)
	}
	l, err := layoutOf(d)
	if err != nil {
		return nil, err
	}
	net, err := conditioned.New(s, l.config, conditioned.Options{PictureOnly: l.pictureOnly})
	if err != nil {
		return nil, err
	}
	m := &pictureModel{net: net, tok: l.tok, family: l.family}
	m.limits = opt.Limits
	m.info = Info{Architecture: d.Arch, Task: "image_encoding", Modalities: []string{"image"}, Outputs: []string{OutputLatents, OutputSoftTokens, OutputPooled}}
	m.info.Latents, m.info.LatentDim = net.Tower.Config.Tokens(), net.Tower.Config.Width
	m.info.SoftTokenKind = string(feed.CrossAttention)
	if r := net.Resampler; r != nil {
		m.info.SoftTokens, m.info.SoftTokenDim = r.Config.Count(), r.Config.Out
		m.info.Latents, m.info.LatentDim = r.Config.Count(), r.Config.Out
		if r.Config.SoftTokens() {
			m.info.SoftTokenKind = string(feed.SoftTokens)
		}
	}
	if l.family.convention == feed.MiniCPMVText {
		m.slicer, m.processor, err = readSlicer(d)
	} else {
		m.processor, err = readProcessor(d)
	}
	if err != nil {
		return nil, err
	}
	if m.processor == nil {
		if m.processor, err = l.family.preset(net.Tower.Config); err != nil {
			return nil, err
		}
	}
	if net.LM != nil {
		m.info.Task = "image_text_generation"
		if m.tok != nil {
			if err := net.LM.Config.CheckTokenizer(m.tok.Size()); err != nil {
				return nil, err
			}
			m.stop = append(m.family.stops(m.tok), endIDs(l.config)...)
		}
	}
	return m, nil
}

// Plan says what a picture costs.
func (m *pictureModel) Plan(ctx context.Context, it Item) (Plan, error) {
	var plan Plan
	for i, p := range it.Parts {
		cost, err := m.imageCost(ctx, p)
		if err != nil {
			return plan, err
		}
		if err := m.processor.Check(cost.Width, cost.Height, m.limits); err != nil {
			return plan, err
		}
		pictures := m.processor.Sizes(cost.Width, cost.Height)
		if m.slicer != nil {
			pictures = m.slicer.sizes(cost.Width, cost.Height)
		}
		if i == 0 {
			plan.Cost = cost
			plan.Rows = 0
		} else {
			plan.Decoding += cost.Decoding
		}
		for _, s := range pictures {
			t := m.net.Tower.Config
			tokens := (s[0] / t.Patch) * (s[1] / t.Patch)
			plan.Rows += tokens
			plan.RowChannels = t.Channels * t.Patch * t.Patch
			plan.DecodedBytes += int64(12 * s[0] * s[1])
			plan.FLOPs += m.flops(tokens)
		}
	}
	if len(it.Parts) == 0 {
		return plan, fmt.Errorf("pipeline: %w: no picture", ErrInput)
	}
	return plan, nil
}

// flops is tower and resampler over the tokens of one picture.
func (m *pictureModel) flops(tokens int) float64 {
	t := m.net.Tower.Config
	f := 2 * float64(tokens) * float64(t.Patch*t.Patch*t.Channels) * float64(t.Width)
	layer := 2*float64(tokens)*float64(t.Width)*float64(4*t.Width+2*t.Hidden) + 4*float64(tokens)*float64(tokens)*float64(t.Width)
	f += float64(t.Layers) * layer
	if r := m.net.Resampler; r != nil {
		c := r.Config
		inner, n := c.Heads*c.HeadDim, c.Count()
		f += float64(c.Depth) * (attentionLayer(n, tokens+n, c.Width, c.Width, inner, inner, 0) + 4*float64(n)*float64(c.Width)*float64(c.Hidden))
	}
	return f
}

// split says into how many pictures a file was divided, and how many of them lie side by side.
type split struct{ n, cols int }

// encode turns the parts into latents, P×n×W scratch, and says how many pictures each part
// became.
func (m *pictureModel) encode(ctx context.Context, a *tensor.Arena, parts []Part) (latents tensor.Tensor, pictures []split, notes []string, err error) {
	var all []tensor.Tensor
	for _, p := range parts {
		if _, err := m.header(p, "image"); err != nil {
			return latents, nil, nil, err
		}
		in := p.Input
		in.Limits = m.limits
		list, cols, more, err := m.pictures(ctx, in)
		if err != nil {
			return latents, nil, nil, err
		}
		notes = append(notes, more...)
		for _, at := range list {
			if err := ctx.Err(); err != nil {
				return latents, nil, nil, err
			}
			pic := at()
			mark := a.Mark()
			z, err := m.net.Encode(a, pic)
			if err != nil {
				return latents, nil, nil, err
			}
			all = append(all, z.Clone())
			a.Release(mark)
		}
		pictures = append(pictures, split{n: len(list), cols: cols})
	}
	if len(all) == 0 {
		return latents, nil, nil, fmt.Errorf("pipeline: %w: no picture", ErrInput)
	}
	latents = a.New(len(all), all[0].Dim(1), all[0].Dim(2))
	for i, z := range all {
		copy(latents.At(i).Data, z.Data)
	}
	if !finite(latents) {
		return latents, nil, nil, fmt.Errorf("pipeline: latents: %w", ErrNotFinite)
	}
	return latents, pictures, notes, nil
}

// pictures prepares one file: one picture, or the parts that a family splits it into. Each is
// made numbers when it is its turn.
func (m *pictureModel) pictures(ctx context.Context, in media.Input) (out []func() conditioned.Pictures, cols int, notes []string, err error) {
	if m.slicer != nil {
		list, cols, notes, err := m.slicer.pictures(ctx, m.processor, in)
		for _, pic := range list {
			out = append(out, func() conditioned.Pictures { return pic })
		}
		return out, cols, notes, err
	}
	img, err := imagefile.Decode(ctx, in, imagefile.Options{})
	if err != nil {
		return nil, 0, nil, err
	}
	if err := m.processor.Check(img.Config.Width, img.Config.Height, in.Limits); err != nil {
		return nil, 0, nil, err
	}
	prepared, err := m.processor.Prepare(ctx, img)
	if err != nil {
		return nil, 0, nil, err
	}
	for _, p := range prepared.Pictures {
		out = append(out, func() conditioned.Pictures { return conditioned.Pictures{Pixels: m.pixels(p)} })
	}
	return out, 1, append(slices.Clone(img.Notes), prepared.Notes...), nil
}

// pixels is a picture as the tower reads it, 1×H×W×3. The reference pads the parts of a file to
// one size and masks every patch that is not whole, so each part alone, whose incomplete
// patches the tower leaves out, has the same real ones.
func (m *pictureModel) pixels(p *imagefile.RGB) tensor.Tensor {
	return vision.ChannelsLast(m.processor.Normalise([]*imagefile.RGB{p}).Values)
}

// Encode returns the latents of the pictures, one after the other: (P·n)×W.
func (m *pictureModel) Encode(ctx context.Context, it Item, opt EncodeOptions) (*Encoding, error) {
	plan, err := m.Plan(ctx, it)
	if err != nil {
		return nil, err
	}
	a, done := m.arena(opt.Trace)
	defer done()
	z, _, notes, err := m.encode(ctx, a, it.Parts)
	if err != nil {
		return nil, err
	}
	rows := z.Reshape(z.Rows(), z.Cols())
	enc := &Encoding{Plan: plan, Notes: notes}
	if opt.wants(OutputSoftTokens) {
		enc.SoftTokens = rows.Clone()
	}
	return enc, fill(enc, opt, rows)
}

// Predict describes a picture with the prompt that the family's models were evaluated with.
func (m *pictureModel) Predict(ctx context.Context, it Item, opt PredictOptions) (*Prediction, error) {
	if m.net.LM == nil {
		return nil, m.noTask("it has no language model; use encode")
	}
	plan, err := m.Plan(ctx, it)
	if err != nil {
		return nil, err
	}
	g, err := m.Generate(ctx, Prompt{Text: m.family.caption, Parts: it.Parts}, GenerateOptions{}, nil)
	if err != nil {
		return nil, err
	}
	return &Prediction{Task: "image_captioning", Caption: strings.TrimSpace(g.Text), Plan: plan}, nil
}

// Generate implements Generator.
func (m *pictureModel) Generate(ctx context.Context, p Prompt, opt GenerateOptions, emit func(string) error) (*Generation, error) {
	if m.net.LM == nil {
		return nil, m.noTask("it has no language model")
	}
	if m.tok == nil {
		return nil, m.noTask("its directory has no tokenizer.json")
	}
	if p.Text == "" {
		p.Text = m.family.caption
	}
	pieces := strings.Split(p.Text, mediaMark)
	if missing := len(p.Parts) - (len(pieces) - 1); missing > 0 {
		pieces = append(make([]string, missing), pieces...) // unmarked pictures go first
	} else if missing < 0 {
		return nil, fmt.Errorf("pipeline: %w: %d %s marks for %d pictures", ErrInput, len(pieces)-1, mediaMark, len(p.Parts))
	}
	a, done := m.arena(nil)
	defer done()
	var latents tensor.Tensor
	var pictures []split
	if len(p.Parts) > 0 {
		var err error
		if latents, pictures, _, err = m.encode(ctx, a, p.Parts); err != nil {
			return nil, err
		}
	}
	text, err := m.text(pieces, pictures, latents)
	if err != nil {
		return nil, err
	}
	tokens := m.tok.Encode(text, true)
	return m.generate(ctx, m.net.Prompt(tokens, latents), opt, emit)
}

func (m *pictureModel) generate(ctx context.Context, p flamingo.Prompt, opt GenerateOptions, emit func(string) error) (*Generation, error) {
	o := flamingo.Options{
		MaxTokens: opt.Limit(), Temperature: opt.Temperature, TopK: opt.TopK, TopP: opt.TopP, Seed: opt.Seed, Stop: m.stop,
	}
	if bad := m.family.banned(m.tok); len(bad) > 0 {
		o.Ban = bad
	}
	g := &Generation{PromptTokens: len(p.Tokens), Stop: "stop"}
	out, words := newTextStream(opt.Stop, emit), m.tok.NewStream()
	stopped := false
	for id, err := range m.net.LM.Stream(ctx, p, o) {
		if err != nil {
			return nil, err
		}
		g.Tokens++
		if stopped, err = out.add([]byte(words.Push(id))); err != nil {
			return nil, err
		}
		if stopped {
			break
		}
	}
	if !stopped {
		if _, err := out.add([]byte(words.Flush())); err != nil {
			return nil, err
		}
		if g.Tokens >= o.MaxTokens {
			g.Stop = "length"
		}
	}
	var err error
	g.Text, err = out.finish()
	return g, err
}

// pictureFamily is what differs in text and pixels between the published families.
type pictureFamily struct {
	name       string // of the image preset
	convention feed.Convention
	caption    string   // prompt for a description; "<image>" stands for the picture
	stopTokens []string // end the text, where the tokenizer has them
	banTokens  []string
}

var pictureFamilies = map[string]pictureFamily{
	"openflamingo": {"openclip", feed.OpenFlamingoText, "<image>Output:", []string{"<|endofchunk|>", "<|endoftext|>", "</s>"}, nil},
	"idefics": {"idefics", feed.IdeficsText, "<image>\nAssistant:", []string{"</s>", "<end_of_utterance>"},
		[]string{"<fake_token_around_image>", "<image>"}},
	"idefics2": {"idefics2", feed.Idefics2Text, "User:<image>Describe this image.<end_of_utterance>\nAssistant:", []string{"</s>", "<end_of_utterance>"},
		[]string{"<fake_token_around_image>", "<image>"}},
	"ip_adapter_plus": {"clip", "", "", nil, nil},
	"minicpmv": {"siglip", feed.MiniCPMVText, "<|im_start|>user\n<image>\nDescribe this image.<|im_end|>\n<|im_start|>assistant\n",
		[]string{"<|im_end|>", "<|endoftext|>"}, []string{"<unk>"}},
}

// preset is the family's published preprocessing, for a directory without a
// preprocessor_config.json. Its sizes are the published ones.
func (f pictureFamily) preset(t vision.Config) (*modality.ImageProcessor, error) {
	if f.name == "idefics2" || t.Image == publishedSide {
		return modality.ImagePreset(f.name)
	}
	text := fmt.Sprintf(`{"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": %d}, "crop_size": {"height": %[1]d, "width": %[1]d}}`, t.Image)
	if f.name == "idefics" {
		text = fmt.Sprintf(`{"image_processor_type": "IdeficsImageProcessor", "image_size": %d}`, t.Image)
	}
	return modality.ParseImageProcessor([]byte(text))
}

func (f pictureFamily) stops(t *tokenizer.Tokenizer) []int  { return idsOf(t, f.stopTokens) }
func (f pictureFamily) banned(t *tokenizer.Tokenizer) []int { return idsOf(t, f.banTokens) }

func idsOf(t *tokenizer.Tokenizer, tokens []string) []int {
	var ids []int
	for _, s := range tokens {
		if id, ok := t.ID(s); ok {
			ids = append(ids, id)
		}
	}
	return ids
}

// mark is the text that stands for file i. MiniCPM-V writes its number, the whole picture, then
// its slices row by row.
func (m *pictureModel) mark(i int, s split, latents int) (string, error) {
	if m.slicer == nil {
		return feed.Placeholders(m.family.convention, s.n, latents)
	}
	mark, err := feed.Placeholders(m.family.convention, 1, latents)
	if err != nil {
		return "", err
	}
	slice := strings.NewReplacer("<image>", "<slice>", "</image>", "</slice>").Replace(mark)
	var b strings.Builder
	if m.slicer.ids {
		fmt.Fprintf(&b, "<image_id>%d</image_id>", i)
	}
	b.WriteString(mark)
	for k := range s.n - 1 {
		if k > 0 && k%s.cols == 0 {
			b.WriteByte('\n')
		}
		b.WriteString(slice)
	}
	return b.String(), nil
}

// text puts the family's placeholders between the pieces of a prompt; neighbouring fake tokens
// are merged.
func (m *pictureModel) text(pieces []string, pictures []split, latents tensor.Tensor) (string, error) {
	var b strings.Builder
	for i, piece := range pieces {
		if i > 0 {
			mark, err := m.mark(i-1, pictures[i-1], latents.Dim(1))
			if err != nil {
				return "", err
			}
			b.WriteString(mark)
		}
		b.WriteString(piece)
	}
	const fake = "<fake_token_around_image>"
	return strings.ReplaceAll(b.String(), fake+fake, fake), nil
}

// pad reports whether the special tokens of a tokenizer's directory include one for padding.
func pad(files ...[]byte) bool {
	return slices.ContainsFunc(files, func(b []byte) bool { return hasKey(b, "pad_token") })
}
