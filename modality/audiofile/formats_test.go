package audiofile_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/mewkiz/flac"
	"github.com/mewkiz/flac/frame"
	"github.com/mewkiz/flac/meta"

	"github.com/mmserve/mmserve/modality/audiofile"
	"github.com/mmserve/mmserve/modality/media"
)

// wavFile writes a WAVE file around samples.
func wavFile(tag, channels, rate, bits int, samples []byte) []byte {
	le := binary.LittleEndian
	b := []byte("RIFF....WAVEfmt \x10\x00\x00\x00")
	b = le.AppendUint16(b, uint16(tag))
	b = le.AppendUint16(b, uint16(channels))
	b = le.AppendUint32(b, uint32(rate))
	b = le.AppendUint32(b, uint32(rate*channels*bits/8))
	b = le.AppendUint16(b, uint16(channels*bits/8))
	b = le.AppendUint16(b, uint16(bits))
	b = append(b, "data"...)
	b = le.AppendUint32(b, uint32(len(samples)))
	return append(b, samples...)
}

// decode reads all of a file, interleaved.
func decode(data []byte) ([]float32, *audiofile.Reader, error) {
	r, err := audiofile.Open(context.Background(), media.Bytes("x", data))
	if err != nil {
		return nil, nil, err
	}
	var out []float32
	buf := make([]float32, 97*r.Channels)
	for {
		n, err := r.Read(buf)
		out = append(out, buf[:n*r.Channels]...)
		if err == io.EOF {
			return out, r, nil
		}
		if err != nil {
			return out, r, err
		}
	}
}

func TestWAVEncodings(t *testing.T) {
	nan, huge := math.Float32bits(float32(math.NaN())), math.Float32bits(3e38)
	f32 := func(v ...uint32) (b []byte) {
		for _, x := range v {
			b = binary.LittleEndian.AppendUint32(b, x)
		}
		return b
	}
	for _, c := range []struct {
		name      string
		tag, bits int
		samples   []byte
		want      []float32
	}{
		{"u8", 1, 8, []byte{0, 128, 255}, []float32{-1, 0, 127. / 128}},
		{"s16", 1, 16, []byte{0, 0x80, 0, 0, 0xff, 0x7f}, []float32{-1, 0, 32767. / 32768}},
		{"s24", 1, 24, []byte{0, 0, 0x80, 1, 0, 0, 0xff, 0xff, 0xff}, []float32{-1, 1. / (1 << 23), -1. / (1 << 23)}},
		{"s32", 1, 32, []byte{0, 0, 0, 0x80, 0, 0, 0, 0x40}, []float32{-1, 0.5}},
		{"f32", 3, 32, f32(math.Float32bits(0.25), nan, huge, math.Float32bits(-7)), []float32{0.25, 0, 1 << 20, -7}},
		{"f64", 3, 64, binary.LittleEndian.AppendUint64(nil, math.Float64bits(-0.125)), []float32{-0.125}},
		{"mulaw", 7, 8, []byte{0x00, 0x80, 0x7f, 0xff, 0xe7}, []float32{-32124. / 32768, 32124. / 32768, 0, 0, 260. / 32768}},
		{"alaw", 6, 8, []byte{0x2a, 0xaa, 0x55, 0xd5}, []float32{-32256. / 32768, 32256. / 32768, -8. / 32768, 8. / 32768}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, r, err := decode(wavFile(c.tag, 1, 8000, c.bits, c.samples))
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != len(c.want) || r.Frames != int64(len(c.want)) {
				t.Fatalf("%d samples, header %d, want %d", len(got), r.Frames, len(c.want))
			}
			for i, w := range c.want {
				if got[i] != w {
					t.Errorf("sample %d is %g, want %g", i, got[i], w)
				}
			}
		})
	}
}

func TestReaderRefuses(t *testing.T) {
	short := wavFile(1, 2, 8000, 16, make([]byte, 40))
	for _, c := range []struct {
		name string
		data []byte
		want media.Code
	}{
		{"adpcm", wavFile(2, 1, 8000, 4, make([]byte, 40)), media.Unsupported},
		{"no rate", wavFile(1, 1, 0, 16, make([]byte, 40)), media.Malformed},
		{"no channels", wavFile(1, 0, 8000, 16, make([]byte, 40)), media.Malformed},
		{"cut format", short[:30], media.Truncated},
		{"cut before samples", short[:40], media.Truncated},
		{"no samples", wavFile(1, 1, 8000, 16, nil), media.Empty},
		{"opus", oggPage("OpusHead........."), media.Unsupported},
		{"m4a", []byte("\x00\x00\x00\x20ftypM4A ................"), media.Unsupported},
		{"png", []byte("\x89PNG\r\n\x1a\n................"), media.Unsupported},
		{"zeros", make([]byte, 5000), media.Malformed},
	} {
		if _, _, err := decode(c.data); media.CodeOf(err) != c.want {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
}

// oggPage is a first page with one packet.
func oggPage(packet string) []byte {
	p := append([]byte("OggS\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"), byte(len(packet)))
	p = append(p, packet...)
	sum := uint32(0)
	for _, v := range p {
		sum ^= uint32(v) << 24
		for range 8 {
			sum = sum<<1 ^ 0x04c11db7*(sum>>31)
		}
	}
	binary.LittleEndian.PutUint32(p[22:], sum)
	return p
}

// TestTruncation cuts real files at many places: never a panic, never an error without a code, and
// what is decoded before the cut is what the whole file gives there.
func TestTruncation(t *testing.T) {
	for _, name := range []string{"wav_s16_16000_mono.wav", "flac_s16_22050_8ch.flac", "mp3_vbr_v9.mp3", "ogg_vorbis_22050_mono.ogg", "aiff_s16.aiff"} {
		data, err := os.ReadFile(filepath.Join("..", "..", "testdata", "media", "audio", name))
		if err != nil {
			t.Fatal(err)
		}
		whole, _, err := decode(data)
		if err != nil {
			t.Fatal(err)
		}
		for cut := 0; cut < len(data); cut += 1 + len(data)/60 {
			got, _, err := decode(data[:cut])
			if err != nil && media.CodeOf(err) == "" {
				t.Errorf("%s cut at %d: %v has no code", name, cut, err)
			}
			for i, v := range got {
				if i < len(whole) && v != whole[i] {
					t.Errorf("%s cut at %d: sample %d is %g, whole %g", name, cut, i, v, whole[i])
					break
				}
			}
		}
	}
}

// TestFLACAgainstMewkiz encodes noise of every width and channel arrangement with another
// implementation and decodes it here, bit for bit.
func TestFLACAgainstMewkiz(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 9))
	for _, bits := range []uint8{8, 12, 16, 20, 24} {
		for _, arrangement := range []frame.Channels{frame.ChannelsMono, frame.ChannelsLR, frame.ChannelsLeftSide, frame.ChannelsSideRight, frame.ChannelsMidSide, frame.ChannelsLRC} {
			n := arrangement.Count()
			data, want := encodeFLAC(t, rng, bits, arrangement, n)
			got, r, err := decode(data)
			if err != nil {
				t.Fatalf("%d bits, %v: %v", bits, arrangement, err)
			}
			if len(got) != len(want) || r.Channels != n {
				t.Fatalf("%d bits, %v: %d samples, want %d", bits, arrangement, len(got), len(want))
			}
			for i, w := range want {
				if v := float32(float64(w) / float64(int64(1)<<(bits-1))); got[i] != v {
					t.Fatalf("%d bits, %v: sample %d is %g, want %g", bits, arrangement, i, got[i], v)
				}
			}
		}
	}
}

// encodeFLAC makes four blocks: noise, a constant, a ramp and a random walk, which the encoder
// stores in different ways.
func encodeFLAC(t *testing.T, rng *rand.Rand, bits uint8, arrangement frame.Channels, channels int) (data []byte, want []int32) {
	const block = 256
	var buf bytes.Buffer
	info := &meta.StreamInfo{BlockSizeMin: block, BlockSizeMax: block, SampleRate: 44100, NChannels: uint8(channels), BitsPerSample: bits, NSamples: 4 * block}
	enc, err := flac.NewEncoder(&buf, info)
	if err != nil {
		t.Fatal(err)
	}
	top := int32(1)<<(bits-2) - 1
	for b := range 4 {
		f := &frame.Frame{Header: frame.Header{HasFixedBlockSize: true, BlockSize: block, SampleRate: 44100, Channels: arrangement, BitsPerSample: bits, Num: uint64(b)}}
		for c := range channels {
			s := &frame.Subframe{SubHeader: frame.SubHeader{Pred: frame.PredVerbatim}, NSamples: block}
			walk := int32(0)
			for i := range int32(block) {
				walk = min(max(walk+rng.Int32N(9)-4, -top), top)
				s.Samples = append(s.Samples, [4]int32{rng.Int32N(2*top) - top, top - int32(c), i % top, walk}[b])
			}
			f.Subframes = append(f.Subframes, s)
		}
		for i := range block {
			for _, s := range f.Subframes {
				want = append(want, s.Samples[i])
			}
		}
		if err := enc.WriteFrame(f); err != nil {
			t.Fatal(err)
		}
	}
	if err := enc.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes(), want
}

func TestInverseMDCT(t *testing.T) {
	for _, n := range []int{64, 256, 2048} {
		x := noise(n/2, uint64(n))
		y := audiofile.InverseMDCT(x)
		for i := 0; i < n; i += 1 + n/64 {
			want := 0.0
			for k, v := range x {
				want += float64(v) * math.Cos(2*math.Pi/float64(n)*(float64(i)+0.5+float64(n)/4)*(float64(k)+0.5))
			}
			if math.Abs(float64(y[i])-want) > 1e-5*math.Sqrt(float64(n)) {
				t.Fatalf("block of %d: sample %d is %g, want %g", n, i, y[i], want)
			}
		}
	}
}

func TestMixAndPick(t *testing.T) {
	samples := []byte{0, 0x40, 0, 0x20, 0, 0xc0, 0, 0, 0, 0, 0, 0x10}
	data := wavFile(1, 3, 8000, 16, samples)
	open := func() *audiofile.Reader {
		r, err := audiofile.Open(t.Context(), media.Bytes("x", data))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	third := float32(1) / 3
	for _, c := range []struct {
		signal audiofile.Signal
		want   []float32
	}{
		{audiofile.NewMixer(open()), []float32{0.25 * third, 0.125 * third}},
		{audiofile.NewPicker(open(), 1), []float32{0.25, 0}},
		{&audiofile.Exactly{Signal: audiofile.NewPicker(open(), 0), Left: 4}, []float32{0.5, 0, 0, 0}},
		{&audiofile.Exactly{Signal: audiofile.NewPicker(open(), 0), Left: 1}, []float32{0.5}},
	} {
		got := all(t, c.signal, 3)
		if len(got) != len(c.want) {
			t.Fatalf("%v, want %v", got, c.want)
		}
		for i, w := range c.want {
			if got[i] != w {
				t.Errorf("%v, want %v", got, c.want)
			}
		}
	}
}

// BenchmarkDecode reports how much faster than real time each format is read.
func BenchmarkDecode(b *testing.B) {
	for _, name := range []string{"wav_s16_16000_mono.wav", "flac_s16_44100_stereo.flac", "mp3_cbr128_joint.mp3", "ogg_vorbis_44100_stereo.ogg"} {
		data, err := os.ReadFile(filepath.Join("..", "..", "testdata", "media", "audio", name))
		if err != nil {
			b.Fatal(err)
		}
		b.Run(filepath.Ext(name)[1:], func(b *testing.B) {
			seconds := 0.0
			for b.Loop() {
				_, r, err := decode(data)
				if err != nil {
					b.Fatal(err)
				}
				seconds = r.Seconds()
			}
			b.ReportMetric(seconds*float64(b.N)/b.Elapsed().Seconds(), "×realtime")
		})
	}
}
