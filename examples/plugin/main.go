// Command plugin is a modality in a program of its own: build it, put it into a directory and
// name that to mmserve, which need not be rebuilt.
//
//	mkdir plugins && go build -o plugins/imu ./examples/plugin
//	MMSERVE_PLUGINS=plugins mmserve plan --decode walk.imu
//
// grid.py beside it is one without Go.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/mmserve/mmserve/examples/custommodality"
	"github.com/mmserve/mmserve/modality/external"
)

func main() {
	if err := external.Serve(context.Background(), custommodality.Open, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "imu:", err)
		os.Exit(1)
	}
}
