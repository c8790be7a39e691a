package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/mmserve/mmserve/flamingo"
	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/perceiver"
	"github.com/mmserve/mmserve/pipeline"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// The models of the targets at their published sizes.
const (
	visionConfig   = `{"architectures": ["PerceiverForImageClassificationFourier"], "num_latents": 512, "d_latents": 1024, "num_blocks": 8, "num_self_attends_per_block": 6, "num_self_attention_heads": 8, "num_cross_attention_heads": 1, "num_labels": 1000}`
	languageConfig = `{"architectures": ["PerceiverForMaskedLM"], "num_latents": 256, "d_latents": 1280, "d_model": 768, "num_blocks": 1, "num_self_attends_per_block": 26, "num_self_attention_heads": 8, "num_cross_attention_heads": 8, "qk_channels": 256, "v_channels": 1280, "cross_attention_shape_for_attention": "kv", "vocab_size": 262, "max_position_embeddings": 2048}`
	flowConfig     = `{"architectures": ["PerceiverForOpticalFlow"], "num_latents": 2048, "d_latents": 512, "num_blocks": 1, "num_self_attends_per_block": 24, "num_self_attention_heads": 16, "num_cross_attention_heads": 1, "train_size": [368, 496]}`
	clipConfig     = `{"architectures": ["CLIPVisionModel"], "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 224, "patch_size": 14}`
	resampleConfig = `{"model_type": "openflamingo_perceiver_resampler", "dim": 1024}`
	// OpenFlamingo-3B's language model at its published widths, with 4 of its 24 layers.
	decodeConfig = `{"model_type": "openflamingo", "cross_attn_every_n_layers": 1, "media_token_id": 50278, "eoc_token_id": 50277, "pad_token_id": 50279,
		"vision_config": {"hidden_size": 1024},
		"lang_config": {"model_type": "mosaic_gpt", "vocab_size": 50280, "d_model": 2048, "n_heads": 16, "n_layers": 4, "mlp_ratio": 4, "max_seq_len": 2048, "alibi": true, "attn_qk_ln": true, "no_bias": true}}`
)

// targetParts are the parts of the table, in its order: memory is measured first, while nothing
// else has been loaded.
var targetParts = []struct {
	name    string
	measure func(context.Context, *benchTable) error
}{
	{"vision", visionTargets}, {"flow", flowTarget}, {"language", languageTargets}, {"kernels", kernelTargets},
	{"towers", towerTargets}, {"decode", decodeTarget}, {"default", defaultTargets}, {"load", loadTargets},
}

func targetNames() string {
	var names []string
	for _, p := range targetParts {
		names = append(names, p.name)
	}
	return strings.Join(names, ", ")
}

// targets measures everything of the table in docs/performance.md that needs no other runtime
// and prints it. Two sides of a ratio are timed in turn; shares of a peak are of the
// highest measured in the run, before, between and after.
func targets(ctx context.Context, e *env, parts, samples string) (err error) {
	chosen := map[string]bool{}
	for name := range strings.SplitSeq(parts, ",") {
		chosen[name] = true
		if name != "all" && !strings.Contains(", "+targetNames()+",", ", "+name+",") {
			return usagef("--targets %q: want all, or some of %s", name, targetNames())
		}
	}
	t := &benchTable{say: func(format string, args ...any) {
		fmt.Fprintf(e.stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
	}}
	if samples != "" {
		f, err := os.Create(samples)
		if err != nil {
			return err
		}
		defer func() { err = firstError(err, f.Close()) }()
		fmt.Fprintf(f, "goos: %s\ngoarch: %s\npkg: github.com/mmserve/mmserve\n", runtime.GOOS, runtime.GOARCH)
		t.samples = f
	}
	before := readLoad()
	for _, part := range targetParts {
		if !chosen["all"] && !chosen[part.name] {
			continue
		}
		if err := part.measure(ctx, t); err != nil {
			return err
		}
		debug.FreeOSMemory()
	}
	t.peaks()
	peaks := t.top
	machine := fmt.Sprintf("%s; %d of %d processors used, %s kernels, %s. Peaks: f32 %.0f, bf16 %.0f GFLOP/s, int8 %.0f GOP/s; memory read %.1f, copy %.1f GB/s.",
		processorName(), kernel.Threads(), runtime.NumCPU(), kernel.Set(), runtime.Version(), peaks.F32/1e9, peaks.BF16/1e9, peaks.Int8/1e9, peaks.Read/1e9, peaks.Copy/1e9)
	return t.write(e.stdout, machine, readLoad().others(before))
}

func firstError(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// forwardOf builds a model of a configuration with random weights; each call of forward is one
// pass of typical size, which costs flops.
func forwardOf(ctx context.Context, config string, opt pipeline.Options) (flops float64, forward func() error, err error) {
	d, err := pipeline.ReadConfig(".", []byte(config))
	if err != nil {
		return 0, nil, err
	}
	opt.Random = true
	m, err := pipeline.OpenDir(ctx, d, opt)
	if err != nil {
		return 0, nil, err
	}
	b, err := pipeline.AsBencher(m)
	if err != nil {
		return 0, nil, err
	}
	flops, run, err := b.Work(1)
	return flops, func() error { return run(ctx) }, err
}

// visionTargets measures memory first, while nothing else is loaded.
func visionTargets(ctx context.Context, t *benchTable) error {
	_, f32, err := forwardOf(ctx, visionConfig, pipeline.Options{})
	if err != nil {
		return err
	}
	err = t.add(benchRow{what: "vision-fourier f32, batch 1, peak memory of the process", gate: "330 MiB", hope: "260 MiB", unit: "MiB", less: true}, func(r *benchRow) error {
		resetPeakRSS()
		for range 2 {
			if err := f32(); err != nil {
				return err
			}
		}
		r.values, r.note = []float64{peakRSS()}, "forwards, weights loaded before"
		return nil
	})
	if err != nil {
		return err
	}
	_, bf16, err := forwardOf(ctx, visionConfig, pipeline.Options{DType: "bf16"})
	if err != nil {
		return err
	}
	_, int8, err := forwardOf(ctx, visionConfig, pipeline.Options{DType: "int8"})
	if err != nil {
		return err
	}
	err = t.add(benchRow{what: "vision-fourier bf16 against f32", gate: "1.75×", hope: "1.9×", unit: "×"}, func(r *benchRow) error {
		return t.ratios(r, 5, "Vision/f32", f32, "Vision/bf16", bf16)
	})
	if err != nil {
		return err
	}
	err = t.add(benchRow{what: "vision-fourier int8 against f32", gate: "2.6×", hope: "3.2×", unit: "×"}, func(r *benchRow) error {
		return t.ratios(r, 5, "Vision/f32", f32, "Vision/int8", int8)
	})
	if err != nil {
		return err
	}
	return t.add(benchRow{what: "vision-fourier f32, two callers at once against one at a time", gate: "1.0×", hope: "1.1×", unit: "×"}, func(r *benchRow) error {
		one, two := callers(f32, 2)
		return t.ratios(r, 4, "Callers/one-at-a-time", one, "Callers/two", two)
	})
}

// callers returns n runs of f after one another, and n at once.
func callers(f func() error, n int) (inTurn, atOnce func() error) {
	inTurn = func() error {
		for range n {
			if err := f(); err != nil {
				return err
			}
		}
		return nil
	}
	atOnce = func() error {
		errs := make([]error, n)
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() { errs[i] = f() })
		}
		wg.Wait()
		for _, err := range errs {
			if err != nil {
				return err
			}
		}
		return nil
	}
	return inTurn, atOnce
}

func flowTarget(ctx context.Context, t *benchTable) error {
	_, plain, err := forwardOf(ctx, flowConfig, pipeline.Options{Plain: true})
	if err != nil {
		return err
	}
	_, fast, err := forwardOf(ctx, flowConfig, pipeline.Options{})
	if err != nil {
		return err
	}
	return t.add(benchRow{what: "optical flow, one tile, f32, against the textbook formulation", gate: "1.8×", hope: "2.3×", unit: "×"}, func(r *benchRow) error {
		return t.ratios(r, 3, "Flow/plain", plain, "Flow/fast", fast)
	})
}

func languageTargets(ctx context.Context, t *benchTable) error {
	_, f32, err := forwardOf(ctx, languageConfig, pipeline.Options{})
	if err != nil {
		return err
	}
	_, bf16, err := forwardOf(ctx, languageConfig, pipeline.Options{DType: "bf16"})
	if err != nil {
		return err
	}
	return t.add(benchRow{what: "language bf16 against f32", gate: "1.75×", hope: "1.9×", unit: "×"}, func(r *benchRow) error {
		return t.ratios(r, 7, "Language/f32", f32, "Language/bf16", bf16)
	})
}

// shares times f several times, five at most, after each measurement of the machine's peaks and
// keeps its rate.
func (t *benchTable) shares(r *benchRow, name string, work float64, peak func(kernel.Rates) float64, f func() error) error {
	if err := f(); err != nil {
		return err
	}
	r.peak = peak
	for range 3 {
		t.peaks()
		for begin, i := time.Now(), 0; i < 5 && (i < 2 || time.Since(begin) < time.Second); i++ {
			s, err := t.timed(name, f)
			if err != nil {
				return err
			}
			r.values = append(r.values, work/s)
		}
	}
	r.note = fmt.Sprintf("median %.1f G/s", median(r.values)/1e9)
	return nil
}

func f32Peak(r kernel.Rates) float64 { return r.F32 }

func kernelTargets(_ context.Context, t *benchTable) error {
	for _, g := range []struct {
		m, k, n    int
		gate, hope string
	}{{512, 1024, 4096, "88 %", "93 %"}, {50176, 261, 261, "82 %", "88 %"}} {
		a, dst := wave(g.m*g.k), make([]float32, g.m*g.n)
		row := wave(g.k)
		w := kernel.Pack(g.n, g.k, kernel.F32, func(_ int, out []float32) { copy(out, row) })
		shape := fmt.Sprintf("%dx%dx%d", g.m, g.k, g.n)
		err := t.add(benchRow{what: fmt.Sprintf("f32 GEMM %d×%d×%d, share of the FMA peak", g.m, g.k, g.n), gate: g.gate, hope: g.hope, unit: "%"}, func(r *benchRow) error {
			return t.shares(r, "Gemm/f32/"+shape, 2*float64(g.m)*float64(g.k)*float64(g.n), f32Peak, func() error {
				kernel.Gemm(dst, g.n, a, g.k, g.m, w, kernel.Epilogue{})
				return nil
			})
		})
		if err != nil {
			return err
		}
	}
	const l, s, d = 512, 50176, 261
	args := &kernel.AttnArgs{Heads: 1, QK: d, V: d, Scale: 0.06, L: l, S: s, Q: wave(l * d), LDQ: d, K: wave(s * d), LDK: d, VV: wave(s * d), LDV: d, Out: make([]float32, l*d), LDO: d}
	return t.add(benchRow{what: "fused attention 512×50176×261, share of the FMA peak", gate: "80 %", hope: "88 %", unit: "%"}, func(r *benchRow) error {
		return t.shares(r, "Attention/f32/512x50176x261", 4.0*l*s*d, f32Peak, func() error {
			kernel.Attention(args)
			return nil
		})
	})
}

// wave makes n numbers of unit size that repeat nothing for long.
func wave(n int) []float32 {
	x := make([]float32, n)
	weights.Uniform(x, "input:bench", 0, 0, 1.7320508075688772)
	return x
}

func towerTargets(ctx context.Context, t *benchTable) error {
	for _, c := range []struct{ what, name, config string }{
		{"CLIP ViT-L/14 f32, share of the FMA peak", "CLIP-L14/f32", clipConfig},
		{"OpenFlamingo resampler f32, share of the FMA peak", "OpenFlamingoResampler/f32", resampleConfig},
	} {
		flops, f, err := forwardOf(ctx, c.config, pipeline.Options{})
		if err != nil {
			return err
		}
		err = t.add(benchRow{what: c.what, gate: "80 %", hope: "88 %", unit: "%"}, func(r *benchRow) error {
			return t.shares(r, c.name, flops, f32Peak, f)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// decodeTarget chooses tokens one after another with weights in bfloat16 and counts the bytes
// of weights that each must read.
func decodeTarget(_ context.Context, t *benchTable) error {
	config, err := flamingo.ParseConfig([]byte(decodeConfig))
	if err != nil {
		return err
	}
	m, err := weights.Bind(weights.Random(1), func(s weights.Scope) (*flamingo.Model, error) { return flamingo.New(s.At("lang_encoder"), config) }, weights.Options{DType: kernel.BF16W})
	if err != nil {
		return err
	}
	c := m.Config
	layer := 4*c.Width*c.Width + 2*c.Width*c.Hidden + 2*c.Width*c.Cross.Heads*c.Cross.HeadDim + 2*c.Width*c.Cross.Hidden
	bytes := 2 * float64(c.Layers*layer+c.Vocab*c.Width)
	var a tensor.Arena
	part := []flamingo.Part{{Seq: m.NewSequence(), Tokens: []int{c.Cross.MediaToken, 5, 6, 7, 8}}}
	if err := m.Condition(&a, part[0].Seq, tensor.Of(wave(64*1024), 1, 64, 1024)); err != nil {
		return err
	}
	step := func() error {
		mark := a.Mark()
		defer a.Release(mark)
		_, err := m.Forward(&a, part, false)
		part[0].Tokens = []int{9}
		return err
	}
	if err := step(); err != nil {
		return err
	}
	const tokens = 8
	return t.add(benchRow{what: "LM decode, bf16 weights, share of the read bandwidth", gate: "80 %", hope: "92 %", unit: "%"}, func(r *benchRow) error {
		return t.shares(r, "Decode/bf16w/8-tokens", tokens*bytes, func(p kernel.Rates) float64 { return p.Read }, func() error {
			for range tokens {
				if err := step(); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// defaultTargets answers one item of each medium with the default model on one core, from the
// file's bytes to the classes.
func defaultTargets(ctx context.Context, t *benchTable) error {
	threads, procs := kernel.Threads(), runtime.GOMAXPROCS(1)
	alone := func(n, p int) {
		kernel.SetThreads(n)
		runtime.GOMAXPROCS(p)
	}
	defer alone(threads, procs)
	alone(1, 1)
	m, err := openBuiltin(ctx, pipeline.Options{})
	if err != nil {
		return err
	}
	inputs, err := benchInputs()
	if err != nil {
		return err
	}
	for _, in := range inputs {
		f := func() error {
			_, err := m.Predict(ctx, in.item, pipeline.PredictOptions{})
			return err
		}
		err := t.add(benchRow{what: "default model, " + in.what + ", one core", gate: "15 ms", hope: "6 ms", unit: "s", less: true}, func(r *benchRow) error {
			r.note = "file bytes to classes"
			return t.times(r, 30, "Default/"+in.name, f)
		})
		if err != nil {
			return err
		}
	}
	alone(threads, procs)
	return t.add(benchRow{what: "default model, photos, two callers at once against one at a time", gate: "1.0×", hope: "1.1×", unit: "×"}, func(r *benchRow) error {
		photo := func() error {
			for range 20 {
				if _, err := m.Predict(ctx, inputs[0].item, pipeline.PredictOptions{}); err != nil {
					return err
				}
			}
			return nil
		}
		one, two := callers(photo, 2)
		return t.ratios(r, 5, "DefaultCallers/one-at-a-time", one, "DefaultCallers/two", two)
	})
}

// times runs f n times after a first one and keeps the times.
func (t *benchTable) times(r *benchRow, n int, name string, f func() error) error {
	if err := warm(f, f); err != nil {
		return err
	}
	for range n {
		s, err := t.timed(name, f)
		if err != nil {
			return err
		}
		r.values = append(r.values, s)
	}
	return nil
}

// loadTargets writes weight files of full size to the temporary directory, loads them while
// they are in the page cache, and removes them.
func loadTargets(ctx context.Context, t *benchTable) error {
	err := t.add(benchRow{what: "default model, load", gate: "100 ms", unit: "s", less: true}, func(r *benchRow) error {
		return t.times(r, 5, "Load/default", func() error {
			_, err := openBuiltin(ctx, pipeline.Options{})
			return err
		})
	})
	if err != nil {
		return err
	}
	for _, c := range []struct{ what, name, config, file, gate string }{
		{"vision-fourier, load", "Load/vision/safetensors", visionConfig, safetensorsName, "300 ms"},
		{"vision-fourier, load", "Load/vision/torch", visionConfig, torchName, "300 ms"},
		{"language-perceiver, load", "Load/language/safetensors", languageConfig, safetensorsName, "1.5 s"},
		{"language-perceiver, load", "Load/language/torch", languageConfig, torchName, "1.5 s"},
	} {
		dir, err := os.MkdirTemp("", "mmserve-bench-")
		if err != nil {
			return err
		}
		err = t.add(benchRow{what: c.what + " " + c.file + " from the page cache", gate: c.gate, unit: "s", less: true}, func(r *benchRow) error {
			size, err := writeModel(dir, c.config, c.file)
			if err != nil {
				return err
			}
			r.note = fmt.Sprintf("file of %d MiB", size>>20)
			return t.times(r, 5, c.name, func() error {
				_, err := pipeline.Open(ctx, dir, pipeline.Options{})
				debug.FreeOSMemory()
				return err
			})
		})
		os.RemoveAll(dir)
		if err != nil {
			return err
		}
	}
	return nil
}

// Names of published weight files.
const (
	safetensorsName = "model.safetensors"
	torchName       = "pytorch_model.bin"
)

// recorder is random weights that remember what was asked for.
type recorder struct {
	weights.Generator
	specs map[string]weights.Spec
}

// Fill implements weights.Generator.
func (r recorder) Fill(dst []float32, name string, shape []int, from int) {
	if from == 0 {
		r.note(name, shape)
	}
	r.Generator.Fill(dst, name, shape, from)
}

// benchLock guards every recorder: weights are filled by several workers.
var benchLock sync.Mutex

func (r recorder) note(name string, shape []int) {
	benchLock.Lock()
	defer benchLock.Unlock()
	r.specs[name] = weights.Spec{Name: name, DType: weights.F32, Shape: shape}
}

// writeModel writes a model directory of a Perceiver IO configuration with random weights in a
// file of that name, and returns the file's size.
func writeModel(dir, config, name string) (size int64, err error) {
	rec := recorder{weights.Random(1), map[string]weights.Spec{}}
	if _, err := weights.Bind(rec, func(s weights.Scope) (perceiver.Network, error) {
		return perceiver.Load([]byte(config), s, perceiver.Options{})
	}); err != nil {
		return 0, err
	}
	var specs []weights.Spec
	for _, s := range rec.specs {
		specs = append(specs, s)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o644); err != nil {
		return 0, err
	}
	f, err := os.Create(filepath.Join(dir, name))
	if err != nil {
		return 0, err
	}
	defer func() { err = firstError(err, f.Close()) }()
	src := weights.Seeded(specs...)
	if name == torchName {
		all := map[string]tensor.Tensor{}
		for _, s := range specs {
			raw, err := src.Load(s.Name)
			if err != nil {
				return 0, err
			}
			all[s.Name] = raw.Tensor()
		}
		err = weights.WriteTorchDict(f, all, weights.F32)
	} else {
		err = weights.CopySafetensors(f, src, nil)
	}
	if err != nil {
		return 0, err
	}
	return f.Seek(0, io.SeekCurrent)
}
