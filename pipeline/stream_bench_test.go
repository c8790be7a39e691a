package pipeline_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"testing"

	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/pipeline"
)

// attendOnce is a PerceiverModel that reads rows of a width in one cross-attention.
const attendOnce = `{"architectures": ["PerceiverModel"], "model_type": "perceiver", "d_model": %d,
	"num_latents": 8, "d_latents": 32, "qk_channels": 16, "v_channels": 32, "num_blocks": 1,
	"num_self_attends_per_block": 1, "num_self_attention_heads": 2, "num_cross_attention_heads": 1}`

// openAttendOnce builds the model for a width with random weights.
func openAttendOnce(tb testing.TB, width int) pipeline.Model {
	tb.Helper()
	d, err := pipeline.ReadConfig(tb.TempDir(), fmt.Appendf(nil, attendOnce, width))
	if err != nil {
		tb.Fatal(err)
	}
	m, err := pipeline.OpenDir(tb.Context(), d, pipeline.Options{Random: true})
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

// long is a medium of a length that the benchmark makes.
type long struct {
	name  string
	width int // channels of the default adapter's rows
	n     int // samples, points, bytes
	write func(w *bufio.Writer, n int)
}

// media of issue size: an hour of 48 kHz sound, ten million points, twenty thousand bytes.
var longMedia = []long{
	{"sound.wav", 401, 3600 * 48000, writeSound},
	{"cloud.ply", 387, 10_000_000, writePLY},
	{"cloud.las", 387, 10_000_000, writeLAS},
	{"text.txt", 391, 20_000 - 2, writeText},
}

func writeSound(w *bufio.Writer, n int) {
	le := binary.LittleEndian
	h := []byte("RIFF    WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00                data    ")
	le.PutUint32(h[4:], uint32(36+2*n))
	le.PutUint32(h[24:], 48000)
	le.PutUint32(h[28:], 2*48000)
	le.PutUint16(h[32:], 2)
	le.PutUint16(h[34:], 16)
	copy(h[36:], "data")
	le.PutUint32(h[40:], uint32(2*n))
	w.Write(h[:44])
	for i := range n {
		v := int16((i*i>>7)&0x3fff - 0x2000)
		w.Write([]byte{byte(v), byte(v >> 8)})
	}
}

func writePLY(w *bufio.Writer, n int) {
	fmt.Fprintf(w, "ply\nformat binary_little_endian 1.0\nelement vertex %d\nproperty float x\nproperty float y\nproperty float z\nend_header\n", n)
	var b [12]byte
	for i := range n {
		s, c := math.Sincos(float64(i) / 1000)
		for k, v := range []float64{s, c, float64(i) / float64(n)} {
			binary.LittleEndian.PutUint32(b[4*k:], math.Float32bits(float32(v)))
		}
		w.Write(b[:])
	}
}

// writeLAS writes version 1.2, point format 0.
func writeLAS(w *bufio.Writer, n int) {
	le := binary.LittleEndian
	h := make([]byte, 227)
	copy(h, "LASF")
	h[24], h[25] = 1, 2
	le.PutUint16(h[94:], 227)
	le.PutUint32(h[96:], 227)
	le.PutUint16(h[105:], 20)
	le.PutUint32(h[107:], uint32(n))
	for i := range 3 {
		le.PutUint64(h[131+8*i:], math.Float64bits(0.001))
	}
	w.Write(h)
	var b [20]byte
	for i := range n {
		le.PutUint32(b[:], uint32(i%100_000))
		le.PutUint32(b[4:], uint32(i/100))
		le.PutUint32(b[8:], uint32(i%977))
		w.Write(b[:])
	}
}

func writeText(w *bufio.Writer, n int) {
	for i := range n {
		w.WriteByte("the quick brown fox jumps over the lazy dog "[i*i%43])
	}
}

// encodeFile encodes a made file in one forward over it and returns its rows.
func encodeFile(tb testing.TB, m pipeline.Model, path string) int {
	tb.Helper()
	in, closer, err := media.File(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer closer.Close()
	enc, err := m.Encode(tb.Context(), pipeline.Item{Parts: []pipeline.Part{{Input: in}}}, pipeline.EncodeOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	return enc.Plan.Rows
}

// make writes the medium at n samples, points or bytes.
func (l long) make(tb testing.TB, n int) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), l.name)
	f, err := os.Create(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	l.write(w, n)
	if err := w.Flush(); err != nil {
		tb.Fatal(err)
	}
	return path
}

// memory reads a line of /proc/self/status in MiB, zero where there is none.
func memory(key string) float64 {
	b, _ := os.ReadFile("/proc/self/status")
	_, rest, _ := bytes.Cut(b, []byte(key))
	var kib float64
	fmt.Fscan(bytes.NewReader(rest), &kib)
	return kib / 1024
}

// BenchmarkStream encodes long files in one forward over each, at a tenth of the length and at
// the whole, and reports rows a second and the process's peak memory over the loaded model's
// (Linux). Time linear in the length shows as equal rows/s.
func BenchmarkStream(b *testing.B) {
	for _, l := range longMedia {
		for _, part := range []int{10, 1} {
			b.Run(fmt.Sprintf("%s/%d", l.name, l.n/part), func(b *testing.B) {
				m, path := openAttendOnce(b, l.width), l.make(b, l.n/part)
				debug.FreeOSMemory()
				os.WriteFile("/proc/self/clear_refs", []byte("5"), 0)
				loaded, rows := memory("VmRSS:"), 0
				for b.Loop() {
					rows += encodeFile(b, m, path)
				}
				b.ReportMetric(float64(rows)/b.Elapsed().Seconds(), "rows/s")
				b.ReportMetric(memory("VmHWM:")-loaded, "MiB")
			})
		}
	}
}

// TestStreamed: files of thousands of rows of every kind are encoded by one forward.
func TestStreamed(t *testing.T) {
	for _, l := range longMedia {
		m, path := openAttendOnce(t, l.width), l.make(t, min(l.n, 16*3001))
		if rows := encodeFile(t, m, path); rows < 3000 {
			t.Errorf("%s: %d rows", l.name, rows)
		}
	}
}
