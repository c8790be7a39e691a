package main

import (
	"context"

	"github.com/mmserve/mmserve/models"
	"github.com/mmserve/mmserve/pipeline"
)

// builtinName is the name of the model in the binary.
const builtinName = "default"

// openBuiltin loads the model in the binary.
func openBuiltin(ctx context.Context, opt pipeline.Options) (pipeline.Model, error) {
	return pipeline.OpenFS(ctx, models.Default(), opt)
}

// addBuiltin serves the model in the binary.
func addBuiltin(store *pipeline.Store, opt pipeline.Options) {
	store.Add(builtinName, func(ctx context.Context) (pipeline.Model, error) { return openBuiltin(ctx, opt) })
}
