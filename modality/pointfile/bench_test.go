package pointfile_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"testing"

	"github.com/mmserve/mmserve/modality/pointfile"
)

// BenchmarkRead reads 100,000 points of a format from memory.
func BenchmarkRead(b *testing.B) {
	const n = 100_000
	var ascii, xyz, bin bytes.Buffer
	fmt.Fprintf(&ascii, "ply\nformat ascii 1.0\nelement vertex %d\nproperty float x\nproperty float y\nproperty float z\nend_header\n", n)
	fmt.Fprintf(&bin, "ply\nformat binary_big_endian 1.0\nelement vertex %d\nproperty double x\nproperty double y\nproperty double z\n", n)
	bin.WriteString("property uchar red\nproperty uchar green\nproperty uchar blue\nend_header\n")
	for i := range n {
		v := [3]float64{math.Sin(float64(i)), math.Cos(float64(i)), float64(i) / n}
		fmt.Fprintf(&ascii, "%.6f %.6f %.6f\n", v[0], v[1], v[2])
		fmt.Fprintf(&xyz, "%.6f,%.6f,%.6f,255,0,128\n", v[0], v[1], v[2])
		binary.Write(&bin, binary.BigEndian, v)
		bin.Write([]byte{255, 0, 128})
	}
	for _, c := range []struct {
		name string
		data []byte
	}{{"ply_ascii", ascii.Bytes()}, {"csv", xyz.Bytes()}, {"ply_big_endian_double_rgb", bin.Bytes()}} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(len(c.data)))
			block := make([]pointfile.Point, 1024)
			for b.Loop() {
				r, err := pointfile.Open(bytes.NewReader(c.data), pointfile.Options{Size: int64(len(c.data))})
				for err == nil {
					_, err = r.Read(block)
				}
				if err != io.EOF {
					b.Fatal(err)
				}
			}
			b.ReportMetric(n*float64(b.N)/b.Elapsed().Seconds(), "points/s")
		})
	}
}
