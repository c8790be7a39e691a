package main

import (
	"context"
	"flag"
	"io"
	"os"

	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/pipeline"
	"github.com/mmserve/mmserve/weights"
)

func preprocess(ctx context.Context, e *env, fs *flag.FlagSet, args []string) error {
	config := fs.String("config", "", "preprocessor_config.json `FILE`")
	file := fs.String("o", "", "`FILE` to write, an .npy array of float32; standard output when empty")
	paths, err := parse(fs, args)
	if err != nil {
		return err
	}
	if *config == "" {
		return usagef("--config preprocessor_config.json is missing")
	}
	if len(paths) != 1 {
		return usagef("want one IMAGE, got %d operands", len(paths))
	}
	text, err := os.ReadFile(*config)
	if err != nil {
		return err
	}
	in, closer, err := media.File(paths[0])
	if err != nil {
		return err
	}
	defer closer.Close()
	px, err := pipeline.Preprocess(ctx, text, in)
	if err != nil {
		return err
	}
	return output(e, *file, func(w io.Writer) error { return weights.WriteNPY(w, px, weights.F32) })
}
