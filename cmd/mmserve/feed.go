package main

import (
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/mmserve/mmserve/internal/feed"
	"github.com/mmserve/mmserve/pipeline"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// feedFlags say which language model soft tokens are for.
type feedFlags struct {
	target feed.Target
	sizes  string
	style  string
	stored weights.DType
	dtype  string
}

func (f *feedFlags) register(fs *flag.FlagSet) {
	fs.StringVar(&f.target.Name, "target", "", "`NAME` of the language model that soft tokens are for; its hidden size is checked where it is known")
	fs.IntVar(&f.target.Hidden, "hidden-size", 0, "hidden size of the target; 0 leaves it unchecked")
	fs.StringVar(&f.dtype, "store", "f32", "type of the numbers in npy, safetensors, pt and vllm formats: f32, f16 or bf16")
	fs.StringVar(&f.sizes, "image-sizes", "", "width×height of the pictures as `640x480,…`, which vllm-image-embeds sends along for MiniCPM-V")
	fs.StringVar(&f.style, "placeholders", "", "how hf writes pictures: openflamingo, idefics, idefics2, qwen_vl or minicpmv")
}

// parse checks the flags.
func (f *feedFlags) parse() error {
	types := map[string]weights.DType{"f32": weights.F32, "f16": weights.F16, "bf16": weights.BF16}
	dt, ok := types[strings.ToLower(f.dtype)]
	if !ok {
		return usagef("--store %q: want f32, f16 or bf16", f.dtype)
	}
	if f.target.Hidden < 0 {
		return usagef("--hidden-size: %d is negative", f.target.Hidden)
	}
	f.stored, f.target.DType = dt, dt
	return nil
}

// consumer reports whether a format is a language model server's.
func (f *feedFlags) consumer(format string) bool {
	_, ok := feed.Known(format)
	return ok
}

// writer checks, before anything is computed, that the model's soft tokens can be fed to the
// target, and returns the format's writer.
func (f *feedFlags) writer(format string, info pipeline.Info) (func(io.Writer, *pipeline.Encoding) error, error) {
	if err := feed.Check(format, info.SoftTokenKind, info.SoftTokenDim, f.target); err != nil {
		return nil, fmt.Errorf("--format %s: %w", format, err)
	}
	x := feed.Extra{Text: feed.Convention(f.style)}
	if f.style == "" {
		x.Text = feed.TextOf(info.Architecture)
	}
	for size := range strings.SplitSeq(f.sizes, ",") {
		if size == "" {
			continue
		}
		var s [2]int
		if n, err := fmt.Sscanf(size, "%dx%d", &s[0], &s[1]); n != 2 || err != nil || s[0] < 1 || s[1] < 1 {
			return nil, usagef("--image-sizes %q: want 640x480", size)
		}
		x.Sizes = append(x.Sizes, s)
	}
	return func(w io.Writer, enc *pipeline.Encoding) error {
		t := enc.SoftTokens
		n := info.SoftTokens
		if n < 1 || t.Data == nil || t.Rows()%n != 0 {
			return fmt.Errorf("soft tokens of shape %v, the model makes %d of a picture", t.Shape, n)
		}
		l := feed.Latents{Data: tensor.Of(t.Data, t.Rows()/n, n, t.Cols()), Kind: info.SoftTokenKind, Model: info.Name}
		return feed.Write(w, format, l, f.target, x)
	}, nil
}
