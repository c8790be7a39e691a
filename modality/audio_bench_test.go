package modality

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"testing"

	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/tensor"
)

// hourOfSound writes a WAV of an hour of 48 kHz mono (346 MB) into a temporary directory.
func hourOfSound(b *testing.B) string {
	b.Helper()
	const seconds, rate = 3600, 48000
	path := filepath.Join(b.TempDir(), "hour.wav")
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	second := sound(rate, 1, rate)
	header := second[:44]
	n := seconds * rate * 2
	copy(header[4:], []byte{byte(n + 36), byte((n + 36) >> 8), byte((n + 36) >> 16), byte((n + 36) >> 24)})
	copy(header[40:], []byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)})
	w.Write(header)
	for range seconds {
		w.Write(second[44:])
	}
	if err := w.Flush(); err != nil {
		b.Fatal(err)
	}
	return path
}

// residentMiB is the memory of the process that is resident now, 0 where the system does not say.
func residentMiB() float64 {
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := bytes.Fields(data)
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseFloat(string(fields[1]), 64)
	return pages * float64(os.Getpagesize()) / (1 << 20)
}

// BenchmarkAudioHour reads the rows of an hour of 48 kHz sound in blocks of 1024 and reports rows a
// second, and how far the memory of the process rose above what it was before.
func BenchmarkAudioHour(b *testing.B) {
	if testing.Short() {
		b.Skip("writes 346 MB")
	}
	path := hourOfSound(b)
	for _, c := range []struct{ name, options string }{
		{"waveform", `{"position":"none"}`},
		{"waveform-fourier", `{}`},
		{"waveform-16kHz", `{"sample_rate":16000,"position":"none"}`},
		{"logmel", `{"features":"logmel"}`},
	} {
		b.Run(c.name, func(b *testing.B) { readHour(b, openAudio(b, c.options), path) })
	}
}

func readHour(b *testing.B, a *audioAdapter, path string) {
	in, file, err := media.File(path)
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	debug.FreeOSMemory()
	before, peak := residentMiB(), 0.0
	rows := 0
	for b.Loop() {
		array, err := a.Adapt(b.Context(), in)
		if err != nil {
			b.Fatal(err)
		}
		m, c := array.Dims()
		block := make([]float32, 1024*c)
		for from := 0; from < m; from += 1024 {
			to := min(m, from+1024)
			if err := array.Read(tensor.Tensor{Data: block[:(to-from)*c], Shape: []int{to - from, c}}, from, to); err != nil {
				b.Fatal(err)
			}
			if from&(1<<18-1) == 0 {
				peak = max(peak, residentMiB())
			}
		}
		rows += m
		array.Close()
	}
	runtime.KeepAlive(a)
	b.ReportMetric(float64(rows)/b.Elapsed().Seconds(), "rows/s")
	b.ReportMetric(3600*float64(b.N)/b.Elapsed().Seconds(), "×realtime")
	b.ReportMetric(max(0, peak-before), "MiB-RSS")
}
