package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/mmserve/mmserve/modality"
)

func modalities(_ context.Context, e *env, fs *flag.FlagSet, args []string) error {
	asJSON := fs.Bool("json", false, "print one JSON array, with the JSON Schema of each medium's options")
	if _, err := parse(fs, args); err != nil {
		return err
	}
	infos := modality.Infos()
	if *asJSON {
		enc := json.NewEncoder(e.stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(infos)
	}
	w := tabwriter.NewWriter(e.stdout, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tFILES\tPOSITIONS\tABOUT")
	for _, m := range infos {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", m.Name, strings.Join(m.Extensions, " "), m.Position, m.Doc)
	}
	return w.Flush()
}
