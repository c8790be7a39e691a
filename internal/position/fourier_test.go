package position_test

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/mmserve/mmserve/internal/position"
)

// table is one entry of fourier_tables.json.
type table struct {
	Key        string
	NumBands   int       `json:"num_bands"`
	Resolution []float32 `json:"max_resolution"`
	Index      []int     `json:"index_dims"`
	Output     []int     `json:"output_index_dims"`
}

// reference reads the tables of the reference implementation and their arrays.
func reference(t *testing.T) ([]table, func(name string) []float64) {
	t.Helper()
	dir := filepath.Join("..", "..", "testdata", "reference", "perceiver-processors")
	head, err := os.ReadFile(filepath.Join(dir, "fourier_tables.json"))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct{ Tables []table }
	if err := json.Unmarshal(head, &doc); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "fourier_tables.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	n := binary.LittleEndian.Uint64(raw)
	var index map[string]struct {
		DType   string
		Offsets [2]int `json:"data_offsets"`
	}
	if err := json.Unmarshal(raw[8:8+n], &index); err != nil {
		t.Fatal(err)
	}
	return doc.Tables, func(name string) []float64 {
		e, ok := index[name]
		if !ok {
			t.Fatalf("no tensor %q", name)
		}
		data := raw[8+int(n)+e.Offsets[0] : 8+int(n)+e.Offsets[1]]
		var out []float64
		for len(data) > 0 {
			if e.DType == "I64" {
				out, data = append(out, float64(int64(binary.LittleEndian.Uint64(data)))), data[8:]
			} else {
				out, data = append(out, float64(math.Float32frombits(binary.LittleEndian.Uint32(data)))), data[4:]
			}
		}
		return out
	}
}

func same(t *testing.T, what string, got []float32, want []float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d values, want %d", what, len(got), len(want))
	}
	for i := range got {
		if float64(got[i]) != want[i] {
			t.Fatalf("%s: element %d is %v, want %v", what, i, got[i], want[i])
		}
	}
}

func TestReferenceTables(t *testing.T) {
	tables, tensor := reference(t)
	for _, tb := range tables {
		t.Run(tb.Key, func(t *testing.T) {
			f := position.NewFourier(tb.NumBands, tb.Resolution...)
			if tb.Index == nil {
				checkOutput(t, f, tb, tensor)
				return
			}
			for d, n := range tb.Index {
				axis := string(rune('0' + d))
				same(t, "positions", position.Linspace(-1, 1, n), tensor(tb.Key+".positions."+axis))
				same(t, "bands", f.Bands[d], tensor(tb.Key+".bands."+axis))
			}
			g := position.NewGrid(f, tb.Index...)
			want, c := tensor(tb.Key+".features"), g.Channels()
			for i, r := range tensor(tb.Key + ".rows") {
				got := make([]float32, c)
				g.Fill(got, c, int(r), int(r)+1)
				near(t, got, want[i*c:(i+1)*c])
			}
		})
	}
}

func checkOutput(t *testing.T, f position.Fourier, tb table, tensor func(string) []float64) {
	g := position.NewOutputGrid(f, tb.Output...)
	want := tensor(tb.Key + ".positions")
	row := make([]float32, g.Channels())
	for i, p := range tensor(tb.Key + ".points") {
		g.Fill(row, len(row), int(p), int(p)+1)
		d := len(tb.Output)
		same(t, "coordinates", row[:d], want[i*d:(i+1)*d])
	}
}

// near allows one unit in the last place of 1: the sine routines differ by that.
func near(t *testing.T, got []float32, want []float64) {
	t.Helper()
	for i := range got {
		if math.Abs(float64(got[i])-want[i]) > 1.2e-7 {
			t.Fatalf("channel %d: %v, want %v", i, got[i], want[i])
		}
	}
}

func TestLinspaceEnds(t *testing.T) {
	for n := range 100 {
		v := position.Linspace(-1, 1, n)
		switch {
		case n == 0 && len(v) != 0, n > 0 && v[0] != -1, n > 1 && v[n-1] != 1:
			t.Errorf("n=%d: %v", n, v)
		}
		for i := 1; i < n; i++ {
			if v[i] <= v[i-1] {
				t.Errorf("n=%d: not rising at %d", n, i)
			}
		}
	}
}

// TestGridForms: the block read, the row formula and the axis tables give the same bits, in
// both layouts, and an axis too long for a table gives what a table would.
func TestGridForms(t *testing.T) {
	for _, order := range []position.Order{position.SinesThenCosines, position.AxisByAxis} {
		f := position.NewFourier(5, 20, 30, 7)
		f.Order = order
		dims := []int{3, 4, 5}
		g := position.NewGrid(f, dims...)
		c := g.Channels()
		all := make([]float32, g.Rows()*c)
		g.Fill(all, c, 0, g.Rows())
		for r := range g.Rows() {
			at := []int{r / 20, r / 5 % 4, r % 5}
			coords := make([]float32, 3)
			want := make([]float32, c)
			for d := range at {
				coords[d] = position.LinspaceAt(-1, 1, dims[d], at[d])
				table := g.Axis(d)[at[d]*11 : at[d]*11+11]
				pos, sin, cos := f.AxisColumns(d)
				want[pos] = table[0]
				copy(want[sin:], table[1:6])
				copy(want[cos:], table[6:])
			}
			row := make([]float32, c)
			f.Row(row, coords)
			for i := range row {
				if row[i] != all[r*c+i] || want[i] != row[i] {
					t.Fatalf("order %d row %d channel %d: %v %v %v", order, r, i, all[r*c+i], row[i], want[i])
				}
			}
		}
	}
	long := position.NewGrid(position.NewFourier(192, 1e6), 1<<20)
	if long.Axis(0) != nil {
		t.Fatal("a table of 1.6 GB was kept")
	}
	row := make([]float32, long.Channels())
	long.Fill(row, len(row), 1<<20-1, 1<<20)
	if row[0] != 1 {
		t.Errorf("last coordinate %v", row[0])
	}
}

func TestOriginalOrder(t *testing.T) {
	f := position.Fourier{Bands: [][]float32{{1, 2}, {1, 2}}, Order: position.AxisByAxis}
	row := make([]float32, f.Channels())
	f.Row(row, []float32{0.25, -0.5})
	want := []float64{math.Sin(math.Pi / 4), 1, math.Cos(math.Pi / 4), 0, 0.25, -1, 0, 0, -1, -0.5}
	for i := range row {
		if math.Abs(float64(row[i])-want[i]) > 2e-7 {
			t.Errorf("channel %d: %v, want %v", i, row[i], want[i])
		}
	}
}

func TestLearned(t *testing.T) {
	l := &position.Learned{Table: []float32{1, 2, 3, 4, 5, 6}, Width: 2}
	dst := make([]float32, 6)
	l.Fill(dst, 3, 1, 3)
	if dst[0] != 3 || dst[1] != 4 || dst[3] != 5 || dst[4] != 6 {
		t.Errorf("got %v", dst)
	}
}

var sink [385]float32

func BenchmarkRow(b *testing.B) {
	f := position.NewFourier(192, 30720)
	for b.Loop() {
		f.Row(sink[:], []float32{0.3})
	}
}
