package pipeline

import (
	"bytes"
	"context"
	"encoding/json"
	"image/png"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/mmserve/mmserve/perceiver"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// flowFixture is testdata/reference/perceiver-processors/flow_tiles*.json.
type flowFixture struct {
	Patch   [2]int   `json:"patch_size"`
	Overlap int      `json:"patch_min_overlap"`
	Corners [][2]int `json:"tile_corners_yx"`
}

// The reference's tiles, their features and their blend, bit for bit where it computes in
// float32 and within its rounding where two sums are added in another order.
func TestFlowTilesEqualTheReference(t *testing.T) {
	for _, name := range []string{"flow_tiles", "flow_tiles_duplicate"} {
		t.Run(name, func(t *testing.T) {
			base := filepath.Join("..", "testdata", "reference", "perceiver-processors", name)
			text, err := os.ReadFile(base + ".json")
			if err != nil {
				t.Fatal(err)
			}
			var fx flowFixture
			if err := json.Unmarshal(text, &fx); err != nil {
				t.Fatal(err)
			}
			src, err := weights.Open(base + ".safetensors")
			if err != nil {
				t.Fatal(err)
			}
			defer src.Close()
			load := func(name string) tensor.Tensor {
				raw, err := src.Load(name)
				if err != nil {
					t.Fatal(err)
				}
				return raw.Tensor()
			}
			a, b := asFrame(load("image1")), asFrame(load("image2"))
			features, predictions, want := load("patch_features"), load("tile_predictions"), load("flow")
			f := flowTiles{th: fx.Patch[0], tw: fx.Patch[1], overlap: fx.Overlap}

			var corners [][2]int
			for _, y := range tileCorners(a.h, f.th, f.overlap) {
				for _, x := range tileCorners(a.w, f.tw, f.overlap) {
					corners = append(corners, [2]int{y, x})
				}
			}
			if !slices.Equal(corners, fx.Corners) {
				t.Fatalf("corners %v, want %v", corners, fx.Corners)
			}
			first, second := tensor.New(f.th, f.tw, 3), tensor.New(f.th, f.tw, 3)
			for i, c := range corners {
				a.tile(first, c[0], c[1])
				b.tile(second, c[0], c[1])
				rows := perceiver.Frames(first, second).Rows
				n, w := rows.Dims()
				got, want := tensor.New(n, w), features.At(i).Reshape(w, n)
				if err := rows.Read(got, 0, n); err != nil {
					t.Fatal(err)
				}
				for j := range n {
					for k := range w {
						if got.Row(j)[k] != want.Row(k)[j] {
							t.Fatalf("tile %d: pixel %d: channel %d is %v, want %v", i, j, k, got.Row(j)[k], want.Row(k)[j])
						}
					}
				}
			}
			sum, weight := tensor.New(a.h, a.w, 2), make([]float32, a.h*a.w)
			for i, c := range corners {
				f.add(sum, weight, predictions.At(i), c[0], c[1], 1)
			}
			for i := range sum.Data {
				v := sum.Data[i] / weight[i/2]
				if d := v - want.Data[i]; d > 1e-5 || d < -1e-5 {
					t.Fatalf("flow %d: %v, want %v", i, v, want.Data[i])
				}
			}
		})
	}
}

func asFrame(t tensor.Tensor) frame {
	f := frame{h: t.Dim(0), w: t.Dim(1), rgb: make([]uint8, len(t.Data))}
	for i, x := range t.Data {
		f.rgb[i] = uint8(x)
	}
	return f
}

// Every size at least the tile is covered: tiles lie within the frame and leave no gap.
func TestTileCornersCoverEverySize(t *testing.T) {
	const tile, overlap = 12, 3
	for side := tile; side < 80; side++ {
		covered := make([]bool, side)
		for _, y := range tileCorners(side, tile, overlap) {
			if y < 0 || y+tile > side {
				t.Fatalf("side %d: tile at %d runs over", side, y)
			}
			for i := y; i < y+tile; i++ {
				covered[i] = true
			}
		}
		if i := slices.Index(covered, false); i >= 0 {
			t.Fatalf("side %d: pixel %d is in no tile", side, i)
		}
	}
}

// A constant answer of every tile blends to itself, times the published 20.
func TestFlowOfConstantTiles(t *testing.T) {
	f := flowTiles{th: 8, tw: 12, overlap: 3}
	img := frame{h: 23, w: 29, rgb: make([]uint8, 23*29*3)}
	flow, err := f.run(context.Background(), img, img, func(_, _ tensor.Tensor) (tensor.Tensor, error) {
		out := tensor.New(8, 12, 2)
		for i := range out.Data {
			out.Data[i] = 0.25 + float32(i%2)
		}
		return out, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range flow.Data {
		if want := float32(20 * (0.25 + float32(i%2))); v-want > 1e-4 || want-v > 1e-4 {
			t.Fatalf("value %d: %v, want %v", i, v, want)
		}
	}
	var flo, pic bytes.Buffer
	if err := WriteFlo(&flo, flow); err != nil {
		t.Fatal(err)
	}
	if want := 12 + 8*23*29; flo.Len() != want || !bytes.HasPrefix(flo.Bytes(), []byte("PIEH")) {
		t.Fatalf(".flo of %d bytes beginning %q, want %d beginning PIEH", flo.Len(), flo.Bytes()[:4], want)
	}
	if err := WriteFlowPNG(&pic, flow); err != nil {
		t.Fatal(err)
	}
	if c, err := png.DecodeConfig(&pic); err != nil || c.Width != 29 || c.Height != 23 {
		t.Fatalf("picture %+v, %v", c, err)
	}
}

func TestFlowRefusesFramesThatDoNotFit(t *testing.T) {
	f := flowTiles{th: 8, tw: 12, overlap: 3}
	frameOf := func(h, w int) frame { return frame{h: h, w: w, rgb: make([]uint8, h*w*3)} }
	for name, pair := range map[string][2]frame{
		"too small":      {frameOf(7, 12), frameOf(7, 12)},
		"different size": {frameOf(8, 12), frameOf(9, 12)},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := f.run(context.Background(), pair[0], pair[1], nil); err == nil {
				t.Fatal("no error")
			}
		})
	}
}
