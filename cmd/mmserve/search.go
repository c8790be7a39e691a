package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/pipeline"
)

// searchHit is one file of an answer.
type searchHit struct {
	File     string  `json:"file"`
	Modality string  `json:"modality"`
	Score    float64 `json:"score"` // scalar product of unit vectors, −1..1
}

func search(ctx context.Context, e *env, flags *flag.FlagSet, args []string) error {
	var m modelFlags
	m.register(flags)
	top := flags.Int("top", 5, "how many files to show")
	flags.IntVar(top, "k", 5, "the same as --top")
	only := flags.String("only", "", "show only files of these media, separated by commas: image, audio, …")
	words := flags.Bool("text", false, "QUERY is words, even if a file has that name")
	file := flags.String("index", "", "`FILE` of the index; empty: "+indexName+" in DIR")
	asJSON := flags.Bool("json", false, "print one JSON array")
	operands, err := parse(flags, args)
	if err != nil {
		return err
	}
	if len(operands) != 2 || operands[1] == "" {
		return usagef("want DIR and QUERY (a file or words), got %q", operands)
	}
	if *top < 1 {
		return usagef("--top: %d is below 1", *top)
	}
	dir, query := operands[0], operands[1]
	if st, err := os.Stat(dir); err != nil {
		return err
	} else if !st.IsDir() {
		return usagef("%s is no directory; want DIR and QUERY", dir)
	}
	text, err := isWords(query, *words)
	if err != nil {
		return err
	}
	model, err := m.open(ctx, e)
	if err != nil {
		return err
	}
	media, err := knownMedia(*only, model)
	if err != nil {
		return err
	}
	var q []float32
	if text {
		q, _, err = embedItem(ctx, model, pipeline.Item{Parts: []pipeline.Part{pipeline.TextPart(query)}})
	} else {
		q, _, err = embedFile(ctx, model, query)
	}
	if err != nil {
		return fmt.Errorf("query %q: %w", query, err)
	}
	if *file == "" {
		*file = filepath.Join(dir, indexName)
	}
	if m.machine.threads == 0 {
		defer kernel.SetThreads(kernel.Threads())
		kernel.SetThreads(1) // files are embedded side by side instead
	}
	index, err := currentIndex(ctx, e, model, dir, *file)
	if err != nil {
		return err
	}
	hits := index.search(q, dir, *top, media)
	if *asJSON {
		return json.NewEncoder(e.stdout).Encode(hits)
	}
	w := tabwriter.NewWriter(e.stdout, 0, 4, 2, ' ', 0)
	for _, h := range hits {
		fmt.Fprintf(w, "%6.3f\t%s\t%s\n", h.Score, h.Modality, h.File)
	}
	return w.Flush()
}

// isWords reports whether a query is words: no file has that name, and it does not look like a
// file's name either.
func isWords(query string, said bool) (bool, error) {
	if said {
		return true, nil
	}
	_, err := os.Stat(query)
	if err == nil {
		return false, nil
	}
	ext := strings.ToLower(filepath.Ext(query))
	known := slices.ContainsFunc(modality.Infos(), func(i modality.Info) bool { return ext != "" && slices.Contains(i.Extensions, ext) })
	if known || !errors.Is(err, fs.ErrNotExist) && !strings.Contains(query, " ") {
		return false, fmt.Errorf("query: %w (with --text it is searched for as words)", err)
	}
	return true, nil
}

// knownMedia splits a list of media, which must be the model's.
func knownMedia(list string, model pipeline.Model) ([]string, error) {
	if list == "" {
		return nil, nil
	}
	known := model.Info().Modalities
	media := strings.Split(list, ",")
	for _, name := range media {
		if !slices.Contains(known, name) {
			return nil, usagef("--only: %q is none of the model's media: %s", name, strings.Join(known, ", "))
		}
	}
	return media, nil
}

// currentIndex reads the index of dir, brings it up to date and keeps it in file. An index that
// cannot be read is made anew; one that cannot be kept is used all the same.
func currentIndex(ctx context.Context, e *env, model pipeline.Model, dir, file string) (*searchIndex, error) {
	note := func(format string, args ...any) { fmt.Fprintf(e.stderr, format+"\n", args...) }
	info := model.Info()
	index, err := openIndex(file, info.Name+" "+info.Digest)
	if err != nil {
		note("the index is made anew: %v", err)
	}
	damaged := err != nil
	progress := func(string, int, int) {}
	if f, ok := terminal(e.stderr); ok {
		progress = (&progressLine{out: f, start: time.Now()}).show
	}
	before := index.unreadable()
	changed, err := index.update(ctx, model, dir, progress, note)
	if changed || damaged {
		if werr := output(e, file, index.write); werr != nil {
			note("the index is not kept: %v; --index FILE names another place", werr)
		}
	}
	if err != nil {
		return nil, err
	}
	const shown = 5
	var left []string
	for _, name := range index.unreadable() {
		if !slices.Contains(before, name) {
			left = append(left, name)
		}
	}
	for _, name := range left[:min(shown, len(left))] {
		note("left out: %s: %s", name, index.files[name].Fault)
	}
	if len(left) > shown {
		note("left out: %d more", len(left)-shown)
	}
	if len(index.files) == len(index.unreadable()) {
		return nil, fmt.Errorf("%s holds no file that the model can read", dir)
	}
	return index, nil
}

// unreadable lists the files without a vector, sorted.
func (x *searchIndex) unreadable() []string {
	var out []string
	for name, f := range x.files {
		if f.vector == nil {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// search returns the k files nearest to q, best first, equal ones by name; of some media, or of
// all for none.
func (x *searchIndex) search(q []float32, dir string, k int, media []string) []searchHit {
	hits := []searchHit{}
	for name, f := range x.files {
		if len(f.vector) == len(q) && (media == nil || slices.Contains(media, f.Modality)) {
			hits = append(hits, searchHit{filepath.Join(dir, filepath.FromSlash(name)), f.Modality, similarity(q, f.vector)})
		}
	}
	slices.SortFunc(hits, func(a, b searchHit) int {
		if a.Score != b.Score {
			if a.Score > b.Score {
				return -1
			}
			return 1
		}
		return strings.Compare(a.File, b.File)
	})
	return hits[:min(k, len(hits))]
}
