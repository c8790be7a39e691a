package modalitytest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/tensor"
)

// Sample is an input that the adapter under test must take.
type Sample struct {
	Name      string
	MediaType string // as a caller would declare it, may be empty
	Data      []byte
	// Parts makes a composite sample: its inputs in order. Data is then not used.
	Parts []Sample
}

// File is the sample of a file.
func File(t testing.TB, path string) Sample {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return Sample{Name: filepath.Base(path), Data: data}
}

// input makes the sample an input.
func (s Sample) input(kind string, l media.Limits) media.Input {
	if s.Parts != nil {
		in := media.Input{Name: s.Name, MediaType: s.MediaType, Kind: kind, Size: -1, Limits: l}
		for _, p := range s.Parts {
			in.Parts = append(in.Parts, p.input("", l))
		}
		return in
	}
	in := media.Bytes(s.Name, s.Data)
	in.MediaType, in.Kind, in.Limits = s.MediaType, kind, l
	return in
}

// block is the number of values the suite reads at once, at most.
const block = 1 << 20

// digest reads rows in blocks of n rows and returns a hash of their bits. It fails on a value
// that is not finite. A positive most reads that many rows from each end only.
func digest(a *modality.Array, n, most int) (uint64, error) {
	m, c := a.Dims()
	n = max(1, min(n, block/max(c, 1)))
	sum := uint64(14695981039346656037) // FNV-1a over words
	data := make([]float32, min(n, m)*c)
	for from := 0; from < m; {
		to := min(from+n, m)
		if most > 0 && from < m-most {
			to = min(to, max(most, from))
			if from >= most && !a.Forward {
				from = m - most
				to = min(from+n, m)
			} else if to == from {
				to = min(from+n, m)
			}
		}
		dst := tensor.Of(data[:(to-from)*c], to-from, c)
		for i := range dst.Data {
			dst.Data[i] = float32(math.NaN()) // a value left unwritten is not finite
		}
		if err := a.Read(dst, from, to); err != nil {
			return 0, fmt.Errorf("rows [%d,%d): %w", from, to, err)
		}
		for i, v := range dst.Data {
			if v-v != 0 { // infinite or not a number
				return 0, fmt.Errorf("%w: row %d channel %d is %v", errNotFinite, from+i/c, i%c, v)
			}
			sum = (sum ^ uint64(math.Float32bits(v))) * 1099511628211
		}
		from = to
	}
	return sum, nil
}

var errNotFinite = errors.New("not a finite number")

// adapt opens a sample and hashes its rows.
func adapt(ctx context.Context, a modality.Adapter, in media.Input, rows, most int) (uint64, error) {
	array, err := a.Adapt(ctx, in)
	if err != nil {
		return 0, err
	}
	defer array.Close()
	return digest(array, rows, most)
}
