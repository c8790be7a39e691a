package pipeline

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/perceiver"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

func init() { Register("PerceiverForMultimodalAutoencoding", openMultimodal) }

// multimodalModel answers the multimodal autoencoder: a film, with sound, is reconstructed
// and classified from one set of latents.
type multimodalModel struct {
	base
	perceiverCase
	net   *perceiver.MultimodalAutoencoder
	video modality.Adapter // frames as rows of three colours
	audio modality.Adapter // samples as rows of one
}

func openMultimodal(_ context.Context, d *Dir, s weights.Scope, opt Options) (Model, error) {
	net, err := perceiver.Load(d.Config, s, perceiver.Options{Plain: opt.Plain})
	if err != nil {
		return nil, err
	}
	m := &multimodalModel{net: net.(*perceiver.MultimodalAutoencoder), perceiverCase: perceiverCase{net}}
	c := m.net.Config
	m.describe(d, c, opt)
	m.info.Task, m.info.Modalities = "autoencoding", []string{"audio", "video"}
	m.info.Decodes, m.info.QueryDim = []string{OutputClasses, OutputFrames, OutputAudio, OutputLogits, OutputAnswers}, m.net.QueryDim()
	// The published preprocessing (deepmind-research perceiver/colabs/video_autoencoding.ipynb):
	// the first frames, centre square, scaled to 0..1; 48 kHz sound, one channel.
	side := c.OutputShape[len(c.OutputShape)-1]
	m.video, err = modality.New("video", mustJSON(map[string]any{
		"frames": c.NumFrames, "pad": true, "size": side, "patch": []int{1, 1, 1}, "position": "none",
	}))
	if err != nil {
		return nil, err
	}
	m.audio, err = modality.New("audio", mustJSON(map[string]any{
		"sample_rate": AutoencoderRate, "patch": 1, "position": "none", "length": m.samples(),
	}))
	return m, err
}

// mustJSON encodes options that are made here.
func mustJSON(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic("pipeline: options: " + err.Error())
	}
	return b
}

// samples is the length of the sound the network takes.
func (m *multimodalModel) samples() int {
	return m.net.Config.NumFrames * m.net.Config.AudioSamplesPerFrame
}

// parts finds the film and, if there is one, the sound of an item.
func (m *multimodalModel) parts(it Item) (film Part, sound *Part, err error) {
	found := false
	for i, p := range it.Parts {
		if err := m.plain(p); err != nil {
			return film, nil, err
		}
		name := p.Modality
		if name == "" {
			in := p.Input
			in.Limits = m.limits
			h, err := in.Header()
			if err != nil {
				return film, nil, err
			}
			if name, _, err = modality.Detect(h); err != nil {
				return film, nil, err
			}
		}
		switch {
		case name == "audio" && sound == nil:
			sound = &it.Parts[i]
		case (name == "video" || name == "image") && !found:
			film, found = p, true
		default:
			return film, nil, fmt.Errorf("pipeline: %w: part %d is %s; want one video and at most one sound", ErrInput, i, name)
		}
	}
	if !found {
		return film, nil, fmt.Errorf("pipeline: %w: no video among %d parts", ErrInput, len(it.Parts))
	}
	return film, sound, nil
}

// clip decodes an item: a film of NumFrames frames and as much sound as goes with them,
// silence where there is none.
func (m *multimodalModel) clip(ctx context.Context, it Item) (perceiver.Clip, modality.Cost, error) {
	fail := func(err error) (perceiver.Clip, modality.Cost, error) {
		return perceiver.Clip{}, modality.Cost{}, err
	}
	film, sound, err := m.parts(it)
	if err != nil {
		return fail(err)
	}
	pixels, cost, err := m.hold(ctx, m.video, film.Input)
	if err != nil {
		return fail(err)
	}
	c := m.net.Config
	side := c.OutputShape[len(c.OutputShape)-1]
	if n := pixels.Dim(0); n != c.NumFrames*side*side {
		return fail(fmt.Errorf("pipeline: %w: %d frames, want %d", ErrInput, n/(side*side), c.NumFrames))
	}
	clip := perceiver.Clip{Audio: make([]float32, m.samples())}
	clip.Film = perceiver.Picture{Rows: perceiver.Matrix(pixels), Size: []int{c.NumFrames, side, side}}
	if sound == nil {
		cost.Notes = append(cost.Notes, "no sound: silence")
	} else {
		wave, heard, err := m.hold(ctx, m.audio, sound.Input)
		if err != nil {
			return fail(err)
		}
		copy(clip.Audio, wave.Data)
		cost.SampleRate, cost.Channels, cost.Seconds = heard.SampleRate, heard.Channels, heard.Seconds
		cost.Notes = append(cost.Notes, heard.Notes...)
	}
	cost.Rows, cost.RowChannels = m.rows(), m.net.Encoder.Channels()
	return clip, cost, nil
}

// hold reads a whole input: it is bounded by the network's own size.
func (m *multimodalModel) hold(ctx context.Context, ad modality.Adapter, in media.Input) (tensor.Tensor, modality.Cost, error) {
	in.Limits = m.limits
	arr, err := ad.Adapt(ctx, in)
	if err != nil {
		return tensor.Tensor{}, modality.Cost{}, err
	}
	defer arr.Close()
	t, err := materialise(ctx, arr)
	cost := arr.Cost
	for _, n := range arr.Notes {
		if !slices.Contains(cost.Notes, n) {
			cost.Notes = append(cost.Notes, n)
		}
	}
	return t, cost, err
}

// rows is the number of rows the encoder reads.
func (m *multimodalModel) rows() int {
	c := m.net.Config
	side := c.OutputShape[len(c.OutputShape)-1]
	return m.samples()/c.SamplesPerPatch + c.NumFrames*(side/4)*(side/4) + 1
}

// flops is one encoding and the decoding of every point.
func (m *multimodalModel) flops() float64 {
	c := m.net.Config
	points := m.net.AllPoints()
	return encoderFLOPs(c, m.rows(), m.net.Encoder.Channels()) + m.decoderFLOPs(len(points.Image)+len(points.Audio)+1)
}

// decoderFLOPs is the decoding of o points.
func (m *multimodalModel) decoderFLOPs(o int) float64 {
	c := m.net.Config
	return decoderFLOPs(c, o, m.net.QueryDim(), c.LatentDim, c.LatentDim, c.OutputChannels)
}

// Plan says what a film costs.
func (m *multimodalModel) Plan(ctx context.Context, it Item) (Plan, error) {
	film, sound, err := m.parts(it)
	if err != nil {
		return Plan{}, err
	}
	in := film.Input
	in.Limits = m.limits
	h, err := in.Header()
	if err != nil {
		return Plan{}, err
	}
	cost, err := m.video.Plan(ctx, h)
	if err != nil {
		return Plan{}, err
	}
	if sound != nil {
		in := sound.Input
		in.Limits = m.limits
		if h, err = in.Header(); err != nil {
			return Plan{}, err
		}
		heard, err := m.audio.Plan(ctx, h)
		if err != nil {
			return Plan{}, err
		}
		cost.DecodedBytes += heard.DecodedBytes
		cost.Decoding += heard.Decoding
	}
	// All pixels and samples are held, the samples as they came and as they are taken.
	cost.DecodedBytes += bytesOf(cost.Rows, cost.RowChannels) + bytesOf(2, m.samples())
	cost.Rows, cost.RowChannels = m.rows(), m.net.Encoder.Channels()
	return Plan{Cost: cost, FLOPs: m.flops()}, nil
}

// Encode returns the latents of a film.
func (m *multimodalModel) Encode(ctx context.Context, it Item, opt EncodeOptions) (*Encoding, error) {
	clip, cost, err := m.clip(ctx, it)
	if err != nil {
		return nil, err
	}
	rows, err := m.net.Rows(0, clip)
	if err != nil {
		return nil, err
	}
	enc := &Encoding{Plan: Plan{Cost: cost, FLOPs: m.flops()}, Notes: cost.Notes}
	return enc, m.encodeRows(ctx, m.net.Encoder, perceiver.Input{Rows: rows}, opt, enc)
}

// autoencoderChunks is how many passes of the decoder answer everything, as the published
// recipe divides it; all of them read the latents of one encoding.
const autoencoderChunks = 128

// Predict reconstructs a film and names its classes.
func (m *multimodalModel) Predict(ctx context.Context, it Item, opt PredictOptions) (*Prediction, error) {
	clip, cost, err := m.clip(ctx, it)
	if err != nil {
		return nil, err
	}
	a, done := m.arena(opt.Trace)
	defer done()
	x, err := m.net.Encode(ctx, a, []perceiver.Clip{clip}, nil)
	if err != nil {
		return nil, err
	}
	p := &Prediction{Task: m.info.Task, Plan: Plan{Cost: cost, FLOPs: m.flops()}, Notes: cost.Notes}
	points := m.net.AllPoints()
	if opt.Points != nil {
		points = perceiver.Points{Image: opt.Points["image"], Audio: opt.Points["audio"], Label: true}
	}
	return p, m.reconstruct(ctx, a, x, points, opt.Points == nil, opt.top(), p)
}

// reconstruct decodes points chunk by chunk into p.
func (m *multimodalModel) reconstruct(ctx context.Context, a *tensor.Arena, x tensor.Tensor, points perceiver.Points, whole bool, top int, p *Prediction) error {
	c := m.net.Config
	frames, sound := tensor.New(len(points.Image), 3), tensor.New(len(points.Audio)*c.SamplesPerPatch)
	for i := range autoencoderChunks {
		Report(ctx, "chunks", i, autoencoderChunks)
		share := func(n int) (int, int) { return i * n / autoencoderChunks, (i + 1) * n / autoencoderChunks }
		i0, i1 := share(len(points.Image))
		a0, a1 := share(len(points.Audio))
		part := perceiver.Points{Image: points.Image[i0:i1], Audio: points.Audio[a0:a1], Label: points.Label && i == 0}
		if i0 == i1 && a0 == a1 && !part.Label {
			continue
		}
		mark := a.Mark()
		r, err := m.net.Decode(ctx, a, x, part)
		if err != nil {
			return err
		}
		copy(frames.Data[3*i0:], r.Image.Data)
		copy(sound.Data[a0*c.SamplesPerPatch:], r.Audio.Data)
		if part.Label {
			p.Logits = r.Label.At(0).Clone()
			p.Classes = topClasses(p.Logits.Data, top, labeler(c.Labels))
		}
		a.Release(mark)
	}
	if whole {
		frames = frames.Reshape(append(append([]int{}, c.OutputShape[1:]...), 3)...)
	}
	p.Reconstruction = &Reconstruction{Frames: frames, Audio: sound, FrameShape: frames.Shape, Samples: len(sound.Data)}
	return nil
}

// Work implements Bencher: one encoding and all chunks.
func (m *multimodalModel) Work(batch int) (float64, func(context.Context) error, error) {
	if batch != 1 {
		return 0, nil, fmt.Errorf("pipeline: %w: the autoencoder is measured one film at a time", ErrInput)
	}
	c := m.net.Config
	side := c.OutputShape[len(c.OutputShape)-1]
	clip := perceiver.Clip{Film: perceiver.Film(noise(c.NumFrames, 3, side, side)), Audio: noise(m.samples()).Data}
	return m.flops(), func(ctx context.Context) error {
		a, done := m.arena(nil)
		defer done()
		x, err := m.net.Encode(ctx, a, []perceiver.Clip{clip}, nil)
		if err != nil {
			return err
		}
		return m.reconstruct(ctx, a, x, m.net.AllPoints(), true, 1, new(Prediction))
	}, nil
}

// planDecode reads what latents are asked: the outputs, and of which points.
func (m *multimodalModel) planDecode(it Item, opt DecodeOptions) (plan Plan, outputs []string, points perceiver.Points, err error) {
	fail := func(err error) (Plan, []string, perceiver.Points, error) {
		return Plan{}, nil, perceiver.Points{}, err
	}
	if err := latentsAlone(it); err != nil {
		return fail(err)
	}
	if outputs, err = m.decodes(it, opt, OutputClasses, OutputFrames, OutputAudio); err != nil {
		return fail(err)
	}
	c, all := m.net.Config, m.net.AllPoints()
	points.Label = slices.Contains(outputs, OutputClasses) || slices.Contains(outputs, OutputLogits)
	for _, list := range []struct {
		name, output string
		all          []int
		dst          *[]int
	}{{"image", OutputFrames, all.Image, &points.Image}, {"audio", OutputAudio, all.Audio, &points.Audio}} {
		if !slices.Contains(outputs, list.output) {
			continue
		}
		*list.dst = list.all
		if opt.Points == nil {
			continue
		}
		at := opt.Points[list.name]
		if len(at) > len(list.all) {
			return fail(fmt.Errorf("pipeline: %w: %d %s points, at most %d", ErrInput, len(at), list.name, len(list.all)))
		}
		for _, i := range at {
			if i < 0 || i >= len(list.all) {
				return fail(fmt.Errorf("pipeline: %w: %s point %d, want 0 to %d", ErrInput, list.name, i, len(list.all)-1))
			}
		}
		*list.dst = at
	}
	for name := range opt.Points {
		if name != "image" && name != "audio" {
			return fail(fmt.Errorf("pipeline: %w: points of %.40q, want image or audio", ErrInput, name))
		}
	}
	o, values := len(points.Image)+len(points.Audio), 3*len(points.Image)+c.SamplesPerPatch*len(points.Audio)
	if points.Label {
		o, values = o+1, values+c.NumLabels
	}
	if slices.Contains(outputs, OutputAnswers) {
		n := opt.Queries.Dim(0)
		o, values = o+n, values+n*c.OutputChannels
	}
	plan, err = m.decodePlan(m.decoderFLOPs(o), values)
	return plan, outputs, points, err
}

// PlanDecode says what reconstructing from latents costs.
func (m *multimodalModel) PlanDecode(_ context.Context, it Item, opt DecodeOptions) (Plan, error) {
	plan, _, _, err := m.planDecode(it, opt)
	return plan, err
}

// Decode reconstructs a film, or points of it, from latents, and names its classes.
func (m *multimodalModel) Decode(ctx context.Context, it Item, opt DecodeOptions) (*Decoding, error) {
	plan, outputs, points, err := m.planDecode(it, opt)
	if err != nil {
		return nil, err
	}
	a, done := m.arena(opt.Trace)
	defer done()
	p := &Prediction{Task: m.info.Task, Plan: plan}
	out := &Decoding{Prediction: p}
	if len(points.Image)+len(points.Audio) > 0 || points.Label {
		whole := opt.Points == nil && slices.Contains(outputs, OutputFrames)
		if err := m.reconstruct(ctx, a, batched(it.Latents), points, whole, opt.top(), p); err != nil {
			return nil, err
		}
	}
	switch r := p.Reconstruction; {
	case len(points.Image)+len(points.Audio) == 0:
		p.Reconstruction = nil
	case len(points.Image) == 0:
		r.Frames, r.FrameShape = tensor.Tensor{}, nil
	case len(points.Audio) == 0:
		r.Audio = tensor.Tensor{}
	}
	if slices.Contains(outputs, OutputLogits) {
		out.Logits = p.Logits
	}
	if !slices.Contains(outputs, OutputClasses) {
		p.Classes = nil
	}
	if slices.Contains(outputs, OutputAnswers) {
		out.Answers, err = answers(ctx, a, m.net.Decoder, it.Latents, opt.Queries)
	}
	return out, err
}
