package main

import (
	"context"
	"flag"
	"fmt"

	"github.com/mmserve/mmserve/pipeline"
)

func caption(ctx context.Context, e *env, fs *flag.FlagSet, args []string) error {
	var m modelFlags
	m.register(fs)
	tokens := fs.Int("max-tokens", 48, "most tokens of a caption")
	temperature := fs.Float64("temperature", 0, "0 takes the likeliest token, above draws")
	seed := fs.Uint64("seed", 0, "seed of the draw")
	paths, err := parse(fs, args)
	if err != nil {
		return err
	}
	if len(paths) == 0 {
		return usagef("no file given")
	}
	model, err := m.open(ctx, e)
	if err != nil {
		return err
	}
	g, ok := model.(pipeline.Generator)
	if !ok {
		return fmt.Errorf("%s: %w: a caption language model", model.Info().Architecture, pipeline.ErrNoTask)
	}
	opt := pipeline.GenerateOptions{MaxTokens: *tokens, Temperature: *temperature, Seed: *seed}
	for _, path := range paths {
		it, done, err := openItem([]string{path})
		if err != nil {
			return err
		}
		out, err := g.Generate(ctx, pipeline.Prompt{Parts: it.Parts}, opt, nil)
		done()
		if err != nil {
			return err
		}
		if len(paths) > 1 {
			fmt.Fprintf(e.stdout, "%s: ", path)
		}
		if _, err := fmt.Fprintln(e.stdout, out.Text); err != nil {
			return err
		}
	}
	return nil
}
