package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/mmserve/mmserve/pipeline"
)

// itemsFile lists further inputs of a case for verify --against: a JSON list of items, each a
// list of files, relative to the case.
const itemsFile = "items.json"

// against measures how far each arithmetic is from a reference one on the inputs of the cases.
func against(ctx context.Context, e *env, dirs []string, reference string, others []string, plain, asJSON bool) error {
	if !asJSON {
		fmt.Fprintf(e.stdout, "| model | dtype | inputs | latents: max abs | relative RMS | logits: max abs | relative RMS | same best class | its worst rank |\n")
		fmt.Fprintf(e.stdout, "| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n")
	}
	for _, dir := range dirs {
		name := filepath.Base(filepath.Clean(dir))
		var want []pipeline.Observation
		for _, dt := range append([]string{reference}, others...) {
			items, done := caseItems(ctx, e, dir)
			info, got, err := pipeline.ObserveCase(withProgress(ctx, e), dir, items, pipeline.Options{DType: dt, Plain: plain})
			done()
			if err != nil {
				return fmt.Errorf("%s: %s: %w", name, dt, err)
			}
			if want == nil {
				want = got
				continue
			}
			d, err := pipeline.Deviate(want, got)
			if err != nil {
				return fmt.Errorf("%s: %s: %w", name, dt, err)
			}
			row := pipeline.Precision{Model: name, Architecture: info.Architecture, DType: info.DType, Deviation: &d}
			if asJSON {
				err = json.NewEncoder(e.stdout).Encode(row)
			} else {
				_, err = fmt.Fprintln(e.stdout, row.Markdown())
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// caseItems returns what makes the further inputs of a case, and what closes their files.
func caseItems(ctx context.Context, e *env, dir string) (items func(pipeline.Model) ([]pipeline.Item, error), done func()) {
	var closers []func()
	items = func(m pipeline.Model) ([]pipeline.Item, error) {
		text, err := os.ReadFile(filepath.Join(dir, itemsFile))
		if missing(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		var list [][]string
		if err := json.Unmarshal(text, &list); err != nil {
			return nil, fmt.Errorf("%s: %w", itemsFile, err)
		}
		var all []pipeline.Item
		for _, files := range list {
			var it pipeline.Item
			if m.Info().Task == "fill_mask" {
				it, err = maskedItem(dir, files)
			} else {
				for i := range files {
					files[i] = filepath.Join(dir, files[i])
				}
				var closeFiles func()
				if it, closeFiles, err = openItem(ctx, e, files); err == nil {
					closers = append(closers, closeFiles)
				}
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", itemsFile, err)
			}
			it.ID = fmt.Sprint(files)
			all = append(all, it)
		}
		return all, nil
	}
	return items, func() {
		for _, c := range closers {
			c()
		}
	}
}

// maskedText is how much of a file's text a fill-mask model is asked about, in bytes.
const maskedText = 1500

// maskedItem is the beginning of text files with every seventh byte masked.
func maskedItem(dir string, files []string) (pipeline.Item, error) {
	var it pipeline.Item
	for _, file := range files {
		f, err := os.Open(filepath.Join(dir, file))
		if err != nil {
			return it, err
		}
		text, err := io.ReadAll(io.LimitReader(f, maskedText))
		f.Close()
		if err != nil {
			return it, err
		}
		it.Parts = append(it.Parts, pipeline.TextPart(masked(text)))
	}
	return it, nil
}
