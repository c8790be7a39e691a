package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/pipeline"
)

// indexName is the file that search keeps beside what it indexed.
const indexName = ".mmserve-index.json"

// searchIndex is the on-disk index of a directory: one vector a file. A file that has changed
// is embedded again.
type searchIndex struct {
	Model string                 `json:"model"` // digest or name: vectors of another are of no use
	Files map[string]indexedFile `json:"files"`
}

type indexedFile struct {
	Size   int64     `json:"size"`
	Time   int64     `json:"time_ns"`
	Vector []float32 `json:"vector,omitempty"` // absent for what the model cannot read
}

func search(ctx context.Context, e *env, flags *flag.FlagSet, args []string) error {
	var m modelFlags
	m.register(flags)
	top := flags.Int("top", 5, "how many files to show")
	asJSON := flags.Bool("json", false, "print one JSON array")
	operands, err := parse(flags, args)
	if err != nil {
		return err
	}
	if len(operands) != 2 {
		return usagef("want DIR and QUERY (a file or words), got %d operands", len(operands))
	}
	model, err := m.open(ctx, e)
	if err != nil {
		return err
	}
	dir, query := operands[0], operands[1]
	index, err := updateIndex(withProgress(ctx, e), e, model, dir)
	if err != nil {
		return err
	}
	q, err := embedQuery(ctx, model, query)
	if err != nil {
		return err
	}
	var names []string
	var vectors [][]float32
	for name, f := range index.Files {
		if f.Vector != nil {
			names, vectors = append(names, name), append(vectors, f.Vector)
		}
	}
	type hit struct {
		File  string  `json:"file"`
		Score float64 `json:"score"`
	}
	hits := []hit{}
	for _, i := range nearest(scores(q, vectors), *top) {
		score := 0.0
		for k := range q {
			score += float64(q[k]) * float64(vectors[i][k])
		}
		hits = append(hits, hit{filepath.Join(dir, names[i]), score})
	}
	if *asJSON {
		return json.NewEncoder(e.stdout).Encode(hits)
	}
	for _, h := range hits {
		if _, err := fmt.Fprintf(e.stdout, "%6.3f  %s\n", h.Score, h.File); err != nil {
			return err
		}
	}
	return nil
}

// embedQuery embeds a file, or words when there is no file of that name.
func embedQuery(ctx context.Context, model pipeline.Model, query string) ([]float32, error) {
	it := pipeline.Item{Parts: []pipeline.Part{pipeline.TextPart(query)}}
	if _, err := os.Stat(query); err == nil {
		item, done, err := openItem([]string{query})
		if err != nil {
			return nil, err
		}
		defer done()
		it = item
	}
	enc, err := model.Encode(ctx, it, pipeline.EncodeOptions{Outputs: []string{pipeline.OutputPooled}})
	if err != nil {
		return nil, err
	}
	return unitVector(enc.Pooled.Data), nil
}

// updateIndex embeds what is new or changed below dir and writes the index again.
func updateIndex(ctx context.Context, e *env, model pipeline.Model, dir string) (*searchIndex, error) {
	path := filepath.Join(dir, indexName)
	id := model.Info().Name + " " + model.Info().Digest
	old := searchIndex{}
	if b, err := os.ReadFile(path); err == nil {
		if json.Unmarshal(b, &old) != nil || old.Model != id {
			old = searchIndex{}
		}
	}
	index := &searchIndex{Model: id, Files: map[string]indexedFile{}}
	changed := false
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		if !d.Type().IsRegular() || strings.HasPrefix(d.Name(), ".") {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		entry := indexedFile{Size: info.Size(), Time: info.ModTime().UnixNano()}
		if had, ok := old.Files[name]; ok && had.Size == entry.Size && had.Time == entry.Time {
			index.Files[name] = had
			return nil
		}
		changed = true
		v, err := embedQuery(ctx, model, file)
		if err != nil {
			if media.CodeOf(err) == "" && !errors.Is(err, pipeline.ErrInput) {
				return err
			}
			fmt.Fprintf(e.stderr, "left out: %v\n", err)
		}
		entry.Vector = v
		index.Files[name] = entry
		return nil
	})
	if err != nil {
		return nil, err
	}
	if !changed && len(index.Files) == len(old.Files) {
		return index, nil
	}
	return index, output(e, path, func(w io.Writer) error { return json.NewEncoder(w).Encode(index) })
}
