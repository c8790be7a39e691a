package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/mmserve/mmserve/internal/feed"
	"github.com/mmserve/mmserve/pipeline"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// encodeOutputs are the values of --output.
var encodeOutputs = []string{pipeline.OutputLatents, pipeline.OutputByteArray, pipeline.OutputPooled, pipeline.OutputSoftTokens, "all"}

func encode(ctx context.Context, e *env, fs *flag.FlagSet, args []string) error {
	var m modelFlags
	m.register(fs)
	out := fs.String("output", pipeline.OutputLatents, "what to write: "+strings.Join(encodeOutputs, ", "))
	format := fs.String("format", "json", strings.Join(encodingFormats(), ", "))
	var to feedFlags
	to.register(fs)
	file := fs.String("o", "", "`FILE` to write; standard output when empty")
	var texts textFlag
	fs.Var(&texts, "text", "encode this `TEXT`; twice for a pair")
	options := fs.String("options", "", "options of the files' adapters as `JSON`, such as {\"patch\": 8} of an image or {\"grids\": [[24, 24]]} of an array of tokens")
	verbose := fs.Bool("verbose", false, "say on stderr what was detected, cropped, resampled, dropped")
	paths, err := parse(fs, args)
	if err != nil {
		return err
	}
	if !slices.Contains(encodeOutputs, *out) {
		return usagef("--output %q: want one of %s", *out, strings.Join(encodeOutputs, ", "))
	}
	if len(paths) == 0 && len(texts) == 0 {
		return usagef("no input given")
	}
	if *options != "" && !json.Valid([]byte(*options)) {
		return usagef("--options: no JSON value")
	}
	if err := to.parse(); err != nil {
		return err
	}
	consumer := to.consumer(*format)
	if consumer {
		*out = pipeline.OutputSoftTokens
	}
	write, err := encodingWriter(*format, *out, to.stored)
	if err != nil {
		return err
	}
	model, err := m.open(ctx, e)
	if err != nil {
		return err
	}
	if consumer {
		if write, err = to.writer(*format, model.Info()); err != nil {
			return err
		}
	}
	it, done, err := openItem(ctx, e, paths, texts...)
	if err != nil {
		return err
	}
	defer done()
	if *options != "" {
		for i := range paths {
			it.Parts[i].Options = json.RawMessage(*options)
		}
	}
	enc, err := model.Encode(withProgress(ctx, e), it, pipeline.EncodeOptions{Outputs: []string{*out}})
	if err != nil {
		return err
	}
	if *verbose {
		fmt.Fprintf(e.stderr, "%s (%s): %d×%d rows\n", enc.Plan.Modality, enc.Plan.MediaType, enc.Plan.Rows, enc.Plan.RowChannels)
		for _, n := range enc.Notes {
			fmt.Fprintln(e.stderr, n)
		}
	}
	return output(e, *file, func(w io.Writer) error { return write(w, enc) })
}

// named is one tensor of an encoding.
type named struct {
	name string
	t    tensor.Tensor
}

// tensorsOf lists the tensors that an encoding holds.
func tensorsOf(enc *pipeline.Encoding) []named {
	var out []named
	for _, n := range []named{
		{pipeline.OutputLatents, enc.Latents}, {pipeline.OutputPooled, enc.Pooled},
		{pipeline.OutputByteArray, enc.ByteArray}, {pipeline.OutputSoftTokens, enc.SoftTokens},
	} {
		if n.t.Data != nil {
			out = append(out, n)
		}
	}
	return out
}

// encodingFormats are the values of --format.
func encodingFormats() []string {
	return append([]string{"json", "npy", "safetensors", "raw", "pt"}, feed.Formats()...)
}

// encodingWriter returns the writer of a format, which stores numbers as dt. Formats of one
// tensor refuse "all".
func encodingWriter(format, out string, dt weights.DType) (func(io.Writer, *pipeline.Encoding) error, error) {
	single := func(write func(io.Writer, tensor.Tensor) error) (func(io.Writer, *pipeline.Encoding) error, error) {
		if out == "all" {
			return nil, usagef("--format %s holds one tensor; choose one --output, or json or safetensors", format)
		}
		return func(w io.Writer, enc *pipeline.Encoding) error {
			all := tensorsOf(enc)
			if len(all) == 0 {
				return fmt.Errorf("the model has no %s", out)
			}
			return write(w, all[0].t)
		}, nil
	}
	switch format {
	case "json":
		return writeJSON, nil
	case "safetensors":
		return func(w io.Writer, enc *pipeline.Encoding) error {
			m := map[string]tensor.Tensor{}
			for _, n := range tensorsOf(enc) {
				m[n.name] = n.t
			}
			return weights.WriteSafetensors(w, m, dt, nil)
		}, nil
	case "npy":
		return single(func(w io.Writer, t tensor.Tensor) error { return weights.WriteNPY(w, t, dt) })
	case "raw":
		return single(weights.WriteRaw)
	case "pt":
		return single(func(w io.Writer, t tensor.Tensor) error { return weights.WriteTorch(w, t, dt) })
	}
	if _, ok := feed.Known(format); ok {
		return nil, nil // made once the model is there
	}
	return nil, usagef("--format %q: want one of %s", format, strings.Join(encodingFormats(), ", "))
}

// jsonTensor is a tensor in JSON: its shape and its values, row-major.
type jsonTensor struct {
	Shape []int     `json:"shape"`
	Data  []float32 `json:"data"`
}

func writeJSON(w io.Writer, enc *pipeline.Encoding) error {
	v := map[string]any{"plan": enc.Plan}
	for _, n := range tensorsOf(enc) {
		v[n.name] = jsonTensor{n.t.Shape, n.t.Data}
	}
	if len(enc.Notes) > 0 {
		v["notes"] = enc.Notes
	}
	return json.NewEncoder(w).Encode(v)
}
