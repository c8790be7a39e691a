package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/mmserve/mmserve/pipeline"
	"github.com/mmserve/mmserve/tensor"
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
	Wanted       bool        `json:"wanted,omitempty"`      // there is no weight file: the tensors it would hold
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

// describe fills in what a directory says of itself, and the tensors it wants when it has no
// weights.
func (in *inspection) describe(ctx context.Context, path string) error {
	d, err := pipeline.ReadDir(path)
	if err != nil {
		return err
	}
	in.Architecture, in.Known = d.Arch, pipeline.Known(d.Arch)
	if in.Composition, err = d.Explain(); err != nil || len(in.Composition) == 0 {
		return err
	}
	if _, err := os.Stat(filepath.Join(path, "model.safetensors")); !missing(err) {
		return err
	}
	wanted, err := d.Wanted(ctx, pipeline.Options{})
	if err != nil {
		return err
	}
	in.Wanted = true
	for _, t := range wanted {
		n := int64(tensor.Size(t.Shape))
		in.Parameters, in.Bytes = in.Parameters+n, in.Bytes+4*n
		in.Tensors = append(in.Tensors, inspected{t.Name, t.DType, t.Shape})
	}
	return nil
}

// weigh fills in what a weight file holds.
func (in *inspection) weigh(path string) error {
	s, err := weights.Inspect(path)
	if err != nil {
		return err
	}
	in.Parameters, in.Bytes = s.Parameters, s.Bytes
	for _, t := range s.Tensors {
		in.Tensors = append(in.Tensors, inspected{t.Name, t.DType, t.Shape})
	}
	return nil
}

func inspect(ctx context.Context, e *env, fs *flag.FlagSet, args []string) error {
	asJSON := fs.Bool("json", false, "print one JSON object")
	schema := fs.Bool("schema", false, "print the JSON Schema of model.json")
	paths, err := parse(fs, args)
	if err != nil {
		return err
	}
	if *schema {
		_, err := e.stdout.Write(pipeline.NativeSchema())
		return err
	}
	if len(paths) != 1 {
		return usagef("want one FILE or DIR, got %d operands", len(paths))
	}
	in := inspection{Tensors: []inspected{}}
	if st, err := os.Stat(paths[0]); err == nil && st.IsDir() {
		if err := in.describe(ctx, paths[0]); err != nil {
			if _, native := os.Stat(filepath.Join(paths[0], "model.json")); native == nil {
				return err
			}
			fmt.Fprintf(e.stderr, "note: %v; the weights alone are shown\n", err)
		}
	}
	if !in.Wanted {
		if err := in.weigh(paths[0]); err != nil {
			return err
		}
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
	if in.Wanted {
		fmt.Fprintln(e.stdout, "no model.safetensors; it would hold:")
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
