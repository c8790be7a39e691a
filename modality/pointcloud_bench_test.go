package modality_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/tensor"
)

// streamed is the size of the clouds that the streaming benchmark makes.
const streamed = 10_000_000

// writePLY makes a binary PLY of n points on a spiral.
func writePLY(path string, n int) error {
	return writeFile(path, func(w *bufio.Writer) {
		fmt.Fprintf(w, "ply\nformat binary_little_endian 1.0\nelement vertex %d\nproperty float x\nproperty float y\nproperty float z\nend_header\n", n)
		var b [12]byte
		for i := range n {
			s, c := math.Sincos(float64(i) / 1000)
			for k, v := range []float64{s, c, float64(i) / float64(n)} {
				binary.LittleEndian.PutUint32(b[4*k:], math.Float32bits(float32(v)))
			}
			w.Write(b[:])
		}
	})
}

// writeLAS makes a LAS 1.2 file of n points of format 0.
func writeLAS(path string, n int) error {
	return writeFile(path, func(w *bufio.Writer) {
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
	})
}

func writeFile(path string, fill func(*bufio.Writer)) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	fill(w)
	return w.Flush()
}

// BenchmarkPointCloudStream reads clouds of ten million points, block by block, and reports
// rows a second (measuring passes included) and the heap at its highest.
func BenchmarkPointCloudStream(b *testing.B) {
	dir := b.TempDir()
	ply, las := filepath.Join(dir, "a.ply"), filepath.Join(dir, "a.las")
	if err := writePLY(ply, streamed); err != nil {
		b.Fatal(err)
	}
	if err := writeLAS(las, streamed); err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct{ name, path, options string }{
		{"ply/as_it_is", ply, `{"scaling":"none","position":"none"}`},
		{"ply/unit_cube", ply, `{"scaling":"unit_cube","position":"none"}`},
		{"ply/unit_sphere", ply, `{"scaling":"unit_sphere","position":"none"}`},
		{"las/as_it_is", las, `{"scaling":"none","position":"none"}`},
		{"las/unit_cube_fourier_64", las, `{}`},
		{"ply/random_2048", ply, `{"preset":"modelnet40"}`},
	} {
		b.Run(c.name, func(b *testing.B) {
			a, err := modality.New("pointcloud", []byte(c.options))
			if err != nil {
				b.Fatal(err)
			}
			peak := uint64(0)
			for b.Loop() {
				peak = max(peak, readThrough(b, a, c.path))
			}
			b.ReportMetric(streamed*float64(b.N)/b.Elapsed().Seconds(), "points/s")
			b.ReportMetric(float64(peak)/(1<<20), "MiB")
		})
	}
}

// readThrough reads a whole array in blocks and returns the highest use of the heap seen.
func readThrough(b *testing.B, a modality.Adapter, path string) (peak uint64) {
	in, closer, err := media.File(path)
	if err != nil {
		b.Fatal(err)
	}
	defer closer.Close()
	runtime.GC()
	array, err := a.Adapt(b.Context(), in)
	if err != nil {
		b.Fatal(err)
	}
	defer array.Close()
	m, c := array.Dims()
	const block = 4096
	dst := tensor.New(block, c)
	var mem runtime.MemStats
	for from := 0; from < m; from += block {
		n := min(block, m-from)
		if err := array.Read(dst.Slice(0, n), from, from+n); err != nil {
			b.Fatal(err)
		}
		if from%(256*block) == 0 {
			runtime.ReadMemStats(&mem)
			peak = max(peak, mem.HeapInuse)
		}
	}
	return peak
}
