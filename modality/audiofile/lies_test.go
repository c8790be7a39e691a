package audiofile_test

import (
	"bytes"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mmserve/mmserve/modality/audiofile"
	"github.com/mmserve/mmserve/modality/media"
)

func fileBytes(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "testdata", "media", "audio", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// withTotal is a FLAC file whose stream info claims n samples; 0 leaves the number open.
func withTotal(data []byte, n uint64) []byte {
	out := bytes.Clone(data)
	v := binary.BigEndian.Uint64(out[18:])
	binary.BigEndian.PutUint64(out[18:], v&^(1<<36-1)|n)
	return out
}

// TestFLACLengths: the stream info may leave the length open, claim too little or too much.
func TestFLACLengths(t *testing.T) {
	data := fileBytes(t, "flac_s16_44100_stereo.flac")
	whole, r, err := decode(data)
	if err != nil || r.Frames != 35280 {
		t.Fatal(err, r)
	}
	tag := append([]byte("ID3\x04\x00\x00\x00\x00\x01\x00"), make([]byte, 128)...)
	for _, c := range []struct {
		name   string
		data   []byte
		frames int
		want   media.Code
	}{
		{"open", withTotal(data, 0), 35280, ""},
		{"too short", withTotal(data, 1000), 1000, ""},
		{"too long", withTotal(data, 40000), 0, media.Truncated},
		{"tag before", append(tag, data...), 35280, ""},
		{"tag behind", append(bytes.Clone(data), append([]byte("TAG"), make([]byte, 125)...)...), 35280, ""},
		{"zeros behind", append(bytes.Clone(data), make([]byte, 1000)...), 35280, ""},
		{"junk behind, length open", append(withTotal(data, 0), bytes.Repeat([]byte("junk"), 50)...), 0, media.Malformed},
		{"no frames", data[:42], 0, media.Truncated},
	} {
		got, r, err := decode(c.data)
		if media.CodeOf(err) != c.want {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
			continue
		}
		if c.want == "" && (!slices.Equal(got, whole[:2*c.frames]) || r.Frames != int64(c.frames) || !r.Exact) {
			t.Errorf("%s: %d samples, header %d exact %v; want %d frames", c.name, len(got), r.Frames, r.Exact, c.frames)
		}
	}
}

// TestFLACBomb: twelve hours of silence in 85 kB are refused from the header, or from the last frame
// where the header does not tell.
func TestFLACBomb(t *testing.T) {
	data := fileBytes(t, "flac_bomb_12h.flac")
	for _, d := range [][]byte{data, withTotal(data, 0)} {
		start := time.Now()
		_, err := audiofile.Open(t.Context(), media.Bytes("x", d))
		if media.CodeOf(err) != media.TooLarge {
			t.Errorf("%v, want too_large", err)
		}
		if took := time.Since(start); took > 200*time.Millisecond {
			t.Errorf("took %v", took)
		}
	}
	in := media.Bytes("x", withTotal(data, 100)) // one that says little gives little
	r, err := audiofile.Open(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if got := all(t, audiofile.NewMixer(r), 4096); len(got) != 100 {
		t.Errorf("%d samples, want 100", len(got))
	}
}

// TestFLACDamage flips each of many bits: a checksum notices.
func TestFLACDamage(t *testing.T) {
	data := fileBytes(t, "flac_s16_44100_stereo.flac")
	for at := 9000; at < 30000; at += 997 {
		d := bytes.Clone(data)
		d[at] ^= 1 << (at % 8)
		if _, _, err := decode(d); media.CodeOf(err) == "" {
			t.Errorf("byte %d damaged and not noticed", at)
		}
	}
}

// TestMP3Surroundings: what lies around and between the frames does not matter.
func TestMP3Surroundings(t *testing.T) {
	data := fileBytes(t, "mp3_cbr32_mono.mp3")
	whole, _, err := decode(data)
	if err != nil {
		t.Fatal(err)
	}
	ape := append([]byte("APETAGEX"), make([]byte, 300)...)
	id3 := append([]byte("ID3\x03\x00\x00\x00\x00\x02\x00"), make([]byte, 256)...)
	for _, c := range []struct {
		name string
		data []byte
	}{
		{"two tags before", slices.Concat(id3, id3, data)},
		{"junk before", slices.Concat(bytes.Repeat([]byte{0xff, 0xfb, 0x00}, 300), data)},
		{"tags behind", slices.Concat(data, ape, []byte("TAG"), make([]byte, 125))},
		{"junk behind", slices.Concat(data, bytes.Repeat([]byte("nothing "), 100))},
	} {
		got, r, err := decode(c.data)
		if err != nil || !slices.Equal(got, whole) {
			t.Errorf("%s: %d samples, want %d: %v", c.name, len(got), len(whole), err)
		} else if r.Frames != int64(len(whole)) {
			t.Errorf("%s: header says %d frames, want %d", c.name, r.Frames, len(whole))
		}
	}
}

// TestMP3Cut starts in the middle of a stream: the frames whose data lies before are silent, the
// number of samples is as announced and those behind are as in the whole file.
func TestMP3Cut(t *testing.T) {
	for _, name := range []string{"mp3_id3v24_cover.mp3", "mp3_cbr32_mono.mp3"} {
		data := fileBytes(t, name)
		whole, _, err := decode(data)
		if err != nil {
			t.Fatal(err)
		}
		got, r, err := decode(data[len(data)/2:])
		if err != nil {
			t.Fatal(name, err)
		}
		if r.Frames*int64(r.Channels) != int64(len(got)) {
			t.Errorf("%s: header says %d frames, got %d", name, r.Frames, len(got)/r.Channels)
		}
		if !strings.Contains(strings.Join(r.Notes, "\n"), "silent") {
			t.Logf("%s: notes %q", name, r.Notes)
		}
		tail := 10000
		if !slices.Equal(got[len(got)-tail:], whole[len(whole)-tail:]) {
			n := 0
			for i := 1; i < len(got) && got[len(got)-i] == whole[len(whole)-i]; i++ {
				n = i
			}
			t.Errorf("%s: only the last %d of %d samples are those of the whole file", name, n, len(got))
		}
	}
}

// TestMP3Slow looks for frames where nearly every byte could start one.
func TestMP3Slow(t *testing.T) {
	for _, unit := range []string{"\xff\xfb\x00\x00", "\xff\xfb\x90", "\xff", "\xff\xf3\x10\xff"} {
		data := []byte(strings.Repeat(unit, 2<<20/len(unit)))
		start := time.Now()
		_, _, err := decode(data)
		if took := time.Since(start); took > 3*time.Second || err != nil && media.CodeOf(err) == "" {
			t.Errorf("%x…: %v, %v", unit, took, err)
		} else {
			t.Logf("%x…: %v, %v", unit, took, err)
		}
	}
}

func TestOggPages(t *testing.T) {
	data := fileBytes(t, "ogg_vorbis_22050_mono.ogg")
	whole, _, err := decode(data)
	if err != nil {
		t.Fatal(err)
	}
	foreign := oggPage("something else") // another stream's page in front
	got, _, err := decode(append(foreign, data...))
	if err != nil || !slices.Equal(got, whole) {
		t.Errorf("behind another stream: %d samples, want %d: %v", len(got), len(whole), err)
	}
	_, r, err := decode(append(bytes.Clone(data), foreign...))
	if err != nil || !strings.Contains(strings.Join(r.Notes, "\n"), "left out") {
		t.Errorf("before another stream: %v", err)
	}
	damaged := bytes.Clone(data)
	damaged[len(data)/2] ^= 4
	if _, _, err := decode(damaged); media.CodeOf(err) == "" {
		t.Error("damaged page not noticed")
	}
}

// aiffFile writes an AIFF-C file of one channel at 8 kHz.
func aiffFile(codec string, bits int, samples []byte) []byte {
	be := binary.BigEndian
	b := []byte("FORM....AIFC")
	b = append(b, "COMM\x00\x00\x00\x18\x00\x01"...)
	b = be.AppendUint32(b, uint32(len(samples)*8/bits))
	b = be.AppendUint16(b, uint16(bits))
	b = append(b, "\x40\x0b\xfa\x00\x00\x00\x00\x00\x00\x00"+codec+"\x00\x00"...)
	b = append(b, "SSND"...)
	b = be.AppendUint32(b, uint32(len(samples)+8))
	b = append(b, make([]byte, 8)...)
	return append(b, samples...)
}

func TestAIFFCodecs(t *testing.T) {
	for _, c := range []struct {
		codec   string
		bits    int
		samples string
		want    []float32
		code    media.Code
	}{
		{"NONE", 16, "\x40\x00\xc0\x00", []float32{0.5, -0.5}, ""},
		{"sowt", 16, "\x00\x40\x00\xc0", []float32{0.5, -0.5}, ""},
		{"NONE", 8, "\x40\xc0", []float32{0.5, -0.5}, ""},
		{"NONE", 24, "\x40\x00\x00\xc0\x00\x00", []float32{0.5, -0.5}, ""},
		{"NONE", 32, "\x40\x00\x00\x00", []float32{0.5}, ""},
		{"fl32", 32, "\x3f\x00\x00\x00\xbf\x00\x00\x00", []float32{0.5, -0.5}, ""},
		{"fl64", 64, "\x3f\xe0\x00\x00\x00\x00\x00\x00", []float32{0.5}, ""},
		{"ulaw", 8, "\xff\xff", []float32{0, 0}, ""},
		{"ima4", 8, "\xff\xff", nil, media.Unsupported},
	} {
		got, r, err := decode(aiffFile(c.codec, c.bits, []byte(c.samples)))
		if media.CodeOf(err) != c.code {
			t.Errorf("%s %d: %v, want %q", c.codec, c.bits, err, c.code)
		} else if err == nil && (!slices.Equal(got, c.want) || r.Rate != 8000) {
			t.Errorf("%s %d: %v at %d Hz, want %v at 8000", c.codec, c.bits, got, r.Rate, c.want)
		}
	}
}

func TestMelConfigCheck(t *testing.T) {
	if err := (audiofile.MelConfig{}).Check(); err != nil {
		t.Error(err)
	}
	for _, c := range []audiofile.MelConfig{
		{Rate: -1}, {FFT: 1}, {FFT: 1 << 20}, {Window: 401}, {Hop: -1}, {Mels: 2000}, {MinHz: 9000}, {MaxHz: 1e6}, {Power: -1}, {Floor: -1},
		{Range: -1}, {Shape: "round"}, {Log: "log2"}, {Edge: "wrap"},
	} {
		if err := c.Check(); media.CodeOf(err) != media.BadOptions {
			t.Errorf("%+v: %v, want bad_options", c, err)
		}
		if _, err := audiofile.NewLogMel(&audiofile.Samples{}, c); err == nil {
			t.Errorf("%+v accepted", c)
		}
	}
}

// TestCodecsAgree compares one clip as it comes out of different codecs: the same wave at the same
// place, encoder delay included (576 samples of LAME and 529 of the decoder where no header says so).
func TestCodecsAgree(t *testing.T) {
	vorbis, _, err := decode(fileBytes(t, "ogg_vorbis_22050_mono.ogg"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		delay int
	}{{"mp3_vbr_v9.mp3", 0}, {"mp3_cbr32_mono.mp3", 1105}} {
		other, _, err := decode(fileBytes(t, c.name))
		if err != nil {
			t.Fatal(err)
		}
		var product, a, b float64
		for i, v := range vorbis[2000:22000] {
			w := other[2000+c.delay+i]
			product, a, b = product+float64(v)*float64(w), a+float64(v)*float64(v), b+float64(w)*float64(w)
		}
		if r := product / math.Sqrt(a*b); r < 0.99 {
			t.Errorf("%s: correlation with vorbis %.4f", c.name, r)
		}
	}
}
