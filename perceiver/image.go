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

// classHead is the decoder of every classifier: one trainable query as wide as the latents, one
// head, the query added to the result, a Linear to the labels.
type classHead struct {
	decoder *Decoder
	query   Matrix // 1×D
}

func newClassHead(s weights.Scope, c Config, opt Options) classHead {
	d := c.LatentDim
	return classHead{
		query: Matrix(s.Tensor("output_position_encodings.position_embeddings", 1, d)),
		decoder: newDecoder(s, decoderShape{
			shape:    shape{query: d, key: d, qk: d, v: d, heads: 1, widening: 1, act: c.Act},
			residual: true, final: c.NumLabels,
		}, opt),
	}
}

// Decode returns logits of latents B×N×D as scratch, B×labels, and emits "logits".
func (h classHead) Decode(ctx context.Context, a *tensor.Arena, latents tensor.Tensor) (tensor.Tensor, error) {
	b := latents.Dim(0)
	logits := a.New(b, h.decoder.Width())
	mark := a.Mark()
	defer a.Release(mark)
	queries := make([]Rows, b)
	for i := range queries {
		queries[i] = h.query
	}
	err := h.decoder.Decode(ctx, a, h.decoder.Remember(a, latents), queries, func(item, _ int, y tensor.Tensor) error {
		copy(logits.Row(item), y.Data)
		return nil
	})
	if err != nil {
		return tensor.Tensor{}, err
	}
	a.Emit("logits", logits)
	return logits, finite("logits", logits)
}

// pixelCode is an image preprocessor: how pixels become rows.
type pixelCode interface {
	// channels is C, the width of a row.
	channels() int
	// rows returns the rows of pixels on a grid; scratch may come from the arena.
	rows(a *tensor.Arena, p Picture) (Rows, error)
}

// ImageClassifier is the three PerceiverForImageClassification networks: pixels in, class
// scores out.
type ImageClassifier struct {
	Config  Config
	Encoder *Encoder
	pixels  pixelCode
	head    classHead
}

func newImageClassifier(code func(s weights.Scope, c Config) pixelCode) loader {
	return func(c Config, s weights.Scope, opt Options) (Network, error) {
		p := s.At("perceiver")
		m := &ImageClassifier{Config: c, pixels: code(p.At("input_preprocessor"), c)}
		if err := c.checkCross(m.pixels.channels()); err != nil {
			return nil, err
		}
		m.Encoder = newEncoder(p, c, m.pixels.channels(), opt)
		m.head = newClassHead(p.At("decoder", "decoder"), c, opt)
		return m, nil
	}
}

// Rows returns what the encoder reads for pictures of 3 channels; mask holds for each picture a
// value for each of its rows (after the preprocessor), and may be nil.
func (m *ImageClassifier) Rows(a *tensor.Arena, in []Picture, mask [][]float32) ([]Input, error) {
	if mask != nil && len(mask) != len(in) {
		return nil, fmt.Errorf("perceiver: %d masks for a batch of %d", len(mask), len(in))
	}
	out := make([]Input, len(in))
	for i, p := range in {
		if err := p.check(i, 2, 3); err != nil {
			return nil, err
		}
		rows, err := m.pixels.rows(a, p)
		if err != nil {
			return nil, fmt.Errorf("perceiver: input %d: %w", i, err)
		}
		out[i].Rows = rows
		if mask != nil {
			out[i].Mask = mask[i]
		}
	}
	return out, nil
}

// Encode returns the latents of pictures as scratch, B×N×D.
func (m *ImageClassifier) Encode(ctx context.Context, a *tensor.Arena, in []Picture, mask [][]float32) (tensor.Tensor, error) {
	rows, err := m.Rows(a, in, mask)
	if err != nil {
		return tensor.Tensor{}, err
	}
	return encode(ctx, a, m.Encoder, rows)
}

// Decode returns the logits of latents B×N×D as scratch, B×labels.
func (m *ImageClassifier) Decode(ctx context.Context, a *tensor.Arena, latents tensor.Tensor) (tensor.Tensor, error) {
	return m.head.Decode(ctx, a, latents)
}

// Decoder is what answers with the logits: to its own query, and to others as wide.
func (m *ImageClassifier) Decoder() *Decoder { return m.head.decoder }

// Forward returns the logits of pictures as scratch, B×labels. Planes makes pictures of a
// B×3×H×W tensor.
func (m *ImageClassifier) Forward(ctx context.Context, a *tensor.Arena, in []Picture, mask [][]float32) (tensor.Tensor, error) {
	x, err := m.Encode(ctx, a, in, mask)
	if err != nil {
		return tensor.Tensor{}, err
	}
	return m.head.Decode(ctx, a, x)
}

// fourierPixels is the Fourier model's preprocessor: raw pixels and the Fourier code of the grid.
// The resolution of the code is fixed, whatever the picture's size.
type fourierPixels struct{ code position.Fourier }

func newFourierPixels(weights.Scope, Config) pixelCode {
	return fourierPixels{position.NewFourier(64, 224, 224)}
}

func (f fourierPixels) channels() int { return 3 + f.code.Channels() }

func (f fourierPixels) rows(_ *tensor.Arena, p Picture) (Rows, error) {
	return gridRows{p.Rows, position.NewGrid(f.code, p.Size...)}, nil
}

// learnedPixels is the learned model's preprocessor: a 1×1 convolution of the pixels, and a table
// of positions through a Linear, which is a constant of the model.
type learnedPixels struct {
	conv      nn.Linear     // 3→256
	positions tensor.Tensor // image_size² × 256, projected
	size      int
}

const learnedChannels = 256

func newLearnedPixels(s weights.Scope, c Config) pixelCode {
	n := c.ImageSize * c.ImageSize
	w := s.Tensor("convnet_1x1.weight", learnedChannels, 3, 1, 1)
	l := learnedPixels{size: c.ImageSize}
	l.conv = nn.Linear{
		W:    kernel.Pack(learnedChannels, 3, kernel.F32, func(i int, dst []float32) { copy(dst, w.Data[3*i:]) }),
		Bias: s.Tensor("convnet_1x1.bias", learnedChannels).Data,
	}
	table := s.Tensor("position_embeddings.position_embeddings", n, learnedChannels)
	project := s.At("positions_projection")
	wp, bp := project.Tensor("weight", learnedChannels, learnedChannels), project.Tensor("bias", learnedChannels)
	l.positions = tensor.New(n, learnedChannels)
	kernel.GemmNT(l.positions.Data, learnedChannels, table.Data, learnedChannels, wp.Data, learnedChannels,
		n, learnedChannels, learnedChannels, kernel.Epilogue{Bias: bp.Data})
	return l
}

func (l learnedPixels) channels() int { return 2 * learnedChannels }

func (l learnedPixels) rows(_ *tensor.Arena, p Picture) (Rows, error) {
	if p.Size[0] != l.size || p.Size[1] != l.size {
		return nil, fmt.Errorf("picture of %d×%d, but the learned positions are for \"image_size\" %d×%d", p.Size[0], p.Size[1], l.size, l.size)
	}
	return learnedRows{l, p.Rows}, nil
}

// learnedRows is [conv(pixels), positions].
type learnedRows struct {
	learnedPixels
	pixels Rows
}

func (r learnedRows) Dims() (int, int) { return r.size * r.size, r.channels() }

func (r learnedRows) Read(dst tensor.Tensor, from, to int) error {
	n, w := to-from, r.channels()
	pixels := tensor.New(n, 3)
	if err := r.pixels.Read(pixels, from, to); err != nil {
		return err
	}
	kernel.Gemm(dst.Data, w, pixels.Data, 3, n, r.conv.W, kernel.Epilogue{Bias: r.conv.Bias})
	for i := range n {
		copy(dst.Data[i*w+learnedChannels:(i+1)*w], r.positions.Row(from+i))
	}
	return nil
}

// convPixels is the convolutional model's preprocessor: 7×7 convolution of stride 2, batch norm,
// ReLU, 3×3 maximum of stride 2 without padding, then the Fourier code of the smaller grid.
type convPixels struct {
	conv nn.Conv2D
	norm nn.BatchNorm2D
	code position.Fourier
}

const convChannels = 64

func newConvPixels(s weights.Scope, _ Config) pixelCode {
	net := s.At("convnet")
	return convPixels{
		conv: nn.NewConv2D(net.At("conv"), 3, convChannels, 7, 2, 3, false),
		norm: nn.NewBatchNorm2D(net.At("batchnorm"), convChannels, 1e-5),
		code: position.NewFourier(64, 56, 56),
	}
}

func (c convPixels) channels() int { return convChannels + c.code.Channels() }

func (c convPixels) rows(a *tensor.Arena, p Picture) (Rows, error) {
	h, w := c.conv.Size(p.Size[0], p.Size[1])
	if h < 3 || w < 3 {
		return nil, fmt.Errorf("picture of %d×%d is too small: the convolution leaves %d×%d, want at least 3×3", p.Size[0], p.Size[1], h, w)
	}
	oh, ow := (h-3)/2+1, (w-3)/2+1
	out := a.New(oh*ow, convChannels)
	mark := a.Mark()
	defer a.Release(mark)
	pixels := a.New(1, p.Size[0], p.Size[1], 3)
	if err := p.Rows.Read(tensor.Of(pixels.Data, p.Size[0]*p.Size[1], 3), 0, p.Size[0]*p.Size[1]); err != nil {
		return nil, err
	}
	x := c.conv.Forward(a, pixels, kernel.Identity)
	c.norm.Apply(x)
	kernel.Activate(x.Data, x.Data, kernel.ReLU)
	copy(out.Data, nn.MaxPool(a, x, 3, 2).Data)
	return gridRows{Matrix(out), position.NewGrid(c.code, oh, ow)}, nil
}
