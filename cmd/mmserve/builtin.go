package main

import (
	"errors"

	"github.com/mmserve/mmserve/pipeline"
)

// builtinName is the name of the model in the binary.
const builtinName = "default"

func addBuiltin(store *pipeline.Store, opt pipeline.Options) error {
	return errors.New("no model given: use --models NAME=DIR")
}
