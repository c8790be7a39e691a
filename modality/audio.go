package modality

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"

	"github.com/mmserve/mmserve/modality/audiofile"
	"github.com/mmserve/mmserve/modality/media"
)

// AudioOptions are the options of the audio adapter. A row of "waveform" is Patch samples in a row
// (the last row filled up with silence), a row of "logmel" is one frame of Mels values; positions
// follow, over time.
type AudioOptions struct {
	Features   string  `json:"features"`    // "waveform" or "logmel"
	Preset     string  `json:"preset"`      // "" or "whisper": options to start from
	Rate       int     `json:"sample_rate"` // Hz to resample to; 0: 48000 (waveform), 16000 (logmel); -1: as it is
	Channel    int     `json:"channel"`     // the channel to take, from 0; -1: the mean of all
	Length     int64   `json:"length"`      // samples after resampling, cut or filled with silence; 0: all there are
	Patch      int     `json:"patch"`       // samples of a waveform row
	Position   string  `json:"position"`    // "fourier" or "none"
	Bands      int     `json:"bands"`       // Fourier bands; 0: 192 (waveform), 64 (logmel)
	Resolution float32 `json:"resolution"`  // Fourier maximum resolution; 0: 30720 (waveform), 2048 (logmel)

	FFT      int     `json:"n_fft"`      // samples of a Fourier transform
	Window   int     `json:"win_length"` // samples of the window, in the middle of the transform; 0: n_fft
	Hop      int     `json:"hop_length"` // samples from frame to frame
	Mels     int     `json:"n_mels"`     // bands
	MinHz    float64 `json:"fmin"`       // lower edge of the first band
	MaxHz    float64 `json:"fmax"`       // upper edge of the last; 0: half the sample rate
	Shape    string  `json:"window"`     // "hann", "hamming" or "rect", periodic
	Scale    string  `json:"mel_scale"`  // "slaney" or "htk"
	Norm     string  `json:"norm"`       // "slaney" (bands of equal area) or "none" (of height 1)
	Power    float64 `json:"power"`      // exponent of the magnitude
	Log      string  `json:"log"`        // "log10", "ln", "db" or "none"
	Floor    float64 `json:"log_floor"`  // least value before the logarithm
	TopDB    float64 `json:"top_db"`     // clamp this far below the loudest value of the recording; 0: no clamp
	Add      float64 `json:"add"`        // then (x+add)·multiply
	Multiply float64 `json:"multiply"`
	Pad      string  `json:"pad_mode"`  // beyond the ends: "reflect", "constant" (zeros) or "none" (frames lie within)
	Drop     bool    `json:"drop_last"` // leave out the last frame
}

// standardAudio are the options that nothing was said about.
var standardAudio = AudioOptions{
	Features: "waveform", Channel: -1, Patch: 16, Position: "fourier",
	FFT: 400, Hop: 160, Mels: 80, Shape: "hann", Scale: "slaney", Norm: "slaney", Power: 2, Log: "log10", Floor: 1e-10,
	Multiply: 1, Pad: "reflect",
}

var audioSchema = json.RawMessage(`{
  "type": "object", "additionalProperties": false,
  "properties": {
    "features": {"enum": ["waveform", "logmel"], "default": "waveform"},
    "preset": {"enum": ["", "whisper"], "default": "", "description": "whisper: logmel as Whisper's 80 bands; other options given beside it win"},
    "sample_rate": {"type": "integer", "minimum": -1, "maximum": 768000, "default": 0, "description": "Hz to resample to; 0 for 48000 (waveform) or 16000 (logmel), -1 for that of the file"},
    "channel": {"type": "integer", "minimum": -1, "default": -1, "description": "channel to take, counted from 0; -1 for the mean of all"},
    "length": {"type": "integer", "minimum": 0, "default": 0, "description": "samples after resampling: cut, or filled up with silence; 0 for all there are"},
    "patch": {"type": "integer", "minimum": 1, "maximum": 65536, "default": 16, "description": "samples of a row of waveform"},
    "position": {"enum": ["fourier", "none"], "default": "fourier"},
    "bands": {"type": "integer", "minimum": 0, "maximum": 1024, "default": 0, "description": "Fourier bands; 0 for 192 (waveform) or 64 (logmel)"},
    "resolution": {"type": "number", "minimum": 0, "default": 0, "description": "maximum resolution of the Fourier code; 0 for 30720 (waveform) or 2048 (logmel)"},
    "n_fft": {"type": "integer", "minimum": 2, "maximum": 65536, "default": 400, "description": "logmel: length of the Fourier transform"},
    "win_length": {"type": "integer", "minimum": 0, "default": 0, "description": "logmel: length of the window, in the middle of the transform; 0 for n_fft"},
    "hop_length": {"type": "integer", "minimum": 1, "maximum": 1048576, "default": 160, "description": "logmel: samples from frame to frame"},
    "n_mels": {"type": "integer", "minimum": 1, "maximum": 1024, "default": 80},
    "fmin": {"type": "number", "minimum": 0, "default": 0, "description": "logmel: lower edge of the first band in Hz"},
    "fmax": {"type": "number", "minimum": 0, "default": 0, "description": "logmel: upper edge of the last band in Hz; 0 for half the sample rate"},
    "window": {"enum": ["hann", "hamming", "rect"], "default": "hann", "description": "logmel: shape of the window, periodic"},
    "mel_scale": {"enum": ["slaney", "htk"], "default": "slaney"},
    "norm": {"enum": ["slaney", "none"], "default": "slaney", "description": "logmel: bands of equal area, or of height 1"},
    "power": {"type": "number", "exclusiveMinimum": 0, "maximum": 4, "default": 2, "description": "logmel: exponent of the magnitude"},
    "log": {"enum": ["log10", "ln", "db", "none"], "default": "log10"},
    "log_floor": {"type": "number", "exclusiveMinimum": 0, "default": 1e-10, "description": "logmel: least value before the logarithm"},
    "top_db": {"type": "number", "minimum": 0, "default": 0, "description": "logmel: clamp this many decibels (10·log10) below the loudest value of the recording; 0 for no clamp"},
    "add": {"type": "number", "default": 0, "description": "logmel: then (x+add)·multiply"},
    "multiply": {"type": "number", "default": 1},
    "pad_mode": {"enum": ["reflect", "constant", "none"], "default": "reflect", "description": "logmel: how the recording continues beyond its ends around centred frames; none: frames lie within it"},
    "drop_last": {"type": "boolean", "default": false, "description": "logmel: leave out the last frame"}
  }
}`)

// audioAdapter reads sound.
type audioAdapter struct {
	o       AudioOptions
	mel     audiofile.MelConfig
	fourier Fourier
	keep    int64 // values kept rather than computed again; 0: heldAudio
}

// OpenAudio opens the audio adapter.
func OpenAudio(options json.RawMessage) (Adapter, error) {
	o := standardAudio
	if err := Options("audio", options, &o); err != nil {
		return nil, err
	}
	switch o.Preset {
	case "":
	case "whisper":
		o = standardAudio
		o.Features, o.Rate, o.TopDB, o.Add, o.Multiply, o.Drop = "logmel", 16000, 80, 4, 0.25, true
		if err := Options("audio", options, &o); err != nil {
			return nil, err
		}
	default:
		return nil, BadOption("audio", "preset %q: want whisper", o.Preset)
	}
	a := &audioAdapter{o: o}
	if err := a.check(); err != nil {
		return nil, err
	}
	if a.positions() > 0 {
		a.fourier = NewFourier(a.o.Bands, a.o.Resolution)
	}
	return a, nil
}

// check completes the options and refuses what makes no sense.
func (a *audioAdapter) check() error {
	o := &a.o
	wave := o.Features == "waveform"
	if !wave && o.Features != "logmel" {
		return BadOption("audio", "features %q: want waveform or logmel", o.Features)
	}
	choose(&o.Rate, wave, 48000, 16000)
	choose(&o.Bands, wave, 192, 64)
	choose(&o.Resolution, wave, 30720, 2048)
	switch {
	case o.Rate < -1 || o.Rate > 768000 || o.Rate > 0 && o.Rate < 100:
		return BadOption("audio", "sample_rate %d: want -1, 0 or 100 to 768000", o.Rate)
	case !wave && o.Rate < 0:
		return BadOption("audio", "sample_rate -1: log-mel frames need a rate of their own")
	case o.Channel < -1:
		return BadOption("audio", "channel %d: want -1 or more", o.Channel)
	case o.Length < 0 || o.Length > 1<<40:
		return BadOption("audio", "length %d: want 0 or more", o.Length)
	case o.Patch < 1 || o.Patch > 65536:
		return BadOption("audio", "patch %d: want 1 to 65536", o.Patch)
	case o.Position != "fourier" && o.Position != "none":
		return BadOption("audio", "position %q: want fourier or none", o.Position)
	case o.Bands < 1 || o.Bands > 1024:
		return BadOption("audio", "bands %d: want 1 to 1024", o.Bands)
	case !(o.Resolution >= 2 && o.Resolution <= 1e9):
		return BadOption("audio", "resolution %g: want 2 to 1e9", o.Resolution)
	}
	if wave {
		return nil
	}
	return a.checkMel()
}

func choose[T int | float32](v *T, wave bool, forWave, forMel T) {
	switch {
	case *v == 0 && wave:
		*v = forWave
	case *v == 0:
		*v = forMel
	}
}

// checkMel completes the options of log-mel frames. Here, unlike in a MelConfig, a zero is a zero.
func (a *audioAdapter) checkMel() error {
	o := &a.o
	switch {
	case !slices.Contains([]string{"slaney", "htk"}, o.Scale):
		return BadOption("audio", "mel_scale %q: want slaney or htk", o.Scale)
	case !slices.Contains([]string{"slaney", "none"}, o.Norm):
		return BadOption("audio", "norm %q: want slaney or none", o.Norm)
	case o.FFT == 0 || o.Hop == 0 || o.Mels == 0 || o.Power == 0 || o.Floor == 0 || o.Shape == "" || o.Log == "" || o.Pad == "":
		return BadOption("audio", "n_fft, hop_length, n_mels, power, log_floor, window, log and pad_mode: want a value")
	case o.Multiply == 0:
		return BadOption("audio", "multiply 0 leaves nothing")
	}
	a.mel = audiofile.MelConfig{
		Rate: o.Rate, FFT: o.FFT, Window: o.Window, Hop: o.Hop, Mels: o.Mels, MinHz: o.MinHz, MaxHz: o.MaxHz,
		Shape: o.Shape, HTK: o.Scale == "htk", Plain: o.Norm == "none", Power: o.Power, Log: o.Log, Floor: o.Floor,
		Edge: o.Pad, Drop: o.Drop, Range: o.TopDB, Add: o.Add, Scale: o.Multiply,
	}.WithDefaults()
	switch o.Log {
	case "log10":
		a.mel.Range = o.TopDB / 10
	case "ln":
		a.mel.Range = o.TopDB / 10 * math.Ln10
	case "none":
		if o.TopDB != 0 {
			return BadOption("audio", "top_db needs a logarithm")
		}
	}
	if err := a.mel.Check(); err != nil {
		return BadOption("audio", "%s", err)
	}
	return nil
}

// content is the number of content channels, positions that of the position code.
func (a *audioAdapter) content() int {
	if a.o.Features == "waveform" {
		return a.o.Patch
	}
	return a.o.Mels
}

func (a *audioAdapter) positions() int {
	if a.o.Position == "none" {
		return 0
	}
	return 1 + 2*a.o.Bands
}

// Info implements Adapter.
func (a *audioAdapter) Info() Info {
	return Info{
		Name: "audio", Doc: "sound: WAV, AIFF, FLAC, MP3, Ogg Vorbis, as waveform patches or log-mel frames",
		MediaTypes: []string{"audio/wav", "audio/x-wav", "audio/wave", "audio/vnd.wave", "audio/mpeg", "audio/mp3", "audio/x-mp3",
			"audio/flac", "audio/x-flac", "audio/ogg", "audio/vorbis", "application/ogg", "audio/aiff", "audio/x-aiff",
			"audio/mp4", "audio/aac", "audio/x-m4a", "audio/opus", "audio/amr", "audio/basic"},
		Extensions: []string{".wav", ".wave", ".mp3", ".flac", ".ogg", ".oga", ".aif", ".aiff", ".aifc",
			".mp2", ".m4a", ".aac", ".opus", ".amr", ".wma", ".au", ".caf", ".wv"},
		Magic: []Magic{
			{MediaType: "audio/wav", Bytes: []byte("RIFF????WAVE"), Wild: true},
			{MediaType: "audio/wav", Bytes: []byte("RF64????WAVE"), Wild: true},
			{MediaType: "audio/wav", Bytes: []byte("BW64????WAVE"), Wild: true},
			{MediaType: "audio/wav", Bytes: []byte("RIFX????WAVE"), Wild: true},
			{MediaType: "audio/aiff", Bytes: []byte("FORM????AIFF"), Wild: true},
			{MediaType: "audio/aiff", Bytes: []byte("FORM????AIFC"), Wild: true},
			{MediaType: "audio/flac", Bytes: []byte("fLaC")},
			{MediaType: "audio/ogg", Bytes: []byte("OggS")},
			{MediaType: "audio/mpeg", Bytes: []byte("ID3")},
		},
		Options: audioSchema, Channels: a.content() + a.positions(), Content: a.content(), Position: a.o.Position, Streams: true,
	}
}

// Sniff implements Sniffer for MP3 without a tag in front, which has no signature but frames that
// follow each other.
func (a *audioAdapter) Sniff(h Header) (string, float64) {
	if audiofile.Sniff(h.Head) == "mp3" {
		return "audio/mpeg", 0.9
	}
	return "", 0
}

// Plan implements Adapter.
func (a *audioAdapter) Plan(ctx context.Context, h Header) (Cost, error) {
	info, err := audiofile.Probe(ctx, h)
	if err != nil {
		return Cost{}, err
	}
	return a.cost(info, h.Limits.WithDefaults())
}

// rate is the rate of the rows of a file.
func (a *audioAdapter) rate(info audiofile.Info) int {
	if a.o.Rate < 0 {
		return info.Rate
	}
	return a.o.Rate
}

// samples is the number of samples after resampling that n of the file become.
func (a *audioAdapter) samples(info audiofile.Info, n int64) int64 {
	if a.o.Length > 0 {
		return a.o.Length
	}
	return audiofile.ResampledLen(n, info.Rate, a.rate(info))
}

// rows is the number of rows of n samples.
func (a *audioAdapter) rows(n int64) int64 {
	if a.o.Features == "waveform" {
		return (n + int64(a.o.Patch) - 1) / int64(a.o.Patch)
	}
	return a.mel.Frames(n)
}

// cost is the plan of a file of which info is known.
func (a *audioAdapter) cost(info audiofile.Info, l Limits) (Cost, error) {
	c := Cost{
		Modality: "audio", MediaType: info.MediaType, SampleRate: info.Rate, Channels: info.Channels,
		RowChannels: a.content() + a.positions(), Notes: a.notes(info),
	}
	frames := info.Frames
	if frames > 0 {
		c.Frames = int(min(frames, math.MaxInt))
	}
	switch {
	case frames < 0: // a stream of unknown length: as long as it may be
		frames = min(int64(l.Seconds*float64(info.Rate)), l.Samples/int64(info.Channels))
		c.Estimated = true
	case !info.Exact:
		c.Estimated = true
		c.Seconds = info.Seconds()
		frames += frames / 10
	default:
		c.Seconds = info.Seconds()
	}
	c.Estimated = c.Estimated && a.o.Length == 0
	if a.o.Channel >= info.Channels {
		return c, BadOption("audio", "channel %d of a file with %d", a.o.Channel, info.Channels)
	}
	n := a.samples(info, frames)
	if err := media.Check("audio: samples after resampling", l.Samples, n); err != nil {
		return c, err
	}
	rows := a.rows(n)
	if rows == 0 {
		return c, media.Errorf(media.TooSmall, "audio: %d samples are less than one frame", n)
	}
	if err := media.Check("audio: rows", min(l.Rows, math.MaxInt), rows); err != nil {
		return c, err
	}
	c.Rows = int(rows)
	c.DecodedBytes = a.memory(rows)
	if a.o.Length > 0 { // no more is decoded than that takes
		frames = min(frames, audiofile.ResampledLen(a.o.Length, a.rate(info), info.Rate))
	}
	c.Decoding = decoding(frames*int64(info.Channels), perSample)
	return c, nil
}

// memory is the most that Adapt and the array hold: the content or the pipeline that computes
// it, and the table of positions.
func (a *audioAdapter) memory(rows int64) int64 {
	held := rows * int64(a.content()) * 4
	if held > 4*a.hold() {
		held = 0
	}
	return held + audioPipeline + min(rows*int64(a.positions())*4, 16<<20)
}

// notes says what is done to a recording, for people.
func (a *audioAdapter) notes(info audiofile.Info) []string {
	notes := append([]string{info.Codec}, info.Notes...)
	switch {
	case info.Channels > 1 && a.o.Channel < 0:
		notes = append(notes, fmt.Sprintf("%d channels mixed to one", info.Channels))
	case info.Channels > 1:
		notes = append(notes, fmt.Sprintf("channel %d of %d", a.o.Channel, info.Channels))
	}
	if r := a.rate(info); r != info.Rate {
		notes = append(notes, fmt.Sprintf("resampled from %d to %d Hz", info.Rate, r))
	}
	if n := audiofile.ResampledLen(info.Frames, info.Rate, a.rate(info)); a.o.Length > 0 && info.Frames > 0 && n != a.o.Length {
		notes = append(notes, fmt.Sprintf("%d samples made %d", n, a.o.Length))
	}
	return notes
}
