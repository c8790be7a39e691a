package main

import (
	"bytes"
	"context"
	"errors"
	"hash/fnv"
	"image"
	"image/color"
	"image/jpeg"
	"io"
	"math"
	"math/rand/v2"

	"github.com/mmserve/mmserve/modality/audiofile"
	"github.com/mmserve/mmserve/modality/imagefile"
	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/pipeline"
)

// alteration makes an input worse; the zero value leaves it as it is. What is drawn at random
// is drawn from the item's name: the same in every run, whatever the order.
type alteration struct {
	name  string
	apply func(s sample) (sample, error)
}

func (a alteration) of(s sample) (sample, error) {
	if a.apply == nil {
		return s, nil
	}
	return a.apply(s)
}

// conditions are the alterations that --robustness adds, by medium.
var conditions = map[string][]alteration{
	"image": {
		{"jpeg_q30", onPicture(func(p *image.NRGBA) ([]byte, error) { return encodeJPEG(p, 30) })},
		{"half_size", onPicture(func(p *image.NRGBA) ([]byte, error) { return imagefile.EncodePNG(halved(p)) })},
		{"grey", onPicture(func(p *image.NRGBA) ([]byte, error) { return imagefile.EncodePNG(greyed(p)) })},
	},
	"audio": {{"noise_10db", func(s sample) (sample, error) { return noisy(s, 10) }}},
	"pointcloud": {
		{"points_256", func(s sample) (sample, error) {
			some := seeded(s.name).Perm(s.cloud.points())
			s.cloud = s.cloud.pick(some[:min(256, len(some))])
			return s, nil
		}},
		{"no_colours", func(s sample) (sample, error) {
			s.cloud = &cloud{xyz: s.cloud.xyz, normals: s.cloud.normals}
			return s, nil
		}},
		{"no_normals", func(s sample) (sample, error) {
			s.cloud = &cloud{xyz: s.cloud.xyz, rgb: s.cloud.rgb}
			return s, nil
		}},
	},
}

// withConditions measures a line as it is and, when asked to, under its medium's conditions.
func (ev *evaluator) withConditions(line evalLine, medium string, measure func(l *evalLine, alter alteration) error) error {
	clean := line
	if err := measure(&clean, alteration{}); err != nil {
		return err
	}
	if err := ev.emit(clean); err != nil || !ev.robust {
		return err
	}
	for _, alter := range conditions[medium] {
		l := line
		l.Condition, l.Clean = alter.name, &clean.Value
		if err := measure(&l, alter); err != nil {
			return err
		}
		if err := ev.emit(l); err != nil {
			return err
		}
	}
	return nil
}

// seeded draws from a name.
func seeded(name string) *rand.Rand {
	h := fnv.New64a()
	io.WriteString(h, name)
	return rand.New(rand.NewPCG(h.Sum64(), 0))
}

// onPicture alters decoded pictures.
func onPicture(alter func(*image.NRGBA) ([]byte, error)) func(sample) (sample, error) {
	return func(s sample) (sample, error) {
		p, err := imagefile.Decode(context.Background(), media.Bytes(s.name, s.data), imagefile.Options{})
		if err != nil {
			return s, err
		}
		s.data, err = alter(p.NRGBA)
		s.name = "" // its extension may no longer be true
		return s, err
	}
}

// encodeJPEG lays a picture over white and compresses it.
func encodeJPEG(p *image.NRGBA, quality int) ([]byte, error) {
	flat := image.NewRGBA(p.Rect)
	for i := 0; i < len(p.Pix); i += 4 {
		a := int(p.Pix[i+3])
		for k := range 3 {
			flat.Pix[i+k] = uint8((int(p.Pix[i+k])*a + 255*(255-a) + 127) / 255)
		}
		flat.Pix[i+3] = 255
	}
	var b bytes.Buffer
	err := jpeg.Encode(&b, flat, &jpeg.Options{Quality: quality})
	return b.Bytes(), err
}

// halved is a picture of half the width and height: means of 2×2 pixels, weighted by alpha.
func halved(p *image.NRGBA) *image.NRGBA {
	w, h := p.Rect.Dx(), p.Rect.Dy()
	out := image.NewNRGBA(image.Rect(0, 0, max(w/2, 1), max(h/2, 1)))
	for y := range out.Rect.Dy() {
		for x := range out.Rect.Dx() {
			var sum [3]int
			alpha := 0
			for i := range 4 {
				c := p.NRGBAAt(p.Rect.Min.X+min(2*x+i%2, w-1), p.Rect.Min.Y+min(2*y+i/2, h-1))
				a := int(c.A)
				sum[0], sum[1], sum[2] = sum[0]+a*int(c.R), sum[1]+a*int(c.G), sum[2]+a*int(c.B)
				alpha += a
			}
			mean := func(v int) uint8 { return uint8((v + alpha/2) / max(alpha, 1)) }
			out.SetNRGBA(x, y, color.NRGBA{mean(sum[0]), mean(sum[1]), mean(sum[2]), uint8((alpha + 2) / 4)})
		}
	}
	return out
}

// greyed is a picture without colours: every channel is the luma 0.299 R + 0.587 G + 0.114 B.
func greyed(p *image.NRGBA) *image.NRGBA {
	out := image.NewNRGBA(p.Rect)
	for i := 0; i < len(p.Pix); i += 4 {
		y := uint8((299*int(p.Pix[i]) + 587*int(p.Pix[i+1]) + 114*int(p.Pix[i+2]) + 500) / 1000)
		out.Pix[i], out.Pix[i+1], out.Pix[i+2], out.Pix[i+3] = y, y, y, p.Pix[i+3]
	}
	return out
}

// noisy adds white Gaussian noise: the mean square of the sound is ratio dB above that of the
// noise. The sum is scaled down where it would not fit in −1..1.
func noisy(s sample, ratio float64) (sample, error) {
	r, err := audiofile.Open(context.Background(), media.Bytes(s.name, s.data))
	if err != nil {
		return s, err
	}
	var x []float32
	block := make([]float32, 8192)
	for mono := audiofile.NewMixer(r); ; {
		n, err := mono.Read(block)
		x = append(x, block[:n]...)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return s, err
		}
	}
	addNoise(x, ratio, seeded(s.name))
	var b bytes.Buffer
	err = pipeline.WriteWAV(&b, x, r.Rate)
	s.data, s.name = b.Bytes(), ""
	return s, err
}

// addNoise adds Gaussian noise of so many dB below the signal's mean square, in place.
func addNoise(x []float32, ratio float64, draw *rand.Rand) {
	power := 0.0
	for _, v := range x {
		power += float64(v) * float64(v)
	}
	sigma := math.Sqrt(power / float64(max(len(x), 1)) / math.Pow(10, ratio/10))
	peak := float32(1)
	for i := range x {
		x[i] += float32(sigma * draw.NormFloat64())
		peak = max(peak, x[i], -x[i])
	}
	for i := range x {
		x[i] /= peak
	}
}
