package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"strings"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/pipeline"
)

func plan(ctx context.Context, e *env, fs *flag.FlagSet, args []string) error {
	var m modelFlags
	m.register(fs)
	fs.Lookup("model").Usage = "`DIR` of the model whose rows and FLOPs are counted; empty: what a medium's adapter does with its default options"
	asJSON := fs.Bool("json", false, "print one JSON object a file")
	decode := fs.Bool("decode", false, "also decode, and report what was really found")
	files, err := parse(fs, args)
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return usagef("no file given")
	}
	// A person looks at their own files here: TIFF, which a server leaves off, is read.
	p := modality.Probing{Decode: *decode, Options: map[string]json.RawMessage{"image": json.RawMessage(`{"tiff": true}`)}}
	var model pipeline.Model
	if m.dir != "" {
		if model, err = m.open(ctx, e); err != nil {
			return err
		}
	}
	failed := false
	for _, path := range files {
		if err := ctx.Err(); err != nil {
			return err
		}
		r := probeFile(ctx, path, p, model)
		failed = failed || r.Error != nil
		if *asJSON {
			err = json.NewEncoder(e.stdout).Encode(r)
		} else {
			err = printReport(e, r)
		}
		if err != nil {
			return err
		}
	}
	if failed && !*asJSON {
		return errSilent
	}
	return nil
}

// probeFile plans one file. A model, unless nil, says what rows it makes of the file and what
// they cost it.
func probeFile(ctx context.Context, path string, p modality.Probing, model pipeline.Model) modality.Report {
	refuse := func(err error) modality.Report {
		return modality.Report{File: path, Error: planError(err)}
	}
	in, closer, err := media.File(path)
	if err != nil {
		return refuse(err)
	}
	defer closer.Close()
	var plan pipeline.Plan
	if model != nil {
		if plan, err = pipeline.PlanPart(ctx, model, pipeline.Part{Input: in}); err != nil {
			return refuse(err)
		}
		if plan.Modality == "array" || !p.Decode {
			return modality.Report{File: path, Cost: &plan.Cost, Flops: plan.FLOPs}
		}
	}
	r := modality.Probe(ctx, in, p)
	r.File = path
	if model != nil && r.Error == nil {
		r.Modality, r.Notes, r.Flops = plan.Modality, plan.Notes, plan.FLOPs
		r.Rows, r.RowChannels, r.DecodedBytes = plan.Rows, plan.RowChannels, plan.DecodedBytes
	}
	return r
}

// planError gives an error the code it carries, or that of what does not fit a model.
func planError(err error) *media.Error {
	if errors.Is(err, pipeline.ErrInput) && media.CodeOf(err) == "" {
		return media.Errorf(media.Mismatch, "%v", err)
	}
	return modality.AsError(err)
}

func printReport(e *env, r modality.Report) error {
	if r.Error != nil {
		_, err := fmt.Fprintf(e.stdout, "%s: %s: %v\n", r.File, r.Error.Code, r.Error)
		return err
	}
	c := r.Cost
	facts := []string{c.MediaType}
	add := func(ok bool, format string, args ...any) {
		if ok {
			facts = append(facts, fmt.Sprintf(format, args...))
		}
	}
	add(c.Width > 0, "%d×%d pixels", c.Width, c.Height)
	add(c.Frames > 1, "%d frames", c.Frames)
	add(c.SampleRate > 0, "%d Hz, %d channels", c.SampleRate, c.Channels)
	add(c.Seconds > 0, "%.3g s", c.Seconds)
	add(c.Points > 0, "%d points", c.Points)
	add(true, "%d×%d rows", c.Rows, c.RowChannels)
	add(c.DecodedBytes > 0, "%.1f MiB decoded", float64(c.DecodedBytes)/(1<<20))
	add(r.Flops > 0, "%.2f GFLOP", r.Flops/1e9)
	if r.Facts != nil {
		b, err := json.Marshal(r.Facts)
		if err != nil {
			return err
		}
		facts = append(facts, string(b))
	}
	facts = append(facts, c.Notes...)
	_, err := fmt.Fprintf(e.stdout, "%s: %s: %s\n", r.File, c.Modality, strings.Join(facts, ", "))
	return err
}
