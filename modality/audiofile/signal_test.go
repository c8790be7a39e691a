package audiofile_test

import (
	"context"
	"encoding/json"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/mmserve/mmserve/modality/audiofile"
	"github.com/mmserve/mmserve/modality/media"
)

// pieces gives a signal in blocks of random size.
type pieces struct {
	audiofile.Signal
	rng *rand.Rand
}

func (p pieces) Read(dst []float32) (int, error) {
	return p.Signal.Read(dst[:1+p.rng.IntN(len(dst))])
}

func all(t testing.TB, s audiofile.Signal, block int) []float32 {
	t.Helper()
	var out []float32
	buf := make([]float32, block)
	for {
		n, err := s.Read(buf)
		out = append(out, buf[:n]...)
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func openFile(t testing.TB, name string) *audiofile.Reader {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "testdata", "media", "audio", name))
	if err != nil {
		t.Fatal(err)
	}
	r, err := audiofile.Open(context.Background(), media.Bytes(name, data))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestLogMelReference compares with librosa; testdata/logmel.py says how the values were made.
func TestLogMelReference(t *testing.T) {
	data, err := os.ReadFile("testdata/logmel.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Name, File string
		Config     audiofile.MelConfig
		Frames     int
		Sum        float64
		Rows       map[string][]float64
	}
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			rows := melRows(t, audiofile.NewMixer(openFile(t, c.File)), c.Config)
			if len(rows) != c.Frames {
				t.Fatalf("%d frames, want %d", len(rows), c.Frames)
			}
			sum := 0.0
			for _, r := range rows {
				for _, v := range r {
					sum += float64(v)
				}
			}
			if math.Abs(sum-c.Sum) > 1e-5*max(1, math.Abs(c.Sum)) {
				t.Errorf("sum %g, want %g", sum, c.Sum)
			}
			worst := 0.0
			for k, want := range c.Rows {
				i, _ := strconv.Atoi(k)
				for m, w := range want {
					worst = max(worst, math.Abs(float64(rows[i][m])-w))
				}
			}
			t.Logf("largest difference %.2g", worst)
			if worst > 1e-4 {
				t.Errorf("largest difference %g", worst)
			}
		})
	}
}

// melRows are the finished log-mel frames of a signal.
func melRows(t testing.TB, s audiofile.Signal, c audiofile.MelConfig) [][]float32 {
	t.Helper()
	l, err := audiofile.NewLogMel(s, c)
	if err != nil {
		t.Fatal(err)
	}
	var rows [][]float32
	loudest := float32(math.Inf(-1))
	for {
		row := make([]float32, l.Mels)
		err := l.Next(row)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range row {
			loudest = max(loudest, v)
		}
		rows = append(rows, row)
	}
	for _, r := range rows {
		c.Finish(r, loudest)
	}
	return rows
}

// TestLogMelLengths checks the promised number of frames for signals of every short length, and
// that reading in pieces changes nothing.
func TestLogMelLengths(t *testing.T) {
	for _, c := range []audiofile.MelConfig{
		{FFT: 32, Hop: 10, Mels: 4}, {FFT: 32, Hop: 10, Mels: 4, Drop: true}, {FFT: 32, Hop: 50, Mels: 4, Edge: "constant"},
		{FFT: 31, Hop: 7, Mels: 3, Edge: "none"}, {FFT: 32, Hop: 8, Mels: 4, Edge: "none", Drop: true},
	} {
		for n := 1; n < 150; n++ {
			x := noise(n, uint64(n))
			rows := melRows(t, &audiofile.Samples{Left: x}, c)
			if int64(len(rows)) != c.Frames(int64(n)) {
				t.Fatalf("%+v: %d samples gave %d frames, promised %d", c, n, len(rows), c.Frames(int64(n)))
			}
			again := melRows(t, pieces{&audiofile.Samples{Left: x}, rand.New(rand.NewPCG(1, uint64(n)))}, c)
			for i := range rows {
				for m := range rows[i] {
					if rows[i][m] != again[i][m] {
						t.Fatalf("%d samples: frame %d differs in pieces", n, i)
					}
				}
			}
		}
	}
}

func noise(n int, seed uint64) []float32 {
	rng := rand.New(rand.NewPCG(seed, 7))
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(rng.NormFloat64()) * 0.3
	}
	return x
}

// TestResamplerBlocks: any way of reading gives the same bits and the promised length.
func TestResamplerBlocks(t *testing.T) {
	for _, rates := range [][2]int{{44100, 16000}, {16000, 44100}, {48000, 16000}, {8000, 48000}, {22050, 16000}, {44099, 16000}, {16000, 16000}, {96000, 8000}} {
		for _, n := range []int{1, 17, 1000, 9001} {
			x := noise(n, 3)
			resample := func(s audiofile.Signal) audiofile.Signal {
				r, err := audiofile.NewResampler(s, rates[0], rates[1])
				if err != nil {
					t.Fatal(err)
				}
				return r
			}
			whole := all(t, resample(&audiofile.Samples{Left: x}), 100_000)
			if want := audiofile.ResampledLen(int64(n), rates[0], rates[1]); int64(len(whole)) != want {
				t.Errorf("%v: %d samples became %d, promised %d", rates, n, len(whole), want)
			}
			rng := rand.New(rand.NewPCG(5, 5))
			parts := all(t, pieces{resample(pieces{&audiofile.Samples{Left: x}, rng}), rng}, 37)
			if len(parts) != len(whole) {
				t.Fatalf("%v: %d samples in pieces, %d whole", rates, len(parts), len(whole))
			}
			for i := range whole {
				if whole[i] != parts[i] {
					t.Fatalf("%v: sample %d is %g in pieces, %g whole", rates, i, parts[i], whole[i])
				}
			}
		}
	}
}

// tone measures how a sine of parts·Nyquist of the lower rate comes through the resampler: the
// gain, and the rest that is not that sine, both relative to the input.
func tone(t testing.TB, from, to int, parts float64) (gain, rest float64) {
	hz := parts * float64(min(from, to)) / 2
	x := make([]float32, from/4)
	for i := range x {
		x[i] = float32(math.Sin(2 * math.Pi * hz * float64(i) / float64(from)))
	}
	r, err := audiofile.NewResampler(&audiofile.Samples{Left: x}, from, to)
	if err != nil {
		t.Fatal(err)
	}
	y := all(t, r, 4096)
	y = y[len(y)/4 : 3*len(y)/4] // away from the ends
	// The sine and cosine nearest to y by least squares.
	var sy, cy, ss, sc, cc, power float64
	for i, v := range y {
		s, c := math.Sincos(2 * math.Pi * hz * float64(i) / float64(to))
		sy, cy, power = sy+s*float64(v), cy+c*float64(v), power+float64(v)*float64(v)
		ss, sc, cc = ss+s*s, sc+s*c, cc+c*c
	}
	det := ss*cc - sc*sc
	a, b := (sy*cc-cy*sc)/det, (cy*ss-sy*sc)/det
	var left float64
	for i, v := range y {
		s, c := math.Sincos(2 * math.Pi * hz * float64(i) / float64(to))
		d := float64(v) - a*s - b*c
		left += d * d
	}
	if parts >= 1 { // nothing of it should be there at all
		return math.Sqrt(2 * power / float64(len(y))), math.Sqrt(2 * power / float64(len(y)))
	}
	return math.Hypot(a, b), math.Sqrt(2 * left / float64(len(y)))
}

func decibel(x float64) float64 { return 20 * math.Log10(max(x, 1e-12)) }

// response is the ripple up to 0.9 of the lower Nyquist frequency, the loudest rest of those
// tones (images, aliases, rounding), and the loudest tone that should have been stopped.
func response(t testing.TB, from, to int) (ripple, spurious, stop float64) {
	spurious, stop = -240, -240
	for _, parts := range []float64{0.01, 0.07, 0.13, 0.25, 0.37, 0.5, 0.61, 0.72, 0.8, 0.85, 0.88, 0.9} {
		g, r := tone(t, from, to, parts)
		ripple = max(ripple, math.Abs(decibel(g)))
		spurious = max(spurious, decibel(r))
	}
	if from > to {
		for _, parts := range []float64{1.001, 1.02, 1.1, 1.3, 1.61, 1.9, 2.3} {
			if parts < float64(from)/float64(to) {
				g, _ := tone(t, from, to, parts)
				stop = max(stop, decibel(g))
			}
		}
	}
	return ripple, spurious, stop
}

// TestResamplerResponse holds the resampler against its promise.
func TestResamplerResponse(t *testing.T) {
	for _, rates := range [][2]int{{44100, 16000}, {16000, 48000}, {9999, 8000}} {
		ripple, spurious, stop := response(t, rates[0], rates[1])
		t.Logf("%v: ripple %.4f dB, spurious %.0f dB, stop band %.0f dB", rates, ripple, spurious, stop)
		if ripple > 0.01 || spurious > -100 || stop > -100 {
			t.Errorf("%v: ripple %.4f dB, spurious %.1f dB, stop band %.1f dB; promised 0.01, -100, -100", rates, ripple, spurious, stop)
		}
	}
}

// BenchmarkResampler reports the speed and the measured quality of the resampler.
func BenchmarkResampler(b *testing.B) {
	for _, rates := range [][2]int{{48000, 16000}, {44100, 16000}, {44100, 48000}, {8000, 16000}} {
		b.Run(strconv.Itoa(rates[0])+"-"+strconv.Itoa(rates[1]), func(b *testing.B) {
			x := noise(rates[0], 1)
			buf := make([]float32, 4096)
			for b.Loop() {
				r, err := audiofile.NewResampler(&audiofile.Samples{Left: x}, rates[0], rates[1])
				if err != nil {
					b.Fatal(err)
				}
				for err == nil {
					_, err = r.Read(buf)
				}
			}
			ripple, spurious, stop := response(b, rates[0], rates[1])
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "×realtime")
			b.ReportMetric(ripple, "dB-ripple")
			b.ReportMetric(spurious, "dB-spurious")
			b.ReportMetric(stop, "dB-stop")
		})
	}
}
