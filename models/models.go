// Package models holds the default model, embedded in the binary: model.json, weights and the
// model card. tools/train made it; models/default/README.md says how, of what and how well.
package models

import (
	"embed"
	"io/fs"
)

//go:embed default/model.json default/model.safetensors default/README.md
var files embed.FS

// Default is the directory of the default model.
func Default() fs.FS {
	sub, err := fs.Sub(files, "default")
	if err != nil {
		panic("models: " + err.Error()) // the directory is embedded above
	}
	return sub
}
