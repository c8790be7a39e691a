package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/mmserve/mmserve/pipeline"
)

// apart are the tasks whose models answer each input by itself; others take several as one,
// such as a pair of frames or of sentences.
var apart = []string{"several", "image_classification"}

func predict(ctx context.Context, e *env, fs *flag.FlagSet, args []string) error {
	var m modelFlags
	m.register(fs)
	top := fs.Int("top", 5, "how many classes or bytes to show")
	asJSON := fs.Bool("json", false, "print one JSON object an answer")
	var texts textFlag
	fs.Var(&texts, "text", "the `TEXT`; [MASK] stands for a byte to fill in; twice for a pair")
	together := fs.Bool("together", false, "several inputs are parts of one thing, such as a picture and its sound")
	latents := fs.String("latents", "", "latents kept in `FILE` (.npy, .safetensors) in place of their input; an INPUT or --text goes along where the decoder asks with it")
	file := fs.String("o", "", "`FILE` for optical flow (.flo or .png), reconstructed frames (a directory) and sound")
	paths, err := parse(fs, args)
	if err != nil {
		return err
	}
	if len(paths) == 0 && len(texts) == 0 && *latents == "" {
		return usagef("no input given")
	}
	if *top < 1 {
		return usagef("--top: %d is below 1", *top)
	}
	model, err := m.open(ctx, e)
	if err != nil {
		return err
	}
	show := func(name string, p *pipeline.Prediction) error {
		if *file != "" {
			if err := writeArtifacts(e, *file, p); err != nil {
				return err
			}
		}
		if *asJSON {
			return json.NewEncoder(e.stdout).Encode(struct {
				File string `json:"file,omitempty"`
				*pipeline.Prediction
			}{name, p})
		}
		if name != "" {
			fmt.Fprintf(e.stdout, "%s:\n", name)
		}
		return printPrediction(e.stdout, p)
	}
	if *latents != "" {
		items, err := keptItems(model, *latents)
		if err != nil {
			return err
		}
		if len(items) > 1 && *file != "" {
			return usagef("-o takes the output of one input, not of %d", len(items))
		}
		for _, kept := range items {
			it, done, err := openItem(ctx, e, paths, texts...)
			if err != nil {
				return err
			}
			it.Latents = kept.Latents
			d, err := model.(pipeline.LatentDecoder).Decode(withProgress(ctx, e), it, pipeline.DecodeOptions{Top: *top})
			done()
			if err != nil {
				return fmt.Errorf("%s: %w", *latents, err)
			}
			if err := show(kept.ID, d.Prediction); err != nil {
				return err
			}
		}
		return nil
	}
	several := len(paths)+len(texts) > 1 && !*together && slices.Contains(apart, model.Info().Task)
	if several && *file != "" {
		return usagef("-o takes the output of one input, not of %d", len(paths)+len(texts))
	}
	answer := func(name string, paths, texts []string) error {
		it, done, err := openItem(ctx, e, paths, texts...)
		if err != nil {
			return err
		}
		defer done()
		p, err := model.Predict(withProgress(ctx, e), it, pipeline.PredictOptions{Top: *top, Caption: true})
		if err != nil {
			return err
		}
		return show(name, p)
	}
	if !several {
		return answer("", paths, texts)
	}
	named := append(slices.Clone(paths), texts...)
	at := -1
	return inputs(ctx, e, "predict", named, func(input string) error {
		if at++; at < len(paths) {
			return answer(input, []string{input}, nil)
		}
		return answer(fmt.Sprintf("%q", input), nil, []string{input})
	})
}

// keptItems reads a file of latents that a model is to decode.
func keptItems(model pipeline.Model, path string) ([]pipeline.Item, error) {
	info := model.Info()
	if _, ok := model.(pipeline.LatentDecoder); !ok {
		return nil, fmt.Errorf("%s: %w: latents are not enough for it", info.Architecture, pipeline.ErrNoTask)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	f, err := pipeline.ReadLatents(data, math.MaxInt)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", path, err)
	case f.Digest != "" && !pipeline.SameDigest(info.Digest, f.Digest):
		return nil, fmt.Errorf("%s: latents of model %s, this is %s", path, f.Digest, info.Digest)
	case len(f.Latents) == 0:
		return nil, fmt.Errorf("%s: holds no latents", path)
	}
	items := make([]pipeline.Item, len(f.Latents))
	for i, x := range f.Latents {
		items[i] = pipeline.Item{ID: f.Names[i], Latents: x}
	}
	return items, nil
}

// printPrediction writes a prediction for people.
func printPrediction(out io.Writer, p *pipeline.Prediction) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	for _, c := range p.Classes {
		fmt.Fprintf(w, "%5.1f%%\t%s\n", 100*c.Score, c.Label)
	}
	for _, h := range p.Heads {
		fmt.Fprintf(w, "%s\t%s\n", h.Task, listClasses(h.Classes))
	}
	for _, mask := range p.Masks {
		fmt.Fprintf(w, "position %d\t%s\n", mask.Position, listClasses(mask.Candidates))
	}
	if p.Text != "" {
		fmt.Fprintf(w, "text\t%s\n", p.Text)
	}
	if p.Caption != "" {
		fmt.Fprintf(w, "caption\t%s\n", p.Caption)
	}
	if f := p.Flow; f != nil {
		fmt.Fprintf(w, "flow %d×%d, mean (%.2f, %.2f) pixels, longest %.2f\n", f.Width, f.Height, f.MeanX, f.MeanY, f.Longest)
	}
	if r := p.Reconstruction; r != nil {
		fmt.Fprintf(w, "reconstructed frames %v, %d samples of sound\n", r.FrameShape, r.Samples)
	}
	for _, n := range p.Notes {
		fmt.Fprintf(w, "note\t%s\n", n)
	}
	return w.Flush()
}

// listClasses writes classes in one line, best first.
func listClasses(classes []pipeline.Class) string {
	var out []string
	for _, c := range classes {
		out = append(out, fmt.Sprintf("%s %.1f%%", c.Label, 100*c.Score))
	}
	return strings.Join(out, ", ")
}
