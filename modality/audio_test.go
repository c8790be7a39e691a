package modality

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/tensor"
)

func openAudio(t testing.TB, options string) *audioAdapter {
	t.Helper()
	a, err := OpenAudio(json.RawMessage(options))
	if err != nil {
		t.Fatal(err)
	}
	return a.(*audioAdapter)
}

// sound makes a 16-bit WAV of a falling tone with a little of another in the second channel.
func sound(rate, channels, frames int) []byte {
	b := make([]byte, 44+2*channels*frames)
	copy(b, "RIFF....WAVEfmt ")
	le := binary.LittleEndian
	le.PutUint32(b[4:], uint32(len(b)-8))
	le.PutUint32(b[16:], 16)
	le.PutUint16(b[20:], 1)
	le.PutUint16(b[22:], uint16(channels))
	le.PutUint32(b[24:], uint32(rate))
	le.PutUint32(b[28:], uint32(2*rate*channels))
	le.PutUint16(b[32:], uint16(2*channels))
	le.PutUint16(b[34:], 16)
	copy(b[36:], "data")
	le.PutUint32(b[40:], uint32(len(b)-44))
	for i := range frames {
		t := float64(i) / float64(rate)
		for c := range channels {
			v := math.Sin(2*math.Pi*(900*t/(1+t)+float64(c)*37*t)) * 20000
			le.PutUint16(b[44+2*(i*channels+c):], uint16(int16(v)))
		}
	}
	return b
}

// rowsOf reads an array in blocks of n rows.
func rowsOf(t testing.TB, a *Array, n int) []float32 {
	t.Helper()
	m, c := a.Dims()
	out := make([]float32, m*c)
	for from := 0; from < m; from += n {
		to := min(m, from+n)
		if err := a.Read(tensor.Tensor{Data: out[from*c : to*c], Shape: []int{to - from, c}}, from, to); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func adaptAudio(t testing.TB, a *audioAdapter, in Input) *Array {
	t.Helper()
	array, err := a.Adapt(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { array.Close() })
	return array
}

// TestAudioMultimodal is the setting of the multimodal Perceiver: 30720 samples of 48 kHz, int16 over
// 32768, 16 a row, 192 bands at a maximum resolution of 30720: 1920 rows of 401 channels.
func TestAudioMultimodal(t *testing.T) {
	data := sound(48000, 1, 40000)
	array := adaptAudio(t, openAudio(t, `{"length":30720}`), media.Bytes("a.wav", data))
	m, c := array.Dims()
	if m != 1920 || c != 401 {
		t.Fatalf("%d×%d, want 1920×401", m, c)
	}
	rows := rowsOf(t, array, 500)
	code := NewGrid(NewFourier(192, 30720), 1920)
	want := make([]float32, 385)
	for r := range m {
		for i := range 16 {
			v := float32(int16(binary.LittleEndian.Uint16(data[44+2*(16*r+i):]))) / 32768
			if rows[r*c+i] != v {
				t.Fatalf("row %d sample %d is %g, want %g", r, i, rows[r*c+i], v)
			}
		}
		code.Fill(want, 385, r, r+1)
		for i, v := range want {
			if rows[r*c+16+i] != v {
				t.Fatalf("row %d position %d is %g, want %g", r, i, rows[r*c+16+i], v)
			}
		}
	}
}

// TestAudioStreams reads the same recording kept, streamed, from a pipe and spooled, in blocks of
// several sizes, and wants the same bits everywhere.
func TestAudioStreams(t *testing.T) {
	open := []byte("RIFF\xff\xff\xff\xffWAVE") // length left open
	data := sound(44100, 2, 30001)
	unknown := append(append([]byte{}, open...), data[12:]...)
	binary.LittleEndian.PutUint32(unknown[40:], 0xffffffff)
	for _, options := range []string{
		`{}`, `{"sample_rate":-1,"patch":7}`, `{"features":"logmel"}`, `{"preset":"whisper"}`, `{"sample_rate":8000,"channel":1,"length":9999}`,
		`{"features":"logmel","pad_mode":"none","log":"db","top_db":60,"position":"none"}`,
	} {
		t.Run(options, func(t *testing.T) {
			a := openAudio(t, options)
			want := rowsOf(t, adaptAudio(t, a, media.Bytes("a.wav", data)), 1<<20)
			a.keep = 1
			for _, in := range []Input{
				media.Bytes("a.wav", data),
				media.Stream("a.wav", iotest.HalfReader(bytes.NewReader(data))),
				media.Stream("a.wav", iotest.OneByteReader(bytes.NewReader(unknown))),
			} {
				array := adaptAudio(t, a, in)
				for _, block := range []int{97, 1, 1 << 20} {
					if array.Forward && block != 97 {
						continue
					}
					sameBits(t, fmt.Sprintf("stream %v, blocks of %d", in.Stream != nil, block), rowsOf(t, array, block), want)
				}
				if array.Forward {
					_, c := array.Dims()
					err := array.Read(tensor.Tensor{Data: make([]float32, c)}, 0, 1)
					if media.CodeOf(err) != media.NotReplayable {
						t.Errorf("second reading of a stream: %v", err)
					}
				}
			}
		})
	}
}

func sameBits(t *testing.T, what string, got, want []float32) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d values, want %d", what, len(got), len(want))
	}
	for i, v := range want {
		if got[i] != v {
			t.Fatalf("%s: value %d is %g, want %g", what, i, got[i], v)
		}
	}
}

// TestAudioPlans adapts every sound file there is and wants what the plan said.
func TestAudioPlans(t *testing.T) {
	dirs := []string{filepath.Join("..", "testdata", "media", "audio")}
	if d := os.Getenv("MMSERVE_MEDIA"); d != "" {
		dirs = append(dirs, filepath.Join(d, "audio"))
	}
	adapters := []*audioAdapter{openAudio(t, `{}`), openAudio(t, `{"preset":"whisper"}`), openAudio(t, `{"sample_rate":-1,"position":"none"}`)}
	for _, dir := range dirs {
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			data, err := os.ReadFile(filepath.Join(dir, f.Name()))
			if err != nil {
				t.Fatal(err)
			}
			in := media.Bytes(f.Name(), data)
			in.Limits.Seconds = 3600
			for _, a := range adapters {
				planAndAdapt(t, a, in)
			}
		}
	}
}

func planAndAdapt(t *testing.T, a *audioAdapter, in Input) {
	h, err := in.Header()
	if err != nil {
		return
	}
	plan, err := a.Plan(t.Context(), h)
	if err != nil {
		if media.CodeOf(err) == "" {
			t.Errorf("%s: plan: %v: no code", in.Name, err)
		}
		if _, err := a.Adapt(t.Context(), in); err == nil {
			t.Errorf("%s: refused by the plan and adapted", in.Name)
		}
		return
	}
	array, err := a.Adapt(t.Context(), in)
	if err != nil {
		if media.CodeOf(err) == "" {
			t.Errorf("%s: adapt: %v: no code", in.Name, err)
		}
		return
	}
	defer array.Close()
	m, c := array.Dims()
	if m != plan.Rows || c != plan.RowChannels {
		t.Errorf("%s: %d×%d, planned %d×%d", in.Name, m, c, plan.Rows, plan.RowChannels)
	}
	for i, v := range rowsOf(t, array, 1000) {
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			t.Fatalf("%s: value %d is %g", in.Name, i, v)
		}
	}
}

func TestAudioRefuses(t *testing.T) {
	wav := sound(8000, 2, 16000)
	for _, c := range []struct {
		name, options string
		data          []byte
		limits        Limits
		want          media.Code
	}{
		{"seconds", `{}`, wav, Limits{Seconds: 1.5}, media.TooLarge},
		{"samples", `{}`, wav, Limits{Samples: 31999}, media.TooLarge},
		{"samples of the file", `{"sample_rate":8000}`, sound(48000, 2, 48000), Limits{Samples: 50000}, media.TooLarge}, // 8,000 after resampling
		{"samples after resampling", `{}`, wav, Limits{Samples: 90000}, media.TooLarge},
		{"rate", `{}`, wav, Limits{Rate: 7999}, media.TooLarge},
		{"channels", `{}`, wav, Limits{Channels: 1}, media.TooLarge},
		{"rows", `{}`, wav, Limits{Rows: 100}, media.TooLarge},
		{"channel", `{"channel":2}`, wav, Limits{}, media.BadOptions},
		{"short", `{"features":"logmel","pad_mode":"none"}`, sound(8000, 1, 20), Limits{}, media.TooSmall},
		{"empty", `{}`, sound(8000, 1, 0), Limits{}, media.Empty},
		{"nothing", `{}`, nil, Limits{}, media.Empty},
		{"text", `{}`, []byte(strings.Repeat("no sound at all ", 100)), Limits{}, media.Malformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := media.Bytes("x", c.data)
			in.Limits = c.limits
			if _, err := openAudio(t, c.options).Adapt(t.Context(), in); media.CodeOf(err) != c.want {
				t.Errorf("adapt: %v, want %s", err, c.want)
			}
			h, err := in.Header()
			if err == nil {
				_, err = openAudio(t, c.options).Plan(t.Context(), h)
			}
			if media.CodeOf(err) != c.want {
				t.Errorf("plan: %v, want %s", err, c.want)
			}
		})
	}
	for _, options := range []string{
		`{"features":"mfcc"}`, `{"sample_rate":-2}`, `{"sample_rate":7}`, `{"patch":0}`, `{"bands":2000}`, `{"resolution":1}`, `{"position":"learned"}`,
		`{"features":"logmel","n_mels":0}`, `{"features":"logmel","win_length":500}`, `{"features":"logmel","fmax":1e9}`, `{"features":"logmel","log":"log2"}`,
		`{"features":"logmel","sample_rate":-1}`, `{"preset":"wav2vec"}`, `{"length":-1}`, `{"nonsense":1}`, `[]`, `{"features":"logmel","log":"none","top_db":3}`,
	} {
		if _, err := OpenAudio(json.RawMessage(options)); media.CodeOf(err) != media.BadOptions {
			t.Errorf("%s: %v, want bad_options", options, err)
		}
	}
}

// TestAudioBombs: files that would cost much are refused in little time.
func TestAudioBombs(t *testing.T) {
	dirs := []string{filepath.Join("..", "testdata", "media", "audio"), filepath.Join(os.Getenv("MMSERVE_MEDIA"), "audio")}
	for _, name := range []string{"flac_bomb_12h.flac", "flac_total_2p36.flac", "wav_rate_1hz.wav", "mp3_id3_size_lies.mp3", "wav_data_size_lies.wav"} {
		for _, dir := range dirs {
			data, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				continue
			}
			a := openAudio(t, `{}`)
			start := time.Now()
			array, err := a.Adapt(t.Context(), media.Bytes(name, data))
			if err == nil {
				array.Close()
			}
			a.Describe(t.Context(), media.Bytes(name, data))
			if d := time.Since(start); d > 2*time.Second {
				t.Errorf("%s: %v", name, d)
			} else {
				t.Logf("%s: %v, %v", name, d, err)
			}
		}
	}
}

func TestAudioCancel(t *testing.T) {
	a := openAudio(t, `{}`)
	a.keep = 1
	ctx, cancel := context.WithCancel(t.Context())
	array, err := a.Adapt(ctx, media.Bytes("a.wav", sound(48000, 1, 480000)))
	if err != nil {
		t.Fatal(err)
	}
	defer array.Close()
	cancel()
	m, c := array.Dims()
	err = array.Read(tensor.Tensor{Data: make([]float32, m*c)}, 0, m)
	if media.CodeOf(err) != media.Canceled || !errors.Is(err, context.Canceled) {
		t.Errorf("read after cancel: %v", err)
	}
	if _, err := a.Adapt(ctx, media.Bytes("a.wav", sound(48000, 1, 48000))); media.CodeOf(err) != media.Canceled {
		t.Errorf("adapt after cancel: %v", err)
	}
}
