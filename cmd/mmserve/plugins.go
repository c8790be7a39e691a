package main

import (
	"context"
	"os"

	"github.com/mmserve/mmserve/modality/external"
)

// pluginsEnv names the directory of plug-ins; for serve it is the setting of that name.
const pluginsEnv = envPrefix + "PLUGINS"

// plugins makes the programs of the environment's directory modalities of a command. serve and
// config read their settings first.
func (c command) plugins(ctx context.Context) (done func(), err error) {
	dir := os.Getenv(pluginsEnv)
	if c.name == "serve" || c.name == "config" {
		dir = ""
	}
	return startPlugins(ctx, dir)
}

// startPlugins registers the plug-ins of a directory; done ends them. Without a directory there
// are none.
func startPlugins(ctx context.Context, dir string) (done func(), err error) {
	if dir == "" {
		return func() {}, nil
	}
	plugins, err := external.RegisterDir(ctx, dir)
	return func() {
		for _, p := range plugins {
			p.Close()
		}
	}, err
}
