package perceiver_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/perceiver"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// build makes a network of random weights.
func build(t testing.TB, config string, opt perceiver.Options) perceiver.Network {
	t.Helper()
	net, err := weights.Bind(weights.Random(7), func(s weights.Scope) (perceiver.Network, error) {
		return perceiver.Load([]byte(config), s, opt)
	})
	if err != nil {
		t.Fatal(err)
	}
	return net
}

// small is a configuration with latents small enough for tests.
func small(arch, rest string) string {
	return fmt.Sprintf(`{"architectures": [%q], "num_latents": 20, "d_latents": 32, "num_blocks": 2,
		"num_self_attends_per_block": 2, "num_self_attention_heads": 4, %s}`, arch, rest)
}

func random(seed uint64, shape ...int) tensor.Tensor {
	r := rand.New(rand.NewPCG(seed, 1))
	t := tensor.New(shape...)
	for i := range t.Data {
		t.Data[i] = float32(r.NormFloat64())
	}
	return t
}

// halfMask drops about a third of n rows.
func halfMask(seed uint64, n int) []float32 {
	r := rand.New(rand.NewPCG(seed, 2))
	mask := make([]float32, n)
	for i := range mask {
		if r.IntN(3) > 0 {
			mask[i] = 1
		}
	}
	return mask
}

// subject is a network with a batch of inputs to run it on: any of them, in any company.
type subject struct {
	name   string
	config string
	n      int // inputs there are
	run    func(ctx context.Context, a *tensor.Arena, net perceiver.Network, items []int) (tensor.Tensor, error)
}

// pictures makes a subject of images of different sizes, one of them masked.
func pictures(name, arch string, size func(i int) (h, w int), rest string) subject {
	return subject{name, small(arch, `"num_cross_attention_heads": 1, `+rest), 3, func(ctx context.Context, a *tensor.Arena, net perceiver.Network, items []int) (tensor.Tensor, error) {
		var in []perceiver.Picture
		mask := make([][]float32, len(items))
		for k, i := range items {
			h, w := size(i)
			in = append(in, perceiver.Planes(random(uint64(i), 1, 3, h, w))...)
			if i == 1 && arch == "PerceiverForImageClassificationFourier" {
				mask[k] = halfMask(3, h*w)
			}
		}
		return net.(*perceiver.ImageClassifier).Forward(ctx, a, in, mask)
	}}
}

func texts(items []int) (ids [][]int, mask [][]float32) {
	for _, i := range items {
		r := rand.New(rand.NewPCG(uint64(i), 3))
		n := 260 + 90*i
		seq := make([]int, n)
		for j := range seq {
			seq[j] = r.IntN(262)
		}
		ids = append(ids, seq)
		if i == 2 {
			mask = append(mask, make([]float32, n)) // nothing to see: a uniform average
		} else {
			mask = append(mask, halfMask(uint64(i), n))
		}
	}
	return ids, mask
}

var subjects = []subject{
	{"masked-lm", small("PerceiverForMaskedLM", `"d_model": 24, "max_position_embeddings": 500, "num_cross_attention_heads": 4`), 3,
		func(ctx context.Context, a *tensor.Arena, net perceiver.Network, items []int) (tensor.Tensor, error) {
			ids, mask := texts(items)
			return net.(*perceiver.MaskedLM).Forward(ctx, a, ids, mask)
		}},
	{"sequence", small("PerceiverForSequenceClassification", `"d_model": 12, "max_position_embeddings": 500, "num_cross_attention_heads": 1, "cross_attention_shape_for_attention": "q"`), 3,
		func(ctx context.Context, a *tensor.Arena, net perceiver.Network, items []int) (tensor.Tensor, error) {
			ids, mask := texts(items)
			return net.(*perceiver.SequenceClassifier).Forward(ctx, a, ids, mask)
		}},
	pictures("fourier", "PerceiverForImageClassificationFourier", func(i int) (int, int) { return 20 + i, 30 - 3*i }, `"num_labels": 7`),
	pictures("conv", "PerceiverForImageClassificationConvProcessing", func(i int) (int, int) { return 61 + i, 70 }, `"num_labels": 7`),
	pictures("learned", "PerceiverForImageClassificationLearned", func(int) (int, int) { return 18, 18 }, `"image_size": 18`),
	{"flow", small("PerceiverForOpticalFlow", `"train_size": [18, 31], "num_cross_attention_heads": 1`), 2,
		func(ctx context.Context, a *tensor.Arena, net perceiver.Network, items []int) (tensor.Tensor, error) {
			var in []perceiver.Picture
			for _, i := range items {
				in = append(in, perceiver.Frames(random(uint64(i), 18, 31, 3), random(uint64(10+i), 18, 31, 3)))
			}
			return net.(*perceiver.OpticalFlow).Forward(ctx, a, in, nil)
		}},
	{"multimodal", small("PerceiverForMultimodalAutoencoding", `"num_cross_attention_heads": 1, "num_frames": 3, "audio_samples_per_frame": 160,
		"image_size": 6, "output_shape": [1, 3, 24, 24], "output_num_channels": 12, "_label_trainable_num_channels": 40, "num_labels": 9`), 2,
		func(ctx context.Context, a *tensor.Arena, net perceiver.Network, items []int) (tensor.Tensor, error) {
			m := net.(*perceiver.MultimodalAutoencoder)
			var clips []perceiver.Clip
			for _, i := range items {
				clips = append(clips, perceiver.Clip{Film: perceiver.Film(random(uint64(i), 3, 3, 24, 24)), Audio: random(uint64(i), 480).Data})
			}
			x, err := m.Encode(ctx, a, clips, nil)
			if err != nil {
				return tensor.Tensor{}, err
			}
			r, err := m.Decode(ctx, a, x, m.AllPoints())
			if err != nil {
				return tensor.Tensor{}, err
			}
			b := len(items)
			out := tensor.New(b, r.Image.Dim(1)*3+r.Audio.Dim(1)+r.Label.Dim(1))
			for i := range b {
				n := copy(out.Row(i), r.Image.At(i).Data)
				n += copy(out.Row(i)[n:], r.Audio.Row(i))
				copy(out.Row(i)[n:], r.Label.Row(i))
			}
			return out, nil
		}},
	{"original", `{"architectures": ["Perceiver"], "input_channels": 2, "input_axis": 2, "num_latents": 9, "latent_dim": 24, "cross_heads": 1,
		"cross_dim_head": 8, "latent_heads": 2, "latent_dim_head": 8, "num_classes": 5, "weight_tie_layers": true, "depth": 3, "num_freq_bands": 4, "max_freq": 10}`, 3,
		func(ctx context.Context, a *tensor.Arena, net perceiver.Network, items []int) (tensor.Tensor, error) {
			var in []perceiver.Picture
			mask := make([][]float32, len(items))
			for k, i := range items {
				in = append(in, perceiver.ChannelsLast(random(uint64(i), 1, 20, 20+i, 2))...)
				if i == 0 {
					mask[k] = halfMask(4, 400)
				}
			}
			return net.(*perceiver.Original).Forward(ctx, a, in, mask)
		}},
	{"causal", `{"architectures": ["PerceiverCausalLanguageModel"], "model_config": {"num_heads": 4, "num_channels": 32, "num_self_attention_layers": 2,
		"max_seq_len": 300, "max_latents": 60, "vocab_size": 40}}`, 3,
		func(ctx context.Context, a *tensor.Arena, net perceiver.Network, items []int) (tensor.Tensor, error) {
			var ids [][]int
			for _, i := range items {
				r := rand.New(rand.NewPCG(uint64(i), 5))
				seq := make([]int, 290)
				for j := range seq {
					seq[j] = r.IntN(40)
				}
				ids = append(ids, seq)
			}
			return net.(*perceiver.CausalLM).Forward(ctx, a, ids, 240, nil)
		}},
}

// result runs a subject and returns the values of each item.
func result(t testing.TB, s subject, net perceiver.Network, items []int) [][]float32 {
	t.Helper()
	var a tensor.Arena
	y, err := s.run(context.Background(), &a, net, items)
	if err != nil {
		t.Fatal(err)
	}
	out := make([][]float32, len(items))
	for i := range items {
		out[i] = append([]float32(nil), y.At(i).Data...)
	}
	return out
}

func sameBits(t *testing.T, what string, got, want []float32) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d values, want %d", what, len(got), len(want))
	}
	for i := range got {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			t.Fatalf("%s: value %d is %v, want %v to the bit", what, i, got[i], want[i])
		}
	}
}

// TestSameBits: an input's answer has the same bits whatever shares its batch, whatever the
// block size and the number of threads.
func TestSameBits(t *testing.T) {
	threads := kernel.Threads()
	defer kernel.SetThreads(threads)
	for _, s := range subjects {
		for _, w := range ways {
			t.Run(s.name+"/"+w.name, func(t *testing.T) {
				kernel.SetThreads(1)
				net := build(t, s.config, w.opt)
				var alone [][]float32
				for i := range s.n {
					alone = append(alone, result(t, s, net, []int{i})[0])
				}
				for _, n := range []int{2, 3} {
					kernel.SetThreads(n)
					for _, items := range [][]int{{0, 1}, {1, 0, s.n - 1, 1}} {
						for k, got := range result(t, s, net, items) {
							sameBits(t, fmt.Sprintf("%d threads, batch %v, item %d", n, items, k), got, alone[items[k]])
						}
					}
				}
				for _, block := range []int{1, 448} {
					opt := w.opt
					opt.Block = block
					other := build(t, s.config, opt)
					for k, got := range result(t, s, other, []int{0, 1}) {
						sameBits(t, fmt.Sprintf("blocks of %d, item %d", block, k), got, alone[k])
					}
				}
			})
		}
	}
}

// TestConcurrent: one network serves many passes at a time.
func TestConcurrent(t *testing.T) {
	for _, s := range subjects {
		net := build(t, s.config, perceiver.Options{})
		want := result(t, s, net, []int{0})[0]
		var wg sync.WaitGroup
		got := make([][]float32, 4)
		for g := range got {
			wg.Go(func() {
				var a tensor.Arena
				if y, err := s.run(context.Background(), &a, net, []int{0}); err == nil {
					got[g] = y.At(0).Data
				}
			})
		}
		wg.Wait()
		for _, y := range got {
			sameBits(t, s.name, y, want)
		}
	}
}

// TestFastEqualsPlain: the algebra changes results by rounding only.
func TestFastEqualsPlain(t *testing.T) {
	for _, s := range subjects {
		t.Run(s.name, func(t *testing.T) {
			fast := result(t, s, build(t, s.config, perceiver.Options{}), []int{0, 1})
			plain := result(t, s, build(t, s.config, perceiver.Options{Plain: true}), []int{0, 1})
			for i := range plain {
				scale := 0.0
				for _, x := range plain[i] {
					scale = max(scale, math.Abs(float64(x)))
				}
				for j, x := range plain[i] {
					if d := math.Abs(float64(fast[i][j] - x)); d > 2e-5*scale {
						t.Fatalf("item %d value %d: fast %v, plain %v", i, j, fast[i][j], x)
					}
				}
			}
		})
	}
}

// TestNarrow: narrower arithmetic gives about the same, and the same bits in any company.
func TestNarrow(t *testing.T) {
	for _, dt := range []kernel.DType{kernel.BF16, kernel.Int8, kernel.F16W, kernel.BF16W} {
		for _, s := range subjects {
			t.Run(dt.String()+"/"+s.name, func(t *testing.T) {
				want := result(t, s, build(t, s.config, perceiver.Options{}), []int{0})[0]
				net, err := weights.Bind(weights.Random(7), func(w weights.Scope) (perceiver.Network, error) {
					return perceiver.Load([]byte(s.config), w, perceiver.Options{})
				}, weights.Options{DType: dt})
				if err != nil {
					t.Fatal(err)
				}
				both := result(t, s, net, []int{1, 0})
				got := result(t, s, net, []int{0})[0]
				sameBits(t, "in company", both[1], got)
				var off, size float64
				for i, x := range want {
					d := float64(got[i] - x)
					off, size = off+d*d, size+float64(x)*float64(x)
				}
				if r := math.Sqrt(off / size); r > 0.1 {
					t.Errorf("off by %.1f%%", 100*r)
				}
			})
		}
	}
}

// TestDropped: rows that the mask drops do not matter, and leaving them out gives the same up to
// rounding.
func TestDropped(t *testing.T) {
	net := build(t, small("PerceiverModel", `"d_model": 12, "num_cross_attention_heads": 1`), perceiver.Options{}).(*perceiver.Model)
	x := random(1, 1, 300, 12)
	mask := make([]float32, 300)
	for i := range 250 {
		mask[i] = 1
	}
	forward := func(rows tensor.Tensor, mask [][]float32) []float32 {
		var a tensor.Arena
		y, err := net.Forward(t.Context(), &a, perceiver.Matrices(rows), mask)
		if err != nil {
			t.Fatal(err)
		}
		return append([]float32(nil), y.Data...)
	}
	masked := forward(x, [][]float32{mask})
	for i := 250 * 12; i < len(x.Data); i++ {
		x.Data[i] = -x.Data[i] + 3
	}
	sameBits(t, "other values under the mask", forward(x, [][]float32{mask}), masked)
	short := forward(tensor.Of(x.Data[:250*12], 1, 250, 12), nil)
	for i := range short {
		if d := math.Abs(float64(short[i] - masked[i])); d > 1e-5 {
			t.Fatalf("value %d: %v without the rows, %v with them masked", i, short[i], masked[i])
		}
	}
}

// TestPermuted: a Perceiver does not care about the order of its rows.
func TestPermuted(t *testing.T) {
	net := build(t, small("PerceiverModel", `"d_model": 12, "num_cross_attention_heads": 4`), perceiver.Options{}).(*perceiver.Model)
	x := random(1, 1, 300, 12)
	y := tensor.New(1, 300, 12)
	for to, from := range rand.New(rand.NewPCG(1, 1)).Perm(300) {
		copy(y.At(0).Row(to), x.At(0).Row(from))
	}
	var a tensor.Arena
	p, err := net.Forward(t.Context(), &a, append(perceiver.Matrices(x), perceiver.Matrices(y)...), nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range p.At(0).Data {
		if d := math.Abs(float64(v - p.At(1).Data[i])); d > 1e-4 {
			t.Fatalf("value %d: %v in order, %v permuted", i, v, p.At(1).Data[i])
		}
	}
}

// TestCancel: a pass stops at the next layer or block when its context ends, wherever it is.
func TestCancel(t *testing.T) {
	for _, s := range subjects {
		t.Run(s.name, func(t *testing.T) {
			net := build(t, s.config, perceiver.Options{})
			run := func(stop int) (calls int, err error) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				ctx = perceiver.WithProgress(ctx, func(string, int, int) {
					if calls++; calls == stop {
						cancel()
					}
				})
				var a tensor.Arena
				_, err = s.run(ctx, &a, net, []int{0, 1})
				return calls, err
			}
			all, err := run(0)
			if err != nil || all < 3 {
				t.Fatalf("%d layers and blocks, %v", all, err)
			}
			for stop := 1; stop < all; stop++ {
				if calls, err := run(stop); err != context.Canceled || calls != stop {
					t.Errorf("cancelled at %d of %d: went on to %d, %v", stop, all, calls, err)
				}
			}
		})
	}
}
