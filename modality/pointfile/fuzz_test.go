package pointfile_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/modality/pointfile"
)

func sprint(v any) string { return fmt.Sprint(v) }

// FuzzOpen feeds foreign bytes to the reader of a format chosen by the first argument. Reading
// must end, yield no more points than announced, and fail only with an error that has a code.
func FuzzOpen(f *testing.F) {
	paths, _ := filepath.Glob(filepath.Join(mediaDir(), "pointcloud", "*"))
	for _, p := range paths {
		data, err := os.ReadFile(p)
		if err != nil {
			f.Fatal(err)
		}
		if len(data) > 4<<10 { // small inputs make a fast fuzzer
			data = data[:4<<10]
		}
		f.Add(pointfile.FormatOf(p), data)
	}
	for _, minor := range []byte{0, 2, 4} {
		f.Add("las", las(minor, 3, 34))
	}
	f.Add("npy", npy("{'descr': [('x', '<f4'), ('y', '<f4'), ('z', '<f4')], 'fortran_order': False, 'shape': (1,)}", make([]byte, 12)))
	f.Fuzz(func(t *testing.T, format string, data []byte) {
		limits := media.Limits{Points: 100_000, Decoded: 1 << 20}
		r, err := pointfile.Open(bytes.NewReader(data), pointfile.Options{Size: int64(len(data)), Format: format, Limits: limits})
		block := make([]pointfile.Point, 64)
		total := int64(0)
		for err == nil {
			var n int
			n, err = r.Read(block)
			total += int64(n)
			if total > limits.Points || r.Points >= 0 && total > r.Points {
				t.Fatalf("%d points, header says %d", total, r.Points)
			}
			for i := range block[:n] {
				for _, v := range append(block[i].Color[:], append(block[i].Normal[:], block[i].Intensity)...) {
					if v-v != 0 {
						t.Fatalf("an attribute of %v is not finite", block[i])
					}
				}
				if r.AlwaysFinite && !block[i].Finite() {
					t.Fatalf("%v is not finite", block[i])
				}
			}
		}
		if err != io.EOF && media.CodeOf(err) == "" {
			t.Fatalf("error without a code: %v", err)
		}
	})
}
