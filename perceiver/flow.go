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

// OpticalFlow is PerceiverForOpticalFlow: two frames in, the motion of every pixel out. Its
// decoder's queries are its input rows, which are computed again for the decoder, not kept.
type OpticalFlow struct {
	Config  Config
	Encoder *Encoder
	Decoder *Decoder
	patches nn.Linear // 54→64: conv_after_patches
	code    position.Fourier
	tail    tail // unused the plain way
}

// Flow channels: two frames of 3×3 patches of 3 colours, and what the Linear makes of them.
const (
	flowPatch    = 3 * 3 * 3
	flowInput    = 2 * flowPatch
	flowContent  = 64
	flowRescale  = 100 // the network's answers are divided by it
	flowOutWidth = 2
)

func newOpticalFlow(c Config, s weights.Scope, opt Options) (Network, error) {
	p := s.At("perceiver")
	m := &OpticalFlow{
		Config:  c,
		patches: nn.NewLinear(p.At("input_preprocessor", "conv_after_patches").WithDType(kernel.F32), flowInput, flowContent),
		code:    position.NewFourier(64, float32(c.TrainSize[0]), float32(c.TrainSize[1])),
	}
	e := flowContent + m.code.Channels()
	if err := c.checkCross(e); err != nil {
		return nil, err
	}
	m.Encoder = newEncoder(p, c, e, opt)
	d := c.LatentDim
	qk, v := c.crossChannels(0, 0, e, d)
	dec := shape{query: e, key: d, qk: qk, v: v, heads: 1, widening: 1, act: c.Act}
	m.Decoder = newDecoder(p.At("decoder", "decoder"), decoderShape{shape: dec, final: flowOutWidth, fold: true}, opt)
	if m.Decoder.folded != nil {
		at := p.At("decoder", "decoder")
		m.tail = newTail(at, dec, newAffine(at.At("final_layer"), e, flowOutWidth))
	}
	return m, nil
}

// Rows returns what the encoder reads, and the decoder asks, for pictures of 54 channels (the 27
// patch channels of the first frame, then those of the second).
func (m *OpticalFlow) Rows(in []Picture) ([]Rows, error) {
	want := m.Config.TrainSize[0] * m.Config.TrainSize[1]
	rows := make([]Rows, len(in))
	for i, p := range in {
		if err := p.check(i, 2, flowInput); err != nil {
			return nil, err
		}
		if n := p.Size[0] * p.Size[1]; n != want {
			return nil, fmt.Errorf("perceiver: input %d: frames of %d×%d, want %d×%d", i, p.Size[0], p.Size[1], m.Config.TrainSize[0], m.Config.TrainSize[1])
		}
		rows[i] = gridRows{linearRows{m.patches, p.Rows}, position.NewGrid(m.code, p.Size...)}
	}
	return rows, nil
}

// Forward returns the flow of pairs of frames as scratch, B×H×W×2 with H×W = train_size: x and y
// in units of 20 pixels, as the reference gives it. Frames or Planes make the pictures.
func (m *OpticalFlow) Forward(ctx context.Context, a *tensor.Arena, in []Picture, mask [][]float32) (tensor.Tensor, error) {
	rows, err := m.Rows(in)
	if err != nil {
		return tensor.Tensor{}, err
	}
	if mask != nil && len(mask) != len(in) {
		return tensor.Tensor{}, fmt.Errorf("perceiver: %d masks for a batch of %d", len(mask), len(in))
	}
	inputs := make([]Input, len(rows))
	for i, r := range rows {
		inputs[i].Rows = r
		if mask != nil {
			inputs[i].Mask = mask[i]
		}
	}
	flow := m.field(a, len(in))
	mark := a.Mark()
	defer a.Release(mark)
	x, err := encode(ctx, a, m.Encoder, inputs)
	if err != nil {
		return tensor.Tensor{}, err
	}
	return flow, m.decode(ctx, a, x, rows, flow)
}

// Decode returns the flow that latents (B×N×D) give for the pictures they were encoded from, as
// Forward does: every row of a picture is a query.
func (m *OpticalFlow) Decode(ctx context.Context, a *tensor.Arena, latents tensor.Tensor, in []Picture) (tensor.Tensor, error) {
	rows, err := m.Rows(in)
	if err != nil {
		return tensor.Tensor{}, err
	}
	if latents.Dim(0) != len(rows) {
		return tensor.Tensor{}, fmt.Errorf("perceiver: latents of %d pictures, %d pictures", latents.Dim(0), len(rows))
	}
	flow := m.field(a, len(in))
	return flow, m.decode(ctx, a, latents, rows, flow)
}

// field is scratch for the flow of n pictures.
func (m *OpticalFlow) field(a *tensor.Arena, n int) tensor.Tensor {
	return a.New(n, m.Config.TrainSize[0], m.Config.TrainSize[1], flowOutWidth)
}

// decode writes the flow (B×H×W×2) that latents x (B×N×D) answer to queries rows, and emits
// logits.
func (m *OpticalFlow) decode(ctx context.Context, a *tensor.Arena, x tensor.Tensor, rows []Rows, flow tensor.Tensor) error {
	memory := m.Decoder.Remember(a, x)
	put := func(item, from int, y tensor.Tensor) error {
		out := flow.At(item).Data[from*flowOutWidth:]
		for i, v := range y.Data {
			out[i] = v / flowRescale
		}
		return nil
	}
	grids := make([]gridInput, len(rows))
	fast := m.Decoder.folded != nil
	for i, r := range rows {
		var ok bool
		grids[i], ok = asGrid(Input{Rows: r})
		fast = fast && ok
	}
	if !fast || a.Trace != nil { // the stages of a trace need the layer's output
		if err := m.Decoder.Decode(ctx, a, memory, rows, put); err != nil {
			return err
		}
	}
	if !fast {
		grids = nil
	}
	for i, g := range grids {
		mark := a.Mark()
		err := m.Decoder.answer(ctx, a, []question{m.Decoder.gridQuestion(a, i, g, memory)}, m.tail, put)
		a.Release(mark)
		if err != nil {
			return err
		}
	}
	a.Emit("logits", flow)
	return finite("logits", flow)
}

// Frames returns the picture of two frames, H×W×3 each with values in [-1,1]: a row holds the
// 3×3 neighbourhood (ky, kx, colour) of its pixel in the first frame, then in the second, zero
// beyond the border. Patches are gathered as they are read.
func Frames(first, second tensor.Tensor) Picture {
	return Picture{Rows: framePatches{first, second}, Size: []int{first.Dim(0), first.Dim(1)}}
}

type framePatches [2]tensor.Tensor

func (f framePatches) Dims() (int, int) { return f[0].Dim(0) * f[0].Dim(1), flowInput }

func (f framePatches) Read(dst tensor.Tensor, from, to int) error {
	h, w := f[0].Dim(0), f[0].Dim(1)
	if f[1].Dim(0) != h || f[1].Dim(1) != w || f[0].Dim(2) != 3 || f[1].Dim(2) != 3 {
		return fmt.Errorf("perceiver: frames %v and %v: want two of the same size and 3 colours", f[0].Shape, f[1].Shape)
	}
	for r := from; r < to; r++ {
		row := dst.Data[(r-from)*flowInput:][:flowInput]
		y, x := r/w, r%w
		for i := range f {
			for ky := range 3 {
				patchLine(row[i*flowPatch+ky*9:][:9], f[i].Data, y+ky-1, x-1, h, w)
			}
		}
	}
	return nil
}

// patchLine copies three pixels of line y from x on, zero outside the frame.
func patchLine(dst, frame []float32, y, x, h, w int) {
	if y >= 0 && y < h && x >= 0 && x+3 <= w {
		copy(dst, frame[(y*w+x)*3:][:9])
		return
	}
	clear(dst)
	if y < 0 || y >= h {
		return
	}
	for k := range 3 {
		if c := x + k; c >= 0 && c < w {
			copy(dst[3*k:3*k+3], frame[(y*w+c)*3:])
		}
	}
}

// linearRows is rows through a Linear.
type linearRows struct {
	linear nn.Linear
	in     Rows
}

func (l linearRows) Dims() (int, int) {
	m, _ := l.in.Dims()
	return m, l.linear.Out()
}

func (l linearRows) Read(dst tensor.Tensor, from, to int) error {
	_, c := l.in.Dims()
	x := tensor.New(to-from, c)
	if err := l.in.Read(x, from, to); err != nil {
		return err
	}
	l.linear.Into(dst, x, kernel.Epilogue{})
	return nil
}
