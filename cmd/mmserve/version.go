package main

import (
	"context"
	"flag"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/mmserve/mmserve/internal/kernel"
)

func version(_ context.Context, e *env, fs *flag.FlagSet, args []string) error {
	if _, err := parse(fs, args); err != nil {
		return err
	}
	_, err := fmt.Fprintf(e.stdout, "mmserve %s %s/%s %s kernels %s\n", buildVersion(), runtime.GOOS, runtime.GOARCH, runtime.Version(), kernel.Set())
	return err
}

// buildVersion is the module's version as built, "devel" outside a release.
func buildVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}
