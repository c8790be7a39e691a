package modality_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/tensor"
)

// pointFile is a path in the media set: the copied part, or all of it at MMSERVE_MEDIA.
func pointFile(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("MMSERVE_MEDIA")
	if dir == "" {
		dir = filepath.Join("..", "testdata", "media")
	}
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err != nil {
		t.Skip(err)
	}
	return path
}

func openPoints(t testing.TB, options string) modality.Adapter {
	t.Helper()
	a, err := modality.New("pointcloud", json.RawMessage(options))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func adaptFile(t *testing.T, a modality.Adapter, path string) *modality.Array {
	t.Helper()
	in, closer, err := media.File(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closer.Close() })
	array, err := a.Adapt(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { array.Close() })
	return array
}

// readBlocks reads the whole array in blocks of n rows.
func readBlocks(t *testing.T, a *modality.Array, n int) tensor.Tensor {
	t.Helper()
	m, c := a.Dims()
	out := tensor.New(m, c)
	for from := 0; from < m; from += n {
		to := min(from+n, m)
		if err := a.Read(out.Slice(from, to), from, to); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// ascii is an XYZ file of n points on a bent line.
func asciiPoints(n int) []byte {
	var b bytes.Buffer
	for i := range n {
		x := float64(i)
		fmt.Fprintf(&b, "%g %g %g\n", 500000+x, 100-x/2, math.Sin(x))
	}
	return b.Bytes()
}

// plyPoints is a binary PLY of n points with normals in front, one in every `bad` not a number.
func plyPoints(n, bad int) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "ply\nformat binary_little_endian 1.0\nelement vertex %d\n", n)
	b.WriteString("property float nx\nproperty float ny\nproperty float nz\nproperty float x\nproperty float y\nproperty float z\nend_header\n")
	for i := range n {
		v := [6]float32{0, 0, 1, float32(i) / 10, float32(i%100) / 7, -float32(i % 13)}
		if bad > 0 && i%bad == 3 {
			v[4] = float32(math.NaN())
		}
		binary.Write(&b, binary.LittleEndian, v)
	}
	return b.Bytes()
}

func TestPointCloudRows(t *testing.T) {
	a := openPoints(t, `{"scaling":"none","position":"none","features":["intensity","normals","color"]}`)
	array := adaptFile(t, a, pointFile(t, "pointcloud/pyntcloud-diamond_ascii.ply"))
	got := readBlocks(t, array, 2)
	want := []float32{0, 0, -1, 0, 1, 0, 0, .5, 0, .5}
	for i, v := range want {
		if got.Data[i] != v {
			t.Fatalf("row 0 is %v, want %v", got.Row(0), want)
		}
	}
	if notes := strings.Join(array.Notes, "; "); !strings.Contains(notes, "intensity asked for and not in the file") {
		t.Errorf("notes %q do not say that intensity is missing", notes)
	}
}

func TestPointCloudCentresBeforeFloat32(t *testing.T) {
	far := readBlocks(t, adaptFile(t, openPoints(t, `{"position":"none"}`), pointFile(t, "pointcloud/ply_far_offset.ply")), 500)
	near := readBlocks(t, adaptFile(t, openPoints(t, `{"position":"none"}`), pointFile(t, "pointcloud/ply_be_double.ply")), 500)
	for i := range near.Data {
		if d := math.Abs(float64(far.Data[i] - near.Data[i])); d > 1e-4 {
			t.Fatalf("value %d: %v far away, %v near", i, far.Data[i], near.Data[i])
		}
	}
}

func TestPointCloudScaling(t *testing.T) {
	in := media.Bytes("a.xyz", asciiPoints(300))
	for _, scaling := range []string{"center", "unit_sphere", "unit_cube"} {
		array, err := openPoints(t, `{"position":"none","scaling":"`+scaling+`"}`).Adapt(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		x := readBlocks(t, array, 300)
		var sum [3]float64
		var far, side float64
		for i := range x.Rows() {
			r := 0.0
			for k, v := range x.Row(i) {
				sum[k] += float64(v)
				r += float64(v) * float64(v)
				side = max(side, math.Abs(float64(v)))
			}
			far = max(far, math.Sqrt(r))
		}
		mean := max(math.Abs(sum[0]), math.Abs(sum[1]), math.Abs(sum[2])) / 300
		switch {
		case scaling != "unit_cube" && mean > 1e-5:
			t.Errorf("%s: mean %v", scaling, mean)
		case scaling == "unit_sphere" && math.Abs(far-1) > 1e-6:
			t.Errorf("%s: radius %v", scaling, far)
		case scaling == "unit_cube" && math.Abs(side-1) > 1e-6:
			t.Errorf("%s: half side %v", scaling, side)
		}
	}
}

func TestPointCloudFourierIsThePaperSetting(t *testing.T) {
	a := openPoints(t, `{"preset":"modelnet40"}`)
	if c := a.Info().Channels; c != 3+2*3*64 {
		t.Fatalf("%d channels, want 387", c)
	}
	array, err := a.Adapt(t.Context(), media.Bytes("a.xyz", asciiPoints(5000)))
	if err != nil {
		t.Fatal(err)
	}
	x := readBlocks(t, array, 100)
	if x.Rows() != 2048 {
		t.Fatalf("%d rows, want 2048", x.Rows())
	}
	// The last band has frequency 560: sin(560πx), cos(560πx).
	for i := range x.Rows() {
		row := x.Row(i)
		for axis := range 3 {
			a := math.Pi * 560 * float64(row[axis])
			if math.Abs(float64(row[3+64*axis+63])-math.Sin(a)) > 1e-3 || math.Abs(float64(row[195+64*axis+63])-math.Cos(a)) > 1e-3 {
				t.Fatalf("row %d axis %d: waves of %v", i, axis, row[axis])
			}
		}
	}
}

func TestPointCloudSamplingIsSeeded(t *testing.T) {
	in := media.Bytes("a.ply", plyPoints(3000, 10))
	read := func(options string) []float32 {
		array, err := openPoints(t, options).Adapt(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		if m, _ := array.Dims(); m != 100 {
			t.Fatalf("%s: %d rows, want 100", options, m)
		}
		return readBlocks(t, array, 7).Data
	}
	for _, sampling := range []string{"random", "farthest"} {
		options := `{"points":100,"position":"none","sampling":"` + sampling + `","seed":%d}`
		one, again, other := read(fmt.Sprintf(options, 1)), read(fmt.Sprintf(options, 1)), read(fmt.Sprintf(options, 2))
		if !equal(one, again) {
			t.Errorf("%s: the same seed gave other points", sampling)
		}
		if equal(one, other) {
			t.Errorf("%s: another seed gave the same points", sampling)
		}
	}
}

func TestFarthestPointsSpread(t *testing.T) {
	var b bytes.Buffer
	for i := range 1000 { // a dense cluster and four lone corners
		fmt.Fprintf(&b, "%g %g 0\n", float64(i%10)/100, float64(i/10)/1000)
	}
	b.WriteString("5 5 0\n-5 5 0\n5 -5 0\n-5 -5 0\n")
	array, err := openPoints(t, `{"points":5,"sampling":"farthest","scaling":"none","position":"none"}`).Adapt(t.Context(), media.Bytes("a.xyz", b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	corners := 0
	x := readBlocks(t, array, 5)
	for i := range 5 {
		if r := x.Row(i); math.Abs(float64(r[0])) == 5 && math.Abs(float64(r[1])) == 5 {
			corners++
		}
	}
	if corners != 4 {
		t.Errorf("%d of 4 corners sampled", corners)
	}
}

func TestPointCloudDropsAndCounts(t *testing.T) {
	array, err := openPoints(t, `{}`).Adapt(t.Context(), media.Bytes("a.ply", plyPoints(1000, 10)))
	if err != nil {
		t.Fatal(err)
	}
	if m, _ := array.Dims(); m != 900 || array.Cost.Points != 1000 {
		t.Errorf("%d rows of %d points, want 900 of 1000", m, array.Cost.Points)
	}
	for _, v := range readBlocks(t, array, 64).Data {
		if v != v {
			t.Fatal("a NaN came through")
		}
	}
	if !strings.Contains(strings.Join(array.Notes, ";"), "100 of 1000 points dropped") {
		t.Errorf("notes %q do not count the dropped points", array.Notes)
	}
}

func TestPointCloudForwardOnly(t *testing.T) {
	good, bad := plyPoints(200_000, 0), plyPoints(2000, 10)
	for _, c := range []struct {
		name, options string
		data          []byte
		want          media.Code
	}{
		{"as it is", `{"scaling":"none","position":"none"}`, good, ""},
		{"sampled", `{"points":50}`, good, ""},
		{"scaled", `{}`, good, media.NotReplayable},
		{"not finite", `{"scaling":"none"}`, bad, media.NotReplayable},
		{"no count", `{"scaling":"none"}`, asciiPoints(10), media.NotReplayable},
	} {
		t.Run(c.name, func(t *testing.T) {
			array, err := openPoints(t, c.options).Adapt(t.Context(), media.Stream("", bytes.NewReader(c.data)))
			if err == nil {
				m, ch := array.Dims()
				dst := tensor.New(1000, ch)
				for from := 0; from < m && err == nil; from += 1000 {
					n := min(1000, m-from)
					err = array.Read(dst.Slice(0, n), from, from+n)
				}
			}
			if got := media.CodeOf(err); got != c.want {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

// TestPointCloudStreamEqualsHeld reads a cloud too large to be kept, in other blocks than the
// sample of it that is kept.
func TestPointCloudStreamEqualsHeld(t *testing.T) {
	const n = 70_000 // above the points kept
	data := plyPoints(n, 1000)
	in := media.Bytes("a.ply", data)
	for _, scaling := range []string{"none", "center", "unit_sphere", "unit_cube"} {
		options := `{"position":"none","features":["normals"],"scaling":"` + scaling + `"`
		streamed, err := openPoints(t, options+`}`).Adapt(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		held, err := openPoints(t, options+`,"points":100000,"sampling":"first"}`).Adapt(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		a, b, c := readBlocks(t, streamed, 999), readBlocks(t, held, n), readBlocks(t, streamed, 1<<15)
		if !equal(a.Data, b.Data) || !equal(a.Data, c.Data) {
			t.Errorf("%s: streamed and held rows differ", scaling)
		}
	}
}

func equal(a, b []float32) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if math.Float32bits(a[i]) != math.Float32bits(b[i]) {
			return false
		}
	}
	return true
}

func TestPointCloudRefusesFromTheHeader(t *testing.T) {
	lie := "ply\nformat binary_little_endian 1.0\nelement vertex 4294967295\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
	for _, c := range []struct {
		name, options, data string
		limits              modality.Limits
		want                media.Code
	}{
		{"lying count", `{}`, lie, modality.Limits{}, media.TooLarge},
		{"lying count below the limit", `{}`, lie, modality.Limits{Points: -1}, media.Truncated},
		{"points", `{}`, string(plyPoints(100, 0)), modality.Limits{Points: 99}, media.TooLarge},
		{"rows", `{}`, string(plyPoints(100, 0)), modality.Limits{Rows: 99}, media.TooLarge},
		{"distances", `{"points":1000000,"sampling":"farthest"}`, string(plyPoints(100_000, 0)), modality.Limits{}, media.TooLarge},
		{"laz", `{}`, "LASF" + strings.Repeat("\x00", 20) + "\x01\x02" + strings.Repeat("\x00", 78) + "\x81" + strings.Repeat("\x00", 300), modality.Limits{}, media.Unsupported},
		{"glb", `{}`, "glTF\x02\x00\x00\x00", modality.Limits{}, media.Unsupported},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := media.Bytes("", []byte(c.data))
			in.Limits = c.limits
			h, err := in.Header()
			if err != nil {
				t.Fatal(err)
			}
			a := openPoints(t, c.options)
			cost, err := a.Plan(t.Context(), h)
			if got := media.CodeOf(err); got != c.want && !cost.Estimated {
				t.Errorf("plan: %v, want %s", err, c.want)
			}
			if _, err := a.Adapt(t.Context(), in); media.CodeOf(err) != c.want {
				t.Errorf("adapt: %v, want %s", err, c.want)
			}
		})
	}
}

func TestPointCloudCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := openPoints(t, `{}`).Adapt(ctx, media.Bytes("a.ply", plyPoints(100_000, 0)))
	if !errors.Is(err, media.Canceled) {
		t.Errorf("%v, want canceled", err)
	}
}
