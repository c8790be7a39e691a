package weights_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// ramp is a tensor of 0, 1, 2, …
func ramp(shape ...int) weights.Raw {
	t := tensor.New(shape...)
	for i := range t.Data {
		t.Data[i] = float32(i)
	}
	r, err := weights.Encode(t, weights.F32)
	if err != nil {
		panic(err)
	}
	return r
}

// rowsOf multiplies a packed matrix by the identity: column j of the result is its column j.
func rowsOf(p *kernel.Packed) []float32 {
	n, k := p.N(), p.K()
	eye := make([]float32, k*k)
	for i := range k {
		eye[i*k+i] = 1
	}
	cols := make([]float32, k*n)
	kernel.Gemm(cols, n, eye, k, k, p, kernel.Epilogue{})
	out := make([]float32, n*k)
	for i := range n {
		for j := range k {
			out[i*k+j] = cols[j*n+i]
		}
	}
	return out
}

type parts struct {
	bias   tensor.Tensor
	w, wt  *kernel.Packed
	table  weights.Table
	scalar tensor.Tensor
}

func bindParts(s weights.Scope) (parts, error) {
	l := s.At("layers").Index(0)
	l.Ignore("spare*")
	return parts{
		bias: l.Tensor("bias", 3), w: l.Linear("w", 3, 4), wt: l.LinearT("wt", 4, 3),
		table: s.Table("table", 5, 2), scalar: s.Tensor("scalar"),
	}, nil
}

func whole() weights.Memory {
	return weights.Memory{
		"layers.0.bias": ramp(3), "layers.0.w": ramp(3, 4), "layers.0.wt": ramp(3, 4),
		"table": ramp(5, 2), "scalar": ramp(), "layers.0.spare.x": ramp(1),
	}
}

func TestBindReads(t *testing.T) {
	p, err := weights.Bind(whole(), bindParts)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(p.bias.Data, []float32{0, 1, 2}) || len(p.scalar.Shape) != 0 {
		t.Errorf("bias %v, scalar of shape %v", p.bias.Data, p.scalar.Shape)
	}
	if got := rowsOf(p.w); !slices.Equal(got, ramp(3, 4).Tensor().Data) {
		t.Errorf("w %v", got)
	}
	if got, want := rowsOf(p.wt), []float32{0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11}; !slices.Equal(got, want) {
		t.Errorf("wt %v, want %v", got, want)
	}
	row := make([]float32, 2)
	if p.table.Row(row, 4); row[0] != 8 || row[1] != 9 {
		t.Errorf("table row 4 %v", row)
	}
	if got := rowsOf(p.table.Packed()); !slices.Equal(got, ramp(5, 2).Tensor().Data) {
		t.Errorf("packed table %v", got)
	}
}

func TestBindListsEverything(t *testing.T) {
	src := whole()
	delete(src, "layers.0.bias")
	delete(src, "table")
	src["layers.0.w"] = ramp(4, 3)
	src["stranger"] = ramp(2)
	src["layers.0.wt"].Data[3] = 0x7f // an infinity or NaN
	src["layers.0.wt"].Data[2] = 0xc0
	_, err := weights.Bind(src, func(s weights.Scope) (parts, error) {
		s.At("layers").Fault("odd number %d", 7)
		return bindParts(s)
	})
	var e *weights.BindError
	if !errors.As(err, &e) {
		t.Fatalf("%T: %v", err, err)
	}
	want := `weights: 1 refused, 2 missing, 1 mis-shaped, 1 unreadable, 1 left over:
	layers: odd number 7
	missing "layers.0.bias" [3]
	missing "table" [5 2]
	tensor "layers.0.w": shape [4 3], want [3 4]
	tensor "layers.0.wt": element 0 is NaN
	left over "stranger" [2]`
	if err.Error() != want {
		t.Errorf("got\n%s\nwant\n%s", err, want)
	}
}

func TestBindErrorIsBounded(t *testing.T) {
	src := weights.Memory{}
	for i := range 1000 {
		src[fmt.Sprintf("t%d", i)] = ramp(1)
	}
	_, err := weights.Bind(src, func(weights.Scope) (int, error) { return 0, nil })
	if err == nil || strings.Count(err.Error(), "\n") > 62 || !strings.Contains(err.Error(), "and 940 more") {
		t.Errorf("error text: %.3000v", err)
	}
}

func TestBindOwnError(t *testing.T) {
	mine := errors.New("mine")
	if _, err := weights.Bind(weights.Memory{}, func(weights.Scope) (int, error) { return 1, mine }); !errors.Is(err, mine) {
		t.Error(err)
	}
}

// A constructor that trips over a stand-in for a missing tensor gives a BindError; one that
// panics by itself panics.
func TestBindPanics(t *testing.T) {
	build := func(s weights.Scope) (float32, error) {
		x := s.Tensor("x", math.MaxInt>>23, 1<<20)
		return x.Data[1<<20], nil
	}
	var e *weights.BindError
	if _, err := weights.Bind(weights.Memory{}, build); !errors.As(err, &e) {
		t.Error(err)
	}
	if _, err := weights.Bind(weights.Random(1), build); !errors.As(err, &e) {
		t.Error(err)
	}
	defer func() {
		if recover() == nil {
			t.Error("a panic of the constructor was swallowed")
		}
	}()
	weights.Bind(weights.Memory{}, func(weights.Scope) (int, error) { panic("mine") })
}

func TestNotFinite(t *testing.T) {
	for _, dt := range []weights.DType{weights.F32, weights.F16, weights.BF16, weights.F64} {
		for _, bad := range []float64{math.NaN(), math.Inf(-1)} {
			x := tensor.New(4, 6)
			x.Data[17] = float32(bad)
			raw, _ := weights.Encode(x, dt)
			for name, read := range map[string]func(s weights.Scope){
				"Tensor":  func(s weights.Scope) { s.Tensor("x", 4, 6) },
				"Linear":  func(s weights.Scope) { s.Linear("x", 4, 6) },
				"LinearT": func(s weights.Scope) { s.LinearT("x", 6, 4) },
				"Table":   func(s weights.Scope) { s.Table("x", 4, 6) },
				"F16W":    func(s weights.Scope) { s.WithDType(kernel.F16W).Linear("x", 4, 6) },
				"BF16W":   func(s weights.Scope) { s.WithDType(kernel.BF16W).Linear("x", 4, 6) },
			} {
				_, err := weights.Bind(weights.Memory{"x": raw}, func(s weights.Scope) (int, error) { read(s); return 0, nil })
				if err == nil || !strings.Contains(err.Error(), `tensor "x"`) {
					t.Errorf("%s of %s with %v: %v", name, dt, bad, err)
				}
			}
		}
	}
}

func TestSixteenBitWeightsKeepTheirBits(t *testing.T) {
	x := tensor.New(3, 5)
	for i := range x.Data {
		x.Data[i] = float32(i)*0.37 - 2
	}
	for dt, arith := range map[weights.DType]kernel.DType{weights.F16: kernel.F16W, weights.BF16: kernel.BF16W} {
		raw, _ := weights.Encode(x, dt)
		src := weights.Memory{"x": raw}
		got, err := weights.Bind(src, func(s weights.Scope) (*kernel.Packed, error) { return s.Linear("x", 3, 5), nil },
			weights.Options{DType: arith})
		if err != nil {
			t.Fatal(err)
		}
		if got.DType() != arith || !slices.Equal(rowsOf(got), raw.Tensor().Data) {
			t.Errorf("%s: %v, want %v", dt, rowsOf(got), raw.Tensor().Data)
		}
	}
}

func TestViews(t *testing.T) {
	src := weights.Memory{"a.x": ramp(1), "a.y": ramp(2), "b.x": ramp(3)}
	sub := weights.Sub(src, "a.")
	if got := slices.Collect(sub.Names()); !slices.Equal(got, []string{"x", "y"}) {
		t.Errorf("Sub: %v", got)
	}
	if _, _, ok := sub.Stat("b.x"); ok {
		t.Error("Sub shows what is outside")
	}
	ren := weights.Rename(src, func(n string) string {
		if n == "b.x" {
			return ""
		}
		return "z." + n
	})
	if got := slices.Collect(ren.Names()); !slices.Equal(got, []string{"z.a.x", "z.a.y"}) {
		t.Errorf("Rename: %v", got)
	}
	m := weights.Merge(map[string]weights.Source{"v.": sub, "": src})
	if got := slices.Collect(m.Names()); !slices.Equal(got, []string{"a.x", "a.y", "b.x", "v.x", "v.y"}) {
		t.Errorf("Merge: %v", got)
	}
	if r, err := m.Load("v.y"); err != nil || len(r.Data) != 8 {
		t.Errorf("Merge: v.y: %v, %v", r, err)
	}
	if _, err := m.Load("v.q"); err == nil {
		t.Error("Merge: unknown name answered")
	}
}

// Generators keep working behind views, and a name means the same values through any of them.
func TestGeneratorsBehindViews(t *testing.T) {
	gen := weights.Random(7)
	read := func(src weights.Source, name string) []float32 {
		x, err := weights.Bind(src, func(s weights.Scope) (tensor.Tensor, error) { return s.Tensor(name, 5, 3), nil },
			weights.Options{Ignore: []string{"*"}})
		if err != nil {
			t.Fatal(err)
		}
		return x.Data
	}
	want := read(gen, "m.x.weight")
	if slices.Max(want) == slices.Min(want) {
		t.Error("all values alike")
	}
	for name, got := range map[string][]float32{
		"Sub":    read(weights.Sub(gen, "m."), "x.weight"),
		"Merge":  read(weights.Merge(map[string]weights.Source{"": weights.Memory{"q": ramp(1)}, "v.": gen}), "v.m.x.weight"),
		"Rename": read(weights.Rename(gen, strings.ToUpper), "m.x.weight"),
	} {
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	if other := read(weights.Random(8), "m.x.weight"); slices.Equal(other, want) {
		t.Error("two seeds give the same values")
	}
}

// The values of a linear layer do not depend on the path they take.
func TestGeneratedLinearEqualsTensor(t *testing.T) {
	gen := weights.Seeded()
	type both struct {
		x    tensor.Tensor
		p, q *kernel.Packed
	}
	b, err := weights.Bind(gen, func(s weights.Scope) (both, error) {
		return both{s.Tensor("a.weight", 37, 29), s.Linear("a.weight", 37, 29), s.LinearT("a.weight", 29, 37)}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(rowsOf(b.p), b.x.Data) {
		t.Error("Linear differs from Tensor")
	}
	turned := rowsOf(b.q)
	for i := range 37 {
		for j := range 29 {
			if turned[j*37+i] != b.x.Row(i)[j] {
				t.Fatal("LinearT differs from Tensor")
			}
		}
	}
}

func TestStrictSeeded(t *testing.T) {
	src := weights.Seeded(weights.Spec{Name: "a.weight", DType: weights.F32, Shape: []int{2, 2}})
	_, err := weights.Bind(src, func(s weights.Scope) (int, error) {
		s.Tensor("a.weight", 2, 2)
		s.Tensor("b.weight", 2, 2)
		return 0, nil
	})
	if err == nil || !strings.Contains(err.Error(), `missing "b.weight"`) {
		t.Error(err)
	}
}

func TestCountAndHas(t *testing.T) {
	src := weights.Memory{"l.0.x": ramp(1), "l.1.x": ramp(1), "l.3.x": ramp(1), "l.x": ramp(2, 3)}
	weights.Bind(src, func(s weights.Scope) (int, error) {
		l := s.At("l")
		if l.Count() != 2 || !l.Has("x") || l.Has("y") || !l.Index(3).HasAny() || l.Index(2).HasAny() {
			t.Error("Count, Has or HasAny")
		}
		if got := l.Shape("x"); !slices.Equal(got, []int{2, 3}) || l.Shape("y") != nil {
			t.Errorf("Shape %v", got)
		}
		return 0, nil
	})
}

func BenchmarkSeededPack(b *testing.B) {
	// 2048×4096 values a round; b.SetBytes counts values, so MB/s is million values a second.
	b.SetBytes(2048 * 4096)
	for b.Loop() {
		weights.Bind(weights.Seeded(), func(s weights.Scope) (*kernel.Packed, error) { return s.Linear("a.weight", 2048, 4096), nil })
	}
}

func BenchmarkBindLinear(b *testing.B) {
	x := tensor.New(2048, 4096)
	weights.Uniform(x.Data, "x", 0, 0, 1)
	for _, dt := range []weights.DType{weights.F32, weights.F16, weights.BF16} {
		raw, err := weights.Encode(x, dt)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(string(dt), func(b *testing.B) {
			b.SetBytes(int64(len(x.Data))) // values, so MB/s is million values a second
			for b.Loop() {
				weights.Bind(weights.Memory{"x": raw}, func(s weights.Scope) (*kernel.Packed, error) { return s.Linear("x", 2048, 4096), nil })
			}
		})
	}
}
