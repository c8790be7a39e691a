package perceiver

import (
	"context"
	"fmt"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/internal/nn"
	"github.com/mmserve/mmserve/internal/position"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// MultimodalAutoencoder is PerceiverForMultimodalAutoencoding: a film with sound in; any points
// of the film, of the sound and the class scores out. One Encode serves any number of Decodes.
type MultimodalAutoencoder struct {
	Config  Config
	Encoder *Encoder
	Decoder *Decoder

	in         modalityPads // widths of the encoder's rows
	mask       []float32    // the label row, whatever the label: its mask probability is 1
	audioCode  position.Fourier
	imageCode  position.Fourier
	out        modalityPads   // widths of the decoder's queries
	audioGrid  *position.Grid // of output coordinates
	imageGrid  *position.Grid
	labelQuery []float32
	heads      [3]nn.Linear // of audio, image and label
	tails      [3]tail      // unused the plain way
}

// The modalities, sorted by name: the order of rows and of queries.
const (
	audioModality = iota
	imageModality
	labelModality
)

var modalityNames = [3]string{"audio", "image", "label"}

// modalityPads is the trained values that make the rows of the modalities equally wide.
type modalityPads struct {
	width int
	pad   [3][]float32
}

func newModalityPads(s weights.Scope, least int, widths [3]int) modalityPads {
	p := modalityPads{width: max(widths[0], widths[1], widths[2]) + least}
	for i, w := range widths {
		p.pad[i] = s.Tensor(modalityNames[i], 1, p.width-w).Data
	}
	return p
}

// Patches of the film are 4×4 pixels; 48 channels ordered (dy, dx, colour).
const (
	filmPatch    = 4
	filmChannels = filmPatch * filmPatch * 3
)

func newMultimodal(c Config, s weights.Scope, opt Options) (Network, error) {
	samples := c.NumFrames * c.AudioSamplesPerFrame
	if samples%c.SamplesPerPatch != 0 {
		return nil, fmt.Errorf("perceiver: config: \"samples_per_patch\": %d does not divide num_frames × audio_samples_per_frame = %d", c.SamplesPerPatch, samples)
	}
	p := s.At("perceiver")
	m := &MultimodalAutoencoder{
		Config:    c,
		audioCode: position.NewFourier(192, float32(samples)),
		imageCode: position.NewFourier(32, float32(c.NumFrames), float32(c.ImageSize), float32(c.ImageSize)),
	}
	pre := p.At("input_preprocessor")
	m.in = newModalityPads(pre.At("padding"), 4, [3]int{
		c.SamplesPerPatch + m.audioCode.Channels(), filmChannels + m.imageCode.Channels(), c.NumLabels,
	})
	for _, name := range modalityNames {
		m.mask = pre.Tensor("mask."+name, 1, m.in.width).Data // only the last, label's, has a use
	}
	if err := c.checkCross(m.in.width); err != nil {
		return nil, err
	}
	m.Encoder = newEncoder(p, c, m.in.width, opt)
	m.decoder(c, p, samples, opt)
	return m, nil
}

func (m *MultimodalAutoencoder) decoder(c Config, p weights.Scope, samples int, opt Options) {
	dec := p.At("decoder")
	m.audioGrid = position.NewOutputGrid(m.audioCode, samples/c.SamplesPerPatch)
	m.imageGrid = position.NewOutputGrid(m.imageCode, c.OutputShape[1:]...)
	m.labelQuery = dec.Tensor("modalities.label.decoder.output_position_encodings.position_embeddings", 1, c.LabelChannels).Data
	m.out = newModalityPads(dec.At("padding"), 2, [3]int{m.audioCode.Channels(), m.imageCode.Channels(), c.LabelChannels})
	e, d := m.out.width, c.LatentDim
	qk, v := c.crossChannels(0, 0, e, d)
	m.Decoder = newDecoder(dec.At("decoder"), decoderShape{
		shape: shape{query: e, key: d, qk: qk, v: v, heads: 1, widening: 1, act: c.Act},
		final: c.OutputChannels, fold: true,
	}, opt)
	post := p.At("output_postprocessor", "modalities")
	for i, width := range [3]int{c.SamplesPerPatch, 3, c.NumLabels} {
		m.heads[i] = nn.NewLinear(post.At(modalityNames[i], "classifier"), c.OutputChannels, width)
	}
	if m.Decoder.folded == nil {
		return
	}
	var thin *lean
	if v < e {
		thin = newLean(dec.At("decoder"), m.Decoder.shape)
	}
	final := newAffine(dec.At("decoder", "final_layer"), e, c.OutputChannels)
	for i, l := range m.heads {
		head := newAffine(post.At(modalityNames[i], "classifier"), c.OutputChannels, l.Out())
		if thin != nil {
			m.tails[i] = newLeanTail(dec.At("decoder"), m.Decoder.shape, head.after(final), thin)
			continue
		}
		m.tails[i] = newTail(dec.At("decoder"), m.Decoder.shape, head.after(final))
	}
}

// QueryDim returns E, the width of a decoder query.
func (m *MultimodalAutoencoder) QueryDim() int { return m.out.width }

// Clip is a film with its sound.
type Clip struct {
	Film  Picture   // Size T, H, W; rows of 3 colours
	Audio []float32 // samples, a multiple of samples_per_patch
}

// Film returns the picture of a film stored T×3×H×W; it shares the data.
func Film(t tensor.Tensor) Picture {
	return Picture{Rows: filmPlanes(t), Size: []int{t.Dim(0), t.Dim(2), t.Dim(3)}}
}

// filmPlanes reads T×C×H×W as T·H·W rows of C.
type filmPlanes tensor.Tensor

func (f filmPlanes) Dims() (int, int) { return f.Shape[0] * f.Shape[2] * f.Shape[3], f.Shape[1] }

func (f filmPlanes) Read(dst tensor.Tensor, from, to int) error {
	c, plane := f.Shape[1], f.Shape[2]*f.Shape[3]
	for r := from; r < to; {
		t := r / plane
		n := min(to, (t+1)*plane) - r
		for ch := range c {
			src := f.Data[(t*c+ch)*plane+r-t*plane:][:n]
			for i, x := range src {
				dst.Data[(r-from+i)*c+ch] = x
			}
		}
		r += n
	}
	return nil
}

// Rows returns what the encoder reads for a clip.
func (m *MultimodalAutoencoder) Rows(i int, clip Clip) (Rows, error) {
	if err := clip.Film.check(i, 3, 3); err != nil {
		return nil, err
	}
	t, h, w := clip.Film.Size[0], clip.Film.Size[1], clip.Film.Size[2]
	if h%filmPatch != 0 || w%filmPatch != 0 {
		return nil, fmt.Errorf("perceiver: input %d: film of %d×%d pixels, want multiples of %d", i, h, w, filmPatch)
	}
	spp := m.Config.SamplesPerPatch
	n := len(clip.Audio)
	if n == 0 || n%spp != 0 {
		return nil, fmt.Errorf("perceiver: input %d: %d samples of sound, want a multiple of %d", i, n, spp)
	}
	sound := Matrix(tensor.Of(clip.Audio, n/spp, spp))
	film := filmPatches{clip.Film.Rows, h, w, t}
	return joinedRows{m.in, [3]Rows{
		gridRows{sound, position.NewGrid(m.audioCode, n/spp)},
		gridRows{film, position.NewGrid(m.imageCode, t, h/filmPatch, w/filmPatch)},
		Matrix(tensor.Of(m.mask, 1, len(m.mask))),
	}}, nil
}

// Encode returns the latents of clips as scratch, B×N×D.
func (m *MultimodalAutoencoder) Encode(ctx context.Context, a *tensor.Arena, clips []Clip, mask [][]float32) (tensor.Tensor, error) {
	if mask != nil && len(mask) != len(clips) {
		return tensor.Tensor{}, fmt.Errorf("perceiver: %d masks for a batch of %d", len(mask), len(clips))
	}
	in := make([]Input, len(clips))
	for i, c := range clips {
		rows, err := m.Rows(i, c)
		if err != nil {
			return tensor.Tensor{}, err
		}
		in[i].Rows = rows
		if mask != nil {
			in[i].Mask = mask[i]
		}
	}
	return encode(ctx, a, m.Encoder, in)
}

// filmPatches is the 4×4 patches of a film of h×w pixels.
type filmPatches struct {
	pixels  Rows
	h, w, t int
}

func (f filmPatches) Dims() (int, int) {
	return f.t * f.h * f.w / (filmPatch * filmPatch), filmChannels
}

func (f filmPatches) Read(dst tensor.Tensor, from, to int) error {
	across := f.w / filmPatch
	lines := tensor.New(filmPatch*f.w, 3)
	for r := from; r < to; {
		line := r / across // of patches, over all frames
		n := min(to, (line+1)*across) - r
		first := line * filmPatch * f.w
		if err := f.pixels.Read(lines, first, first+filmPatch*f.w); err != nil {
			return err
		}
		for i := range n {
			x := (r + i - line*across) * filmPatch
			out := dst.Data[(r-from+i)*filmChannels:][:filmChannels]
			for dy := range filmPatch {
				copy(out[dy*filmPatch*3:][:filmPatch*3], lines.Data[(dy*f.w+x)*3:])
			}
		}
		r += n
	}
	return nil
}

// joinedRows is the rows of the modalities one after the other, padded to one width.
type joinedRows struct {
	modalityPads
	parts [3]Rows
}

func (j joinedRows) Dims() (int, int) {
	m := 0
	for _, p := range j.parts {
		n, _ := p.Dims()
		m += n
	}
	return m, j.width
}

func (j joinedRows) Read(dst tensor.Tensor, from, to int) error {
	start := 0
	for k, p := range j.parts {
		n, w := p.Dims()
		lo, hi := max(from, start), min(to, start+n)
		if lo < hi {
			part := tensor.New(hi-lo, w)
			if err := p.Read(part, lo-start, hi-start); err != nil {
				return err
			}
			for i := range hi - lo {
				row := dst.Data[(lo-from+i)*j.width:][:j.width]
				copy(row, part.Row(i))
				if w < j.width {
					copy(row[w:], j.pad[k])
				}
			}
		}
		start += n
	}
	return nil
}

// Points are the outputs asked of a MultimodalAutoencoder.
type Points struct {
	Image []int // flat indices of pixels in output_shape's frames × height × width
	Audio []int // indices of sound patches of samples_per_patch samples
	Label bool  // whether the class scores are wanted
}

// AllPoints asks for everything.
func (m *MultimodalAutoencoder) AllPoints() Points {
	return Points{Image: upTo(m.imageGrid.Rows()), Audio: upTo(m.audioGrid.Rows()), Label: true}
}

func upTo(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i
	}
	return list
}

// Reconstruction is what a MultimodalAutoencoder answers.
type Reconstruction struct {
	Image tensor.Tensor // B×len(Points.Image)×3
	Audio tensor.Tensor // B×(len(Points.Audio)·samples_per_patch)
	Label tensor.Tensor // B×labels, empty when not asked for
}

// Decode answers points from latents (B×N×D), in scratch of the arena. It emits logits.audio,
// logits.image and logits.label.
func (m *MultimodalAutoencoder) Decode(ctx context.Context, a *tensor.Arena, latents tensor.Tensor, p Points) (Reconstruction, error) {
	if err := m.check(p); err != nil {
		return Reconstruction{}, err
	}
	b := latents.Dim(0)
	r := Reconstruction{Image: a.New(b, len(p.Image), 3), Audio: a.New(b, len(p.Audio)*m.Config.SamplesPerPatch)}
	if p.Label {
		r.Label = a.New(b, m.Config.NumLabels)
	}
	mark := a.Mark()
	defer a.Release(mark)
	memory := m.Decoder.Remember(a, latents)
	if m.Decoder.folded == nil || a.Trace != nil { // the stages of a trace need the layer's output
		queries := make([]Rows, b)
		for i := range queries {
			queries[i] = pointRows{m, p}
		}
		err := m.Decoder.Decode(ctx, a, memory, queries, func(item, from int, y tensor.Tensor) error {
			m.project(&r, p, item, from, y)
			return nil
		})
		if err != nil {
			return Reconstruction{}, err
		}
	}
	if m.Decoder.folded != nil {
		if err := m.answer(ctx, a, memory, &r, p); err != nil {
			return Reconstruction{}, err
		}
	}
	for i, t := range []tensor.Tensor{r.Audio, r.Image, r.Label} {
		if t.Data == nil {
			continue
		}
		a.Emit("logits."+modalityNames[i], t)
		if err := finite("logits."+modalityNames[i], t); err != nil {
			return Reconstruction{}, err
		}
	}
	return r, nil
}

func (m *MultimodalAutoencoder) check(p Points) error {
	for _, list := range []struct {
		name string
		at   []int
		n    int
	}{{"image", p.Image, m.imageGrid.Rows()}, {"audio", p.Audio, m.audioGrid.Rows()}} {
		for _, i := range list.at {
			if i < 0 || i >= list.n {
				return fmt.Errorf("perceiver: %s point %d, want 0 to %d", list.name, i, list.n-1)
			}
		}
	}
	if len(p.Image)+len(p.Audio) == 0 && !p.Label {
		return fmt.Errorf("perceiver: no points to decode")
	}
	return nil
}

// project applies the modalities' own heads to answers y of queries from on.
func (m *MultimodalAutoencoder) project(r *Reconstruction, p Points, item, from int, y tensor.Tensor) {
	to, start := from+y.Dim(0), 0
	for k, n := range p.counts() {
		lo, hi := max(from, start), min(to, start+n)
		if lo < hi {
			dst := [3]tensor.Tensor{r.Audio, r.Image, r.Label}[k].At(item)
			w := m.heads[k].Out()
			out := tensor.Of(dst.Data[(lo-start)*w:(hi-start)*w], hi-lo, w)
			m.heads[k].Into(out, y.Slice(lo-from, hi-from), kernel.Epilogue{})
		}
		start += n
	}
}

// counts is the number of queries of each modality.
func (p Points) counts() [3]int {
	n := [3]int{len(p.Audio), len(p.Image), 0}
	if p.Label {
		n[2] = 1
	}
	return n
}

// pointRows is the decoder's queries for points: position codes, padded.
type pointRows struct {
	m *MultimodalAutoencoder
	Points
}

func (q pointRows) Dims() (int, int) {
	n := q.counts()
	return n[0] + n[1] + n[2], q.m.out.width
}

func (q pointRows) Read(dst tensor.Tensor, from, to int) error {
	n, pads := q.counts(), q.m.out
	kernel.Parallel((to-from+63)/64, func(part int) {
		for r := from + part*64; r < min(to, from+part*64+64); r++ {
			row := dst.Data[(r-from)*pads.width:][:pads.width]
			k, i := audioModality, r
			for k < labelModality && i >= n[k] {
				i -= n[k]
				k++
			}
			w := q.m.code(row, q.Points, k, i)
			copy(row[w:], pads.pad[k])
		}
	})
	return nil
}

// code writes the position code of the i-th query of modality k and returns its width.
func (m *MultimodalAutoencoder) code(row []float32, p Points, k, i int) int {
	switch k {
	case audioModality:
		return gridRow(row, m.audioGrid, p.Audio[i])
	case imageModality:
		return gridRow(row, m.imageGrid, p.Image[i])
	}
	return copy(row, m.labelQuery)
}

// gridRow writes the code of one point of a grid and returns its width.
func gridRow(row []float32, g *position.Grid, i int) int {
	f, dims := g.Fourier(), g.Dims()
	for d := len(dims) - 1; d >= 0; d-- {
		w, k := f.AxisChannels(d), len(f.Bands[d])
		var src []float32
		if table := g.Axis(d); table != nil {
			src = table[i%dims[d]*w:][:w]
		} else {
			src = make([]float32, w)
			g.AxisRow(src, d, i%dims[d])
		}
		i /= dims[d]
		pos, sin, cos := f.AxisColumns(d)
		row[pos] = src[0]
		copy(row[sin:sin+k], src[1:1+k])
		copy(row[cos:cos+k], src[1+k:])
	}
	return f.Channels()
}
