package perceiver_test

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/perceiver"
	"github.com/mmserve/mmserve/tensor"
)

// endless is m rows that are made as they are read, and remembers how.
type endless struct {
	m, c    int
	once    bool // read forward, once
	next    int
	largest int
}

var errReplay = errors.New("the stream cannot be read again")

func (e *endless) Dims() (int, int) { return e.m, e.c }

func (e *endless) Read(dst tensor.Tensor, from, to int) error {
	if e.once && from != e.next {
		return errReplay
	}
	e.next = to
	e.largest = max(e.largest, to-from)
	for i := range dst.Data {
		dst.Data[i] = float32(math.Sin(float64(from*e.c + i)))
	}
	return nil
}

// TestConstantMemory: a long input is read forward, once, in blocks, and the scratch does not
// grow with it.
func TestConstantMemory(t *testing.T) {
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			net := build(t, small("PerceiverModel", `"d_model": 8, "num_cross_attention_heads": 1`), w.opt).(*perceiver.Model)
			bytes := func(m int) int {
				var a tensor.Arena
				rows := &endless{m: m, c: 8, once: true}
				if _, err := net.Forward(t.Context(), &a, []perceiver.Rows{rows}, nil); err != nil {
					t.Fatal(err)
				}
				if rows.next != m {
					t.Fatalf("read up to row %d of %d", rows.next, m)
				}
				if rows.largest > 1<<15 {
					t.Fatalf("%d rows at once", rows.largest)
				}
				return a.Bytes()
			}
			if short, long := bytes(10_000), bytes(300_000); long > short {
				t.Errorf("%d bytes of scratch for 10,000 rows, %d for 300,000", short, long)
			}
		})
	}
}

// TestReplay: the original Perceiver attends again, and says so when its rows cannot.
func TestReplay(t *testing.T) {
	net := build(t, subjects[7].config, perceiver.Options{}).(*perceiver.Original)
	var a tensor.Arena
	in := []perceiver.Picture{{Rows: &endless{m: 3000, c: 2, once: true}, Size: []int{60, 50}}}
	if _, err := net.Forward(t.Context(), &a, in, nil); !errors.Is(err, errReplay) {
		t.Errorf("error %v, want that of the rows", err)
	}
	in[0].Rows = &endless{m: 3000, c: 2}
	if _, err := net.Forward(t.Context(), &a, in, nil); err != nil {
		t.Error(err)
	}
}

// TestNotFinite: NaN and infinities never come out as an answer; the error names the stage.
func TestNotFinite(t *testing.T) {
	for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(1)), math.MaxFloat32} {
		for _, s := range []subject{subjects[2], subjects[7]} {
			for _, w := range ways {
				x := random(1, 1, 3, 20, 30)
				in := perceiver.Planes(x)
				if s.name == "original" {
					x = random(1, 1, 20, 20, 2)
					in = perceiver.ChannelsLast(x)
				}
				x.Data[77] = bad
				var a tensor.Arena
				var y tensor.Tensor
				var err error
				switch net := build(t, s.config, w.opt).(type) {
				case *perceiver.ImageClassifier:
					y, err = net.Forward(t.Context(), &a, in, nil)
				case *perceiver.Original:
					y, err = net.Forward(t.Context(), &a, in, nil)
				}
				if err == nil && slices.ContainsFunc(y.Data, func(v float32) bool { return v-v != 0 }) {
					t.Errorf("%s/%s: %v in gives %v out", s.name, w.name, bad, y.Data)
				}
				if err != nil && !strings.Contains(err.Error(), "stage") {
					t.Errorf("%s/%s: error %v does not name a stage", s.name, w.name, err)
				}
				if err == nil && bad != math.MaxFloat32 {
					t.Errorf("%s/%s: %v was taken", s.name, w.name, bad)
				}
			}
		}
	}
}

// TestSubsets: any positions or points asked for alone have the bits they have among all.
func TestSubsets(t *testing.T) {
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			var a tensor.Arena
			lm := build(t, subjects[0].config, w.opt).(*perceiver.MaskedLM)
			ids, mask := texts([]int{0, 1})
			all, err := lm.Forward(t.Context(), &a, ids, mask)
			if err != nil {
				t.Fatal(err)
			}
			x, err := lm.Encode(t.Context(), &a, ids, mask)
			if err != nil {
				t.Fatal(err)
			}
			at := []int{499, 0, 33}
			some := tensor.New(2, len(at), 262)
			if err := lm.DecodeAt(t.Context(), &a, x, at, some); err != nil {
				t.Fatal(err)
			}
			for b := range 2 {
				for i, p := range at {
					sameBits(t, "a position alone", some.At(b).Row(i), all.At(b).Row(p))
				}
			}
			if err := lm.DecodeAt(t.Context(), &a, x, []int{500}, some); err == nil {
				t.Error("position 500 of 500 was answered")
			}

			mm := build(t, subjects[6].config, w.opt).(*perceiver.MultimodalAutoencoder)
			clip := perceiver.Clip{Film: perceiver.Film(random(1, 3, 3, 24, 24)), Audio: random(2, 480).Data}
			if x, err = mm.Encode(t.Context(), &a, []perceiver.Clip{clip}, nil); err != nil {
				t.Fatal(err)
			}
			whole, err := mm.Decode(t.Context(), &a, x, mm.AllPoints())
			if err != nil {
				t.Fatal(err)
			}
			p := perceiver.Points{Image: []int{1700, 3, 900}, Audio: []int{29, 0}}
			part, err := mm.Decode(t.Context(), &a, x, p)
			if err != nil {
				t.Fatal(err)
			}
			for i, at := range p.Image {
				sameBits(t, "a pixel alone", part.Image.At(0).Row(i), whole.Image.At(0).Row(at))
			}
			for i, at := range p.Audio {
				sameBits(t, "a sound patch alone", part.Audio.Data[16*i:16*i+16], whole.Audio.Data[16*at:16*at+16])
			}
			if part.Label.Data != nil {
				t.Error("class scores that nobody asked for")
			}
		})
	}
}

// TestTraceChangesNothing: looking at the stages leaves the bits of the answer alone.
func TestTraceChangesNothing(t *testing.T) {
	for _, s := range subjects {
		net := build(t, s.config, perceiver.Options{})
		want := result(t, s, net, []int{0})[0]
		stages := 0
		a := tensor.Arena{Trace: func(string, tensor.Tensor) { stages++ }}
		got, err := s.run(t.Context(), &a, net, []int{0})
		if err != nil {
			t.Fatal(err)
		}
		sameBits(t, s.name+" traced", got.At(0).Data, want)
		if stages == 0 {
			t.Errorf("%s emitted no stage", s.name)
		}
	}
}

// TestSteadyState: a repeated pass takes no more scratch.
func TestSteadyState(t *testing.T) {
	for _, s := range subjects {
		net := build(t, s.config, perceiver.Options{})
		var a tensor.Arena
		bytes := 0
		for i := range 4 {
			mark := a.Mark()
			if _, err := s.run(t.Context(), &a, net, []int{0, 1}); err != nil {
				t.Fatal(err)
			}
			a.Release(mark)
			if i == 1 {
				bytes = a.Bytes()
			}
		}
		if a.Bytes() > bytes {
			t.Errorf("%s: scratch grew from %d to %d bytes", s.name, bytes, a.Bytes())
		}
	}
}

// TestGenerate: with and without a cache tokens are the same while nothing slides, and emit
// stops a generation.
func TestGenerate(t *testing.T) {
	net := build(t, subjects[8].config, perceiver.Options{}).(*perceiver.CausalLM)
	prompt := make([]int, 30)
	for i := range prompt {
		prompt[i] = i * 7 % 40
	}
	generate := func(g perceiver.Generation) (ids []int, logits []float32) {
		var a tensor.Arena
		err := net.Generate(t.Context(), &a, prompt, g, func(id int, l []float32) bool {
			ids, logits = append(ids, id), append(logits, l...)
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		return ids, logits
	}
	cached, cl := generate(perceiver.Generation{Steps: 20})
	again, rl := generate(perceiver.Generation{Steps: 20, Recompute: true})
	if !slices.Equal(cached, again) {
		t.Errorf("with a cache %v, without %v", cached, again)
	}
	for i := range cl {
		if d := math.Abs(float64(cl[i] - rl[i])); d > 1e-4 {
			t.Fatalf("logit %d: %v with a cache, %v without", i, cl[i], rl[i])
		}
	}
	if long, _ := generate(perceiver.Generation{Steps: 400, Latents: 5}); len(long) != 400 {
		t.Errorf("%d tokens past the longest sequence, want 400", len(long))
	}
	fixed, _ := generate(perceiver.Generation{Steps: 3, Next: func([]float32) int { return 5 }})
	if !slices.Equal(fixed, []int{5, 5, 5}) {
		t.Errorf("tokens %v, want those that Next picked", fixed)
	}
	var a tensor.Arena
	n := 0
	if err := net.Generate(t.Context(), &a, prompt, perceiver.Generation{Steps: 9}, func(int, []float32) bool { n++; return n < 4 }); err != nil || n != 4 {
		t.Errorf("stopped after %d tokens with %v, want 4 and no error", n, err)
	}
	for _, g := range []perceiver.Generation{{Steps: 1, Latents: 90}, {Steps: 1, Latents: 31}, {Steps: 1, Next: func([]float32) int { return 40 }}} {
		if err := net.Generate(t.Context(), &a, prompt, g, func(int, []float32) bool { return true }); err == nil {
			t.Errorf("%+v was taken", g)
		}
	}
	if err := net.Generate(t.Context(), &a, nil, perceiver.Generation{Steps: 1}, func(int, []float32) bool { return true }); err == nil {
		t.Error("an empty prompt was taken")
	}
}
