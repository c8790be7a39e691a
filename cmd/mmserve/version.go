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
	v := "devel"
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		v = info.Main.Version
	}
	_, err := fmt.Fprintf(e.stdout, "mmserve %s %s/%s %s kernels %s\n", v, runtime.GOOS, runtime.GOARCH, runtime.Version(), kernel.Set())
	return err
}
