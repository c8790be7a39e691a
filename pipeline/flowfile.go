package pipeline

import (
	"encoding/binary"
	"image"
	"image/color"
	"image/png"
	"io"
	"math"

	"github.com/mmserve/mmserve/tensor"
)

// WriteFlo writes flow (H×W×2, pixels) in the Middlebury .flo format: the tag 202021.25,
// width, height, then dx, dy a pixel, all little-endian (vision.middlebury.edu/flow).
func WriteFlo(w io.Writer, flow tensor.Tensor) error {
	head := []any{float32(202021.25), int32(flow.Dim(1)), int32(flow.Dim(0))}
	for _, v := range head {
		if err := binary.Write(w, binary.LittleEndian, v); err != nil {
			return err
		}
	}
	return binary.Write(w, binary.LittleEndian, flow.Data)
}

// WriteFlowPNG draws flow (H×W×2) with the Middlebury colour wheel: hue is the direction,
// saturation the length relative to the longest vector of the picture.
func WriteFlowPNG(w io.Writer, flow tensor.Tensor) error {
	h, wd := flow.Dim(0), flow.Dim(1)
	longest := 0.0
	for i := 0; i < len(flow.Data); i += 2 {
		longest = max(longest, math.Hypot(float64(flow.Data[i]), float64(flow.Data[i+1])))
	}
	if longest == 0 {
		longest = 1
	}
	img := image.NewNRGBA(image.Rect(0, 0, wd, h))
	for i := range h * wd {
		dx, dy := float64(flow.Data[2*i])/longest, float64(flow.Data[2*i+1])/longest
		img.SetNRGBA(i%wd, i/wd, wheelColor(dx, dy))
	}
	return png.Encode(w, img)
}

// wheel is the Middlebury colour wheel (Baker et al., IJCV 2011): the lengths of its six arcs
// between red, yellow, green, cyan, blue and magenta follow how well the eye tells hues apart.
var wheel = makeWheel()

func makeWheel() []color.NRGBA {
	arcs := []struct {
		n    int
		from color.NRGBA
		to   color.NRGBA
	}{
		{15, color.NRGBA{255, 0, 0, 255}, color.NRGBA{255, 255, 0, 255}},
		{6, color.NRGBA{255, 255, 0, 255}, color.NRGBA{0, 255, 0, 255}},
		{4, color.NRGBA{0, 255, 0, 255}, color.NRGBA{0, 255, 255, 255}},
		{11, color.NRGBA{0, 255, 255, 255}, color.NRGBA{0, 0, 255, 255}},
		{13, color.NRGBA{0, 0, 255, 255}, color.NRGBA{255, 0, 255, 255}},
		{6, color.NRGBA{255, 0, 255, 255}, color.NRGBA{255, 0, 0, 255}},
	}
	var out []color.NRGBA
	for _, a := range arcs {
		for i := range a.n {
			out = append(out, blend(a.from, a.to, float64(i)/float64(a.n)))
		}
	}
	return out
}

// wheelColor is the colour of a vector of length at most 1.
func wheelColor(dx, dy float64) color.NRGBA {
	angle := math.Atan2(-dy, -dx) / math.Pi // −1..1
	at := (angle + 1) / 2 * float64(len(wheel)-1)
	i := int(at)
	c := blend(wheel[i], wheel[(i+1)%len(wheel)], at-float64(i))
	return blend(color.NRGBA{255, 255, 255, 255}, c, min(1, math.Hypot(dx, dy)))
}

func blend(a, b color.NRGBA, t float64) color.NRGBA {
	mix := func(x, y uint8) uint8 { return uint8(math.Round(float64(x) + (float64(y)-float64(x))*t)) }
	return color.NRGBA{mix(a.R, b.R), mix(a.G, b.G), mix(a.B, b.B), 255}
}
