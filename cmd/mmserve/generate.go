package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/mmserve/mmserve/pipeline"
)

// textList is a flag that may be given several times.
type textList []string

func (l *textList) String() string { return strings.Join(*l, ", ") }

// Set adds one value.
func (l *textList) Set(v string) error {
	*l = append(*l, v)
	return nil
}

// generate continues a prompt about media and writes the text as it comes.
func generate(ctx context.Context, e *env, fs *flag.FlagSet, args []string) error {
	var m modelFlags
	m.register(fs)
	var files, stop textList
	fs.Var(&files, "image", "`FILE` the prompt is about; several go in order")
	fs.Var(&stop, "stop", "`TEXT` that ends the answer; may be given several times")
	prompt := fs.String("prompt", "", "`TEXT` to continue, - for standard input; <image> marks where the files go, else they go first")
	var opt pipeline.GenerateOptions
	fs.IntVar(&opt.MaxTokens, "max-tokens", 64, "most tokens to generate")
	fs.Float64Var(&opt.Temperature, "temperature", 0, "0 takes the likeliest token, above draws")
	fs.IntVar(&opt.TopK, "top-k", 0, "draw among that many likeliest tokens; 0 for all")
	fs.Float64Var(&opt.TopP, "top-p", 0, "draw among the likeliest tokens that make up this share; 0 for all")
	fs.Uint64Var(&opt.Seed, "seed", 0, "seed of the draw")
	asJSON := fs.Bool("json", false, "print one JSON object when the text is whole")
	operands, err := parse(fs, args)
	if err != nil {
		return err
	}
	files, opt.Stop = append(files, operands...), stop
	if err := checkGeneration(opt, *prompt, files); err != nil {
		return err
	}
	text, err := promptText(e, *prompt)
	if err != nil {
		return err
	}
	model, err := m.open(ctx, e)
	if err != nil {
		return err
	}
	g, ok := model.(pipeline.Generator)
	if !ok {
		return fmt.Errorf("%s: %w: a language model", model.Info().Architecture, pipeline.ErrNoTask)
	}
	it, done, err := openItem(ctx, e, files)
	if err != nil {
		return err
	}
	defer done()
	emit := func(s string) error {
		_, err := io.WriteString(e.stdout, s)
		return err
	}
	if *asJSON {
		emit = nil
	}
	out, err := g.Generate(ctx, pipeline.Prompt{Text: text, Parts: it.Parts}, opt, emit)
	if err != nil {
		return err
	}
	if *asJSON {
		return json.NewEncoder(e.stdout).Encode(out)
	}
	return emit("\n")
}

// checkGeneration refuses flags that make no sense.
func checkGeneration(opt pipeline.GenerateOptions, prompt string, files []string) error {
	switch {
	case prompt == "" && len(files) == 0:
		return usagef("neither --prompt nor --image given")
	case opt.MaxTokens < 1:
		return usagef("--max-tokens: %d is below 1", opt.MaxTokens)
	case !(opt.Temperature >= 0 && opt.Temperature <= 100):
		return usagef("--temperature: %v: want 0 to 100", opt.Temperature)
	case opt.TopK < 0:
		return usagef("--top-k: %d is negative", opt.TopK)
	case !(opt.TopP >= 0 && opt.TopP <= 1):
		return usagef("--top-p: %v: want 0 to 1", opt.TopP)
	}
	return nil
}

// maxPrompt bounds a prompt read from standard input, in bytes.
const maxPrompt = 1 << 20

// promptText is the prompt; "-" reads it.
func promptText(e *env, prompt string) (string, error) {
	if prompt != "-" {
		return prompt, nil
	}
	b, err := io.ReadAll(io.LimitReader(e.stdin, maxPrompt+1))
	if err == nil && len(b) > maxPrompt {
		err = fmt.Errorf("--prompt: more than %d bytes: %w", maxPrompt, os.ErrInvalid)
	}
	return string(b), err
}
