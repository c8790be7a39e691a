package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/mmserve/mmserve/pipeline"
)

// repeated is a flag that may be given several times.
type repeated []string

func (r *repeated) String() string     { return strings.Join(*r, ",") }
func (r *repeated) Set(s string) error { *r = append(*r, s); return nil }

// generate streams the text that a conditioned language model puts after a prompt.
func generate(ctx context.Context, e *env, fs *flag.FlagSet, args []string) error {
	var m modelFlags
	m.register(fs)
	var images, stop repeated
	fs.Var(&images, "image", "`FILE` for an <image> mark of the prompt, in order; may be repeated")
	fs.Var(&stop, "stop", "`TEXT` that ends the answer; may be repeated")
	prompt := fs.String("prompt", "", "the prompt, with <image> where a file goes; files without a mark go first")
	var opt pipeline.GenerateOptions
	fs.IntVar(&opt.MaxTokens, "max-tokens", 64, "most tokens of the answer")
	fs.Float64Var(&opt.Temperature, "temperature", 0, "0 takes the likeliest token, above draws")
	fs.IntVar(&opt.TopK, "top-k", 0, "draw among that many likeliest tokens; 0 means all")
	fs.Float64Var(&opt.TopP, "top-p", 0, "draw among the likeliest tokens that make up this share; 0 means all")
	fs.Uint64Var(&opt.Seed, "seed", 0, "seed of the draw")
	rest, err := parse(fs, args)
	if err != nil {
		return err
	}
	images, opt.Stop = append(images, rest...), stop
	if len(images) == 0 && *prompt == "" {
		return usagef("neither --image nor --prompt given")
	}
	model, err := m.open(ctx, e)
	if err != nil {
		return err
	}
	g, ok := model.(pipeline.Generator)
	if !ok {
		return fmt.Errorf("%s: %w: it has no language model", model.Info().Architecture, pipeline.ErrNoTask)
	}
	it, done, err := openItem(images, "")
	if err != nil {
		return err
	}
	defer done()
	_, err = g.Generate(ctx, pipeline.Prompt{Text: *prompt, Parts: it.Parts}, opt, func(text string) error {
		_, err := io.WriteString(e.stdout, text)
		return err
	})
	fmt.Fprintln(e.stdout)
	return err
}
