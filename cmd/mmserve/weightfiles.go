package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/mmserve/mmserve/pipeline"
	"github.com/mmserve/mmserve/weights"
)

func importWeights(_ context.Context, e *env, fs *flag.FlagSet, args []string) error {
	paths, err := parse(fs, args)
	if err != nil {
		return err
	}
	if len(paths) != 2 {
		return usagef("want IN and OUT, got %d operands", len(paths))
	}
	if err := weights.Import(paths[0], paths[1]); err != nil {
		return err
	}
	s, err := weights.Inspect(paths[1])
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(e.stdout, "%s: %d tensors, %d parameters, %d bytes\n", paths[1], len(s.Tensors), s.Parameters, s.Bytes)
	return err
}

// inspection is the JSON of inspect.
type inspection struct {
	Architecture string      `json:"architecture,omitempty"`
	Known        bool        `json:"known,omitempty"`       // the architecture loads here
	Composition  []string    `json:"composition,omitempty"` // of a native directory, for people
	Tensors      []inspected `json:"tensors"`
	Parameters   int64       `json:"parameters"`
	Bytes        int64       `json:"bytes"`
}

// inspected is one tensor of inspect.
type inspected struct {
	Name  string        `json:"name"`
	DType weights.DType `json:"dtype"`
	Shape []int         `json:"shape"`
}

// describe fills in what a directory says of itself.
func (in *inspection) describe(path string) error {
	d, err := pipeline.ReadDir(path)
	if err != nil {
		return err
	}
	in.Architecture, in.Known = d.Arch, pipeline.Known(d.Arch)
	in.Composition, err = d.Explain()
	return err
}

func inspect(_ context.Context, e *env, fs *flag.FlagSet, args []string) error {
	asJSON := fs.Bool("json", false, "print one JSON object")
	paths, err := parse(fs, args)
	if err != nil {
		return err
	}
	if len(paths) != 1 {
		return usagef("want one FILE or DIR, got %d operands", len(paths))
	}
	var in inspection
	if st, err := os.Stat(paths[0]); err == nil && st.IsDir() {
		if err := in.describe(paths[0]); err != nil {
			fmt.Fprintf(e.stderr, "note: %v; the weights alone are shown\n", err)
		}
	}
	s, err := weights.Inspect(paths[0])
	if err != nil {
		return err
	}
	in.Parameters, in.Bytes, in.Tensors = s.Parameters, s.Bytes, []inspected{}
	for _, t := range s.Tensors {
		in.Tensors = append(in.Tensors, inspected{t.Name, t.DType, t.Shape})
	}
	if *asJSON {
		return json.NewEncoder(e.stdout).Encode(in)
	}
	if in.Architecture != "" {
		fmt.Fprintf(e.stdout, "architecture %s\n", in.Architecture)
		if !in.Known {
			fmt.Fprintln(e.stdout, "it does not load here: no recipe of that name")
		}
	}
	for _, line := range in.Composition {
		fmt.Fprintln(e.stdout, line)
	}
	w := tabwriter.NewWriter(e.stdout, 0, 4, 2, ' ', 0)
	for _, t := range in.Tensors {
		fmt.Fprintf(w, "%s\t%s\t%v\n", t.Name, t.DType, t.Shape)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(e.stdout, "%d tensors, %d parameters, %d bytes\n", len(in.Tensors), in.Parameters, in.Bytes)
	return err
}
