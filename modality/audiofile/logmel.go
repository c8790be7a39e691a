package audiofile

import (
	"io"
	"math"

	"gonum.org/v1/gonum/dsp/fourier"

	"github.com/mmserve/mmserve/modality/media"
)

// MelConfig says what log-mel frames are. The zero value of a field means the default beside it;
// the defaults are those of Whisper but for its clamping (Range, Add, Scale). The definitions
// are those of librosa.feature.melspectrogram and torchaudio.transforms.MelSpectrogram.
type MelConfig struct {
	Rate   int     // samples a second; 0: 16000
	FFT    int     // length of the transform; 0: 400
	Window int     // length of the window within it, in its middle; 0: FFT
	Hop    int     // samples from frame to frame; 0: 160
	Mels   int     // bands; 0: 80
	MinHz  float64 // lower edge of the first band
	MaxHz  float64 // upper edge of the last; 0: Rate/2
	Shape  string  // "hann" or "hamming" (periodic), "rect"; "": hann
	HTK    bool    // mel scale 2595·log10(1+f/700) in place of Slaney's (linear up to 1 kHz)
	Plain  bool    // bands of height 1 in place of Slaney's of equal area
	Power  float64 // of the magnitude; 0: 2
	Log    string  // "log10", "ln", "db" (10·log10) or "none"; "": log10
	Floor  float64 // least value before the logarithm; 0: 1e-10
	Edge   string  // "reflect" or "constant" (silence): frames are centred and the ends so continued; "none": frames lie within the signal; "": reflect
	Drop   bool    // leave out the last frame, as Whisper does
	Range  float64 // clamp to this much below the loudest value of the whole recording, in units of Log; 0: no clamp
	Add    float64 // then (x+Add)·Scale
	Scale  float64 // 0: 1
}

// WithDefaults fills the zero fields.
func (c MelConfig) WithDefaults() MelConfig {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	deff := func(v *float64, d float64) {
		if *v == 0 {
			*v = d
		}
	}
	defs := func(v *string, d string) {
		if *v == "" {
			*v = d
		}
	}
	def(&c.Rate, 16000)
	def(&c.FFT, 400)
	def(&c.Window, c.FFT)
	def(&c.Hop, 160)
	def(&c.Mels, 80)
	deff(&c.MaxHz, float64(c.Rate)/2)
	deff(&c.Power, 2)
	deff(&c.Floor, 1e-10)
	deff(&c.Scale, 1)
	defs(&c.Shape, "hann")
	defs(&c.Log, "log10")
	defs(&c.Edge, "reflect")
	return c
}

// Check reports the first field that makes no sense, as a BadOptions error.
func (c MelConfig) Check() error {
	c = c.WithDefaults()
	bad := func(format string, args ...any) error {
		return media.Errorf(media.BadOptions, "audio: log-mel: "+format, args...)
	}
	switch {
	case c.Rate < 1 || c.Rate > 1<<20:
		return bad("rate %d", c.Rate)
	case c.FFT < 2 || c.FFT > 1<<16:
		return bad("fft of %d: want 2 to 65536", c.FFT)
	case c.Window < 1 || c.Window > c.FFT:
		return bad("window of %d in a transform of %d", c.Window, c.FFT)
	case c.Hop < 1 || c.Hop > 1<<20:
		return bad("hop of %d", c.Hop)
	case c.Mels < 1 || c.Mels > 1024:
		return bad("%d bands: want 1 to 1024", c.Mels)
	case !(c.MinHz >= 0 && c.MinHz < c.MaxHz && c.MaxHz <= float64(c.Rate)):
		return bad("bands from %g to %g Hz", c.MinHz, c.MaxHz)
	case !(c.Power > 0 && c.Power <= 4):
		return bad("power %g", c.Power)
	case !(c.Floor > 0 && c.Floor < 1e6) && c.Log != "none":
		return bad("floor %g", c.Floor)
	case !(c.Range >= 0 && c.Range < 1e6) || !(math.Abs(c.Add) < 1e6) || !(math.Abs(c.Scale) < 1e6):
		return bad("range %g, add %g, scale %g", c.Range, c.Add, c.Scale)
	case !oneOf(c.Shape, "hann", "hamming", "rect"):
		return bad("window shape %q", c.Shape)
	case !oneOf(c.Log, "log10", "ln", "db", "none"):
		return bad("logarithm %q", c.Log)
	case !oneOf(c.Edge, "reflect", "constant", "none"):
		return bad("edge %q", c.Edge)
	}
	return nil
}

func oneOf(s string, list ...string) bool {
	for _, v := range list {
		if s == v {
			return true
		}
	}
	return false
}

// Frames is the number of frames that n samples give.
func (c MelConfig) Frames(n int64) int64 {
	c = c.WithDefaults()
	frames := n/int64(c.Hop) + 1
	if c.Edge == "none" {
		frames = 0
		if n >= int64(c.FFT) {
			frames = (n-int64(c.FFT))/int64(c.Hop) + 1
		}
	} else if n <= 0 {
		return 0
	}
	if c.Drop {
		frames--
	}
	return max(0, frames)
}

// Finish clamps a frame to Range below loudest, the highest value of the recording, and applies
// Add and Scale.
func (c MelConfig) Finish(row []float32, loudest float32) {
	c = c.WithDefaults()
	if c.Range == 0 && c.Add == 0 && c.Scale == 1 {
		return
	}
	least := float32(math.Inf(-1))
	if c.Range > 0 {
		least = loudest - float32(c.Range)
	}
	for i, v := range row {
		row[i] = (max(v, least) + float32(c.Add)) * float32(c.Scale)
	}
}

// LogMel turns a signal into log-mel frames, one after the other, holding no more of it than one
// frame needs.
type LogMel struct {
	MelConfig
	src    Signal
	fft    *fourier.FFT
	window []float64 // FFT values, the window in the middle of zeros
	bands  []melBand
	frame  []float64
	coef   []complex128
	power  []float64

	buf  []float32 // the signal from place base on
	base int64
	ends int64 // length of the signal, -1 until known
	next int64 // next frame
}

// melBand is the weights of one band from bin from on.
type melBand struct {
	from    int
	weights []float64
}

// NewLogMel reads s, which must have the configured rate. It fails on a configuration that makes
// no sense.
func NewLogMel(s Signal, c MelConfig) (*LogMel, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	c = c.WithDefaults()
	return &LogMel{
		MelConfig: c, src: s, ends: -1,
		fft:    fourier.NewFFT(c.FFT),
		window: c.windowValues(),
		bands:  c.melBands(),
		frame:  make([]float64, c.FFT),
		coef:   make([]complex128, c.FFT/2+1),
		power:  make([]float64, c.FFT/2+1),
	}, nil
}

// windowValues is the window, periodic as in a spectral analysis.
func (c MelConfig) windowValues() []float64 {
	w := make([]float64, c.FFT)
	at := (c.FFT - c.Window) / 2
	for i := range c.Window {
		cos := math.Cos(2 * math.Pi * float64(i) / float64(c.Window))
		switch c.Shape {
		case "hann":
			w[at+i] = 0.5 - 0.5*cos
		case "hamming":
			w[at+i] = 0.54 - 0.46*cos
		default:
			w[at+i] = 1
		}
	}
	return w
}

// mel converts a frequency to the mel scale.
func (c MelConfig) mel(hz float64) float64 {
	if c.HTK {
		return 2595 * math.Log10(1+hz/700)
	}
	if hz < 1000 {
		return hz * 3 / 200
	}
	return 15 + math.Log(hz/1000)*27/math.Log(6.4)
}

// hertz is the inverse of mel.
func (c MelConfig) hertz(mel float64) float64 {
	if c.HTK {
		return 700 * (math.Pow(10, mel/2595) - 1)
	}
	if mel < 15 {
		return mel * 200 / 3
	}
	return 1000 * math.Exp((mel-15)*math.Log(6.4)/27)
}

// melBands are triangles with corners equally far apart on the mel scale, each band from the
// middle of the one before to that of the one behind.
func (c MelConfig) melBands() []melBand {
	low, high := c.mel(c.MinHz), c.mel(c.MaxHz)
	corner := func(i int) float64 { return c.hertz(low + (high-low)*float64(i)/float64(c.Mels+1)) }
	bands := make([]melBand, c.Mels)
	for m := range bands {
		left, mid, right := corner(m), corner(m+1), corner(m+2)
		scale := 1.0
		if !c.Plain {
			scale = 2 / (right - left)
		}
		for k := range c.FFT/2 + 1 {
			f := float64(k) * float64(c.Rate) / float64(c.FFT)
			v := min((f-left)/(mid-left), (right-f)/(right-mid))
			if !(v > 0) {
				continue
			}
			if bands[m].weights == nil {
				bands[m].from = k
			}
			bands[m].weights = append(bands[m].weights, v*scale)
		}
	}
	return bands
}

// Next writes the next frame, Mels values, before Finish; io.EOF when there are no more.
func (l *LogMel) Next(dst []float32) error {
	start := l.next * int64(l.Hop)
	if l.Edge != "none" {
		start -= int64(l.FFT / 2)
	}
	if err := l.load(start); err != nil {
		return err
	}
	if l.ends >= 0 && l.next >= l.Frames(l.ends) {
		return io.EOF
	}
	for i := range l.frame {
		l.frame[i] = float64(l.sample(start+int64(i))) * l.window[i]
	}
	l.spectrum()
	for m, b := range l.bands {
		sum := 0.0
		for k, w := range b.weights {
			sum += w * l.power[b.from+k]
		}
		dst[m] = float32(l.logarithm(sum))
	}
	l.next++
	return nil
}

func (l *LogMel) spectrum() {
	l.fft.Coefficients(l.coef, l.frame)
	for k, v := range l.coef {
		p := real(v)*real(v) + imag(v)*imag(v)
		switch l.Power {
		case 2:
		case 1:
			p = math.Sqrt(p)
		default:
			p = math.Pow(p, l.Power/2)
		}
		l.power[k] = p
	}
}

func (l *LogMel) logarithm(x float64) float64 {
	if l.Log == "none" {
		return x
	}
	x = max(x, l.Floor)
	switch l.Log {
	case "ln":
		return math.Log(x)
	case "db":
		return 10 * math.Log10(x)
	}
	return math.Log10(x)
}

// load makes the samples of the frame at start ready: one more than it covers, so that the end of
// the signal is known before its last frame; and for the reflection at both ends.
func (l *LogMel) load(start int64) error {
	keep := start - int64(l.FFT) // reflection looks back
	if drop := keep - l.base; drop > 4*int64(l.FFT)+mixBlock {
		drop = min(drop, int64(len(l.buf)))
		l.buf = l.buf[:copy(l.buf, l.buf[drop:])]
		l.base += drop
	}
	last := start + int64(l.FFT+l.Hop)
	for l.ends < 0 && l.base+int64(len(l.buf)) <= last {
		n := len(l.buf)
		if cap(l.buf) < n+mixBlock {
			l.buf = append(make([]float32, 0, 2*cap(l.buf)+2*mixBlock), l.buf...)
		}
		m, err := l.src.Read(l.buf[n : n+mixBlock])
		l.buf = l.buf[:n+m]
		if err == io.EOF {
			l.ends = l.base + int64(n+m)
		} else if err != nil {
			return err
		}
	}
	return nil
}

// sample is the signal at a place, continued beyond its ends.
func (l *LogMel) sample(i int64) float32 {
	if i < 0 || l.ends >= 0 && i >= l.ends {
		if l.Edge != "reflect" || l.ends == 0 {
			return 0
		}
		i = reflect(i, l.ends)
	}
	return l.buf[i-l.base]
}

// reflect mirrors a place at the first and the last sample, as often as it takes. n is -1 while
// the end is not known: then it is far away.
func reflect(i, n int64) int64 {
	if n < 0 {
		return -i
	}
	if n == 1 {
		return 0
	}
	period := 2 * (n - 1)
	i = ((i % period) + period) % period
	return min(i, period-i)
}
