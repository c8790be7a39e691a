// Command custommain reads media with a modality of one's own compiled in: a main of a few
// lines and one blank import. It prints what it finds in each file, one JSON object a line.
//
//	go run ./examples/custommain walk.imu cat.jpg
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	_ "github.com/mmserve/mmserve/examples/custommodality" // the one more import
	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/modality/media"
)

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "custommain:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, files []string, out io.Writer) error {
	for _, name := range files {
		in, closer, err := media.File(name)
		if err != nil {
			return err
		}
		err = json.NewEncoder(out).Encode(modality.Probe(ctx, in, modality.Probing{Decode: true}))
		closer.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
