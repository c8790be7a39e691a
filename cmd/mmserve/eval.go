package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/pipeline"
)

// evalLine is one result of eval.
type evalLine struct {
	Task   string   `json:"task"`
	Metric string   `json:"metric"`
	Value  float64  `json:"value"`
	N      int      `json:"n"`
	Beside string   `json:"beside,omitempty"` // what to compare with: chance, a simpler model
	Failed int      `json:"failed,omitempty"` // items that gave an error; they count as wrong
	Sample []string `json:"examples,omitempty"`
}

// evaluator runs one model over data sets.
type evaluator struct {
	ctx   context.Context
	model pipeline.Model
	split string
	only  []string
	emit  func(evalLine) error
}

func eval(ctx context.Context, e *env, fs *flag.FlagSet, args []string) error {
	var m modelFlags
	m.register(fs)
	asJSON := fs.Bool("json", false, "print one JSON object a task")
	split := fs.String("split", "", "items of this split; empty: all that are not marked train or val")
	tasks := fs.String("tasks", "", "comma-separated tasks to run; empty: all that the directory has data for")
	dirs, err := parse(fs, args)
	if err != nil {
		return err
	}
	if len(dirs) != 1 {
		return usagef("want one DATA_DIR, got %d operands", len(dirs))
	}
	model, err := m.open(ctx, e)
	if err != nil {
		return err
	}
	if len(present(dirs[0])) == 0 {
		return fmt.Errorf("%s: none of cifar10, emoji, esc10, fsdd, shapes3d, text is there", dirs[0])
	}
	if m.machine.threads == 0 {
		kernel.SetThreads(1) // items run side by side instead
	}
	ev := &evaluator{ctx: ctx, model: model, split: *split}
	if *tasks != "" {
		ev.only = strings.Split(*tasks, ",")
	}
	ev.emit = func(l evalLine) error {
		if *asJSON {
			return json.NewEncoder(e.stdout).Encode(l)
		}
		_, err := fmt.Fprintf(e.stdout, "%-22s %-26s %8.4f  n=%d", l.Task, l.Metric, l.Value, l.N)
		if err == nil && l.Failed > 0 {
			_, err = fmt.Fprintf(e.stdout, "  failed=%d", l.Failed)
		}
		if err == nil && l.Beside != "" {
			_, err = fmt.Fprintf(e.stdout, "  (%s)", l.Beside)
		}
		for _, s := range l.Sample {
			if err == nil {
				_, err = fmt.Fprintf(e.stdout, "\n    %s", s)
			}
		}
		if err == nil {
			_, err = fmt.Fprintln(e.stdout)
		}
		return err
	}
	return ev.run(dirs[0])
}

// run does every task that the directory and the model have.
func (ev *evaluator) run(dir string) error {
	at := func(parts ...string) string { return filepath.Join(append([]string{dir}, parts...)...) }
	classes := []struct {
		task, head string
		read       func() ([]sample, error)
	}{
		{"cifar10", "cifar10", func() ([]sample, error) { return readCIFAR(at("cifar10"), ev.split) }},
		{"digits", "digit", func() ([]sample, error) { return readDigits(at("fsdd"), ev.split) }},
		{"esc10", "esc10", func() ([]sample, error) { return readESC(at("esc10"), ev.split) }},
		{"shapes", "shape", func() ([]sample, error) {
			all, err := readShapes(at("shapes3d"), ev.split)
			return slices.DeleteFunc(all, func(s sample) bool { return s.label == "other" }), err
		}},
		{"snips", "snips", func() ([]sample, error) { return readTSV(at("text", "snips_intents.tsv"), ev.split, "") }},
		{"clinc150", "clinc150", func() ([]sample, error) { return readTSV(at("text", "clinc150_intents.tsv"), ev.split, "oos") }},
		{"language", "language", func() ([]sample, error) { return readTSV(at("text", "udhr_langid.tsv"), ev.split, "") }},
	}
	for _, c := range classes {
		if !ev.asked(c.task) {
			continue
		}
		items, err := c.read()
		if missing(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", c.task, err)
		}
		if err := ev.classify(c.task, c.head, items); err != nil {
			return err
		}
	}
	if err := ev.maskedBytes(at("text", "tinyshakespeare.txt")); err != nil {
		return err
	}
	return ev.emoji(dir)
}

func (ev *evaluator) asked(task string) bool {
	return len(ev.only) == 0 || slices.Contains(ev.only, task)
}

// item makes a pipeline item of a sample.
func (s sample) item() pipeline.Item {
	if s.text {
		return pipeline.Item{Parts: []pipeline.Part{pipeline.TextPart(string(s.data))}}
	}
	return pipeline.Item{Parts: []pipeline.Part{{Input: media.Bytes(s.name, s.data)}}}
}

// each runs f over n items on all cores and returns how many failed. An ended context is the
// only error.
func (ev *evaluator) each(n int, f func(i int) error) (failed int, err error) {
	var next, bad atomic.Int64
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && ev.ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				if f(i) != nil {
					bad.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return int(bad.Load()), ev.ctx.Err()
}

// classify measures the share of items whose best class is their label.
func (ev *evaluator) classify(task, head string, items []sample) error {
	if len(items) == 0 {
		return nil
	}
	var right atomic.Int64
	failed, err := ev.each(len(items), func(i int) error {
		p, err := ev.model.Predict(ev.ctx, items[i].item(), pipeline.PredictOptions{Top: 1})
		if err != nil {
			return err
		}
		if best := bestOf(p, head); best == items[i].label {
			right.Add(1)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return ev.emit(evalLine{Task: task, Metric: "accuracy", Value: float64(right.Load()) / float64(len(items)), N: len(items), Failed: failed})
}

// bestOf is the best class of a head; of the only task, for a model without heads.
func bestOf(p *pipeline.Prediction, head string) string {
	for _, h := range p.Heads {
		if h.Task == head && len(h.Classes) > 0 {
			return h.Classes[0].Label
		}
	}
	if len(p.Heads) == 0 && len(p.Classes) > 0 {
		return p.Classes[0].Label
	}
	return ""
}
