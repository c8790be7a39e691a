package main

import (
	"context"
	"encoding/json"
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
	asJSON := fs.Bool("json", false, "print one JSON object a file")
	paths, err := parse(fs, args)
	if err != nil {
		return err
	}
	if len(paths) == 0 {
		return usagef("no file given")
	}
	if *tokens < 1 || *temperature < 0 {
		return usagef("--max-tokens wants at least 1, --temperature at least 0")
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
	return inputs(ctx, e, "caption", paths, func(path string) error {
		it, done, err := openItem(ctx, e, []string{path})
		if err != nil {
			return err
		}
		defer done()
		out, err := g.Generate(ctx, pipeline.Prompt{Parts: it.Parts}, opt, nil)
		if err != nil {
			return err
		}
		if *asJSON {
			return json.NewEncoder(e.stdout).Encode(struct {
				File    string `json:"file"`
				Caption string `json:"caption"`
			}{path, out.Text})
		}
		if len(paths) > 1 {
			fmt.Fprintf(e.stdout, "%s: ", path)
		}
		_, err = fmt.Fprintln(e.stdout, out.Text)
		return err
	})
}
