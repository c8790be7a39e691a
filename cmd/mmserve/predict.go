package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/mmserve/mmserve/pipeline"
)

func predict(ctx context.Context, e *env, fs *flag.FlagSet, args []string) error {
	var m modelFlags
	m.register(fs)
	top := fs.Int("top", 5, "how many classes or bytes to show")
	asJSON := fs.Bool("json", false, "print one JSON object")
	var texts textFlag
	fs.Var(&texts, "text", "the text; [MASK] stands for a byte to fill in; twice for a pair")
	file := fs.String("o", "", "`FILE` for optical flow (.flo or .png), reconstructed frames (a directory) and sound")
	paths, err := parse(fs, args)
	if err != nil {
		return err
	}
	if len(paths) == 0 && len(texts) == 0 {
		return usagef("no input given")
	}
	if *top < 1 {
		return usagef("--top: %d is below 1", *top)
	}
	model, err := m.open(ctx, e)
	if err != nil {
		return err
	}
	it, done, err := openItem(paths, texts...)
	if err != nil {
		return err
	}
	defer done()
	p, err := model.Predict(withProgress(ctx, e), it, pipeline.PredictOptions{Top: *top})
	if err != nil {
		return err
	}
	if *file != "" {
		if err := writeArtifacts(e, *file, p); err != nil {
			return err
		}
	}
	if *asJSON {
		return json.NewEncoder(e.stdout).Encode(p)
	}
	return printPrediction(e.stdout, p)
}

// printPrediction writes a prediction for people.
func printPrediction(out io.Writer, p *pipeline.Prediction) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	printClasses(w, p.Classes)
	for _, h := range p.Heads {
		fmt.Fprintf(w, "%s:\n", h.Task)
		printClasses(w, h.Classes)
	}
	for _, mask := range p.Masks {
		fmt.Fprintf(w, "position %d:", mask.Position)
		for _, c := range mask.Candidates {
			fmt.Fprintf(w, "\t%s %.1f%%", c.Label, 100*c.Score)
		}
		fmt.Fprintln(w)
	}
	if p.Text != "" {
		fmt.Fprintf(w, "%s\n", p.Text)
	}
	if p.Caption != "" {
		fmt.Fprintf(w, "%s\n", p.Caption)
	}
	if f := p.Flow; f != nil {
		fmt.Fprintf(w, "flow %d×%d, mean (%.2f, %.2f) pixels, longest %.2f\n", f.Width, f.Height, f.MeanX, f.MeanY, f.Longest)
	}
	if r := p.Reconstruction; r != nil {
		fmt.Fprintf(w, "reconstructed frames %v, %d samples of sound\n", r.FrameShape, r.Samples)
	}
	for _, n := range p.Notes {
		fmt.Fprintf(w, "note: %s\n", n)
	}
	return w.Flush()
}

func printClasses(w io.Writer, classes []pipeline.Class) {
	for _, c := range classes {
		fmt.Fprintf(w, "%5.1f%%\t%s\n", 100*c.Score, c.Label)
	}
}
