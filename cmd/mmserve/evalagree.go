package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/mmserve/mmserve/pipeline"
)

// agreement counts, task by task, where models of other arithmetics choose as the reference
// does; with --against.
type agreement struct {
	others []pipeline.Model
	rows   []pipeline.Precision // one for each of others
}

// choose notes one more task: pick gives a model's choices for item i of n.
func (ev *evaluator) choose(task string, n int, pick func(m pipeline.Model, i int) ([]string, error)) error {
	ag := ev.against
	counts := make([]pipeline.TaskAgreement, len(ag.others))
	var mu sync.Mutex
	failed, first, err := ev.each(n, func(i int) error {
		want, err := pick(ev.model, i)
		if err != nil {
			return err
		}
		for k, m := range ag.others {
			got, err := pick(m, i)
			if err != nil {
				return err
			}
			mu.Lock()
			counts[k].N += len(want)
			for j, w := range want {
				if j < len(got) && got[j] == w {
					counts[k].Same++
				}
			}
			mu.Unlock()
		}
		return nil
	})
	if err != nil {
		return err
	}
	ev.faults(task, failed, n, first)
	for k, c := range counts {
		if c.Task = task; c.N > 0 {
			ag.rows[k].Tasks = append(ag.rows[k].Tasks, c)
		}
	}
	return nil
}

// agreeOnClasses compares the best classes of a head.
func (ev *evaluator) agreeOnClasses(task, head string, items []sample) error {
	return ev.choose(task, len(items), func(m pipeline.Model, i int) ([]string, error) {
		p, err := m.Predict(ev.ctx, items[i].item(), pipeline.PredictOptions{Top: 1})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", items[i].name, err)
		}
		if c := classesOf(p, head); len(c) > 0 {
			return []string{c[0].Label}, nil
		}
		return nil, nil
	})
}

// agreeOnBytes compares the likeliest byte of every mask of the windows of text at starts.
func (ev *evaluator) agreeOnBytes(task string, text []byte, starts []int) error {
	return ev.choose(task, len(starts), func(m pipeline.Model, i int) ([]string, error) {
		w := text[starts[i] : starts[i]+maskWindow]
		p, err := m.Predict(ev.ctx, pipeline.Item{Parts: []pipeline.Part{pipeline.TextPart(masked(w))}}, pipeline.PredictOptions{Top: 1})
		if err != nil {
			return nil, err
		}
		var best []string
		for _, m := range p.Masks {
			best = append(best, m.Candidates[0].Label)
		}
		return best, nil
	})
}

// write prints the agreement: JSON rows as pipeline/precision-default.jsonl holds them, or a
// Markdown table of tasks by arithmetics.
func (ag *agreement) write(w io.Writer, asJSON bool) error {
	if asJSON {
		for _, r := range ag.rows {
			if err := json.NewEncoder(w).Encode(r); err != nil {
				return err
			}
		}
		return nil
	}
	_, err := io.WriteString(w, pipeline.AgreementMarkdown(ag.rows))
	return err
}

// tasksThatChoose are the tasks that --against can compare.
func tasksThatChoose(tasks []evalTask) []evalTask {
	return slices.DeleteFunc(slices.Clone(tasks), func(t evalTask) bool {
		return strings.HasPrefix(t.name, "emoji_") || strings.HasSuffix(t.name, "_to_picture")
	})
}
