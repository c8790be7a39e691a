package main

import (
	"context"
	"flag"
	"fmt"
	"text/tabwriter"
)

// config prints the effective settings and where each came from.
func config(_ context.Context, e *env, fs *flag.FlagSet, args []string) error {
	s := newSettings(fs)
	if err := s.load(args); err != nil {
		return err
	}
	w := tabwriter.NewWriter(e.stdout, 0, 4, 2, ' ', 0)
	fs.VisitAll(func(f *flag.Flag) {
		origin := s.origin[f.Name]
		if origin == "" {
			origin = "default"
		}
		fmt.Fprintf(w, "%s:\t%s\t# %s\n", f.Name, f.Value, origin)
	})
	return w.Flush()
}
