package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/mmserve/mmserve/pipeline"
)

// vectors embeds items into the model's shared space: unit vectors, nil for what failed.
func (ev *evaluator) vectors(items []sample) ([][]float32, int, error) {
	out := make([][]float32, len(items))
	failed, err := ev.each(len(items), func(i int) error {
		enc, err := ev.model.Encode(ev.ctx, items[i].item(), pipeline.EncodeOptions{Outputs: []string{pipeline.OutputPooled}})
		if err != nil {
			return err
		}
		out[i] = unitVector(enc.Pooled.Data)
		return nil
	})
	return out, failed, err
}

func unitVector(x []float32) []float32 {
	sum := 0.0
	for _, v := range x {
		sum += float64(v) * float64(v)
	}
	k := float32(1 / math.Max(math.Sqrt(sum), 1e-12))
	out := make([]float32, len(x))
	for i, v := range x {
		out[i] = v * k
	}
	return out
}

// nearest returns the indexes of the k vectors most like q, best first.
func nearest(q []float32, all [][]float32, k int) []int {
	type scored struct {
		i int
		s float64
	}
	var list []scored
	for i, v := range all {
		if v == nil || len(v) != len(q) {
			continue
		}
		s := 0.0
		for j := range q {
			s += float64(q[j]) * float64(v[j])
		}
		list = append(list, scored{i, s})
	}
	slices.SortStableFunc(list, func(a, b scored) int {
		switch {
		case a.s > b.s:
			return -1
		case a.s < b.s:
			return 1
		}
		return 0
	})
	var out []int
	for _, s := range list[:min(k, len(list))] {
		out = append(out, s.i)
	}
	return out
}

// emoji measures retrieval by name, captions, and search across media.
func (ev *evaluator) emoji(dir string) error {
	emojiDir := filepath.Join(dir, "emoji")
	if _, err := os.Stat(emojiDir); missing(err) {
		return nil
	}
	for _, part := range []struct {
		split, task string
		top         int
	}{{"test_style", "emoji_style", 1}, {"test_concept", "emoji_concept", 5}} {
		if !ev.asked(part.task) {
			continue
		}
		pictures, err := readEmoji(emojiDir, func(s string) bool { return s == part.split })
		if err != nil {
			return fmt.Errorf("emoji: %w", err)
		}
		if err := ev.byName(part.task, pictures, part.top); err != nil {
			return err
		}
	}
	if ev.asked("emoji_caption") {
		if err := ev.captions(emojiDir); err != nil {
			return err
		}
	}
	return ev.across(dir, emojiDir)
}

// byName searches pictures by their names.
func (ev *evaluator) byName(task string, pictures []sample, top int) error {
	if len(pictures) == 0 {
		return nil
	}
	images, failed, err := ev.vectors(pictures)
	if err != nil {
		return err
	}
	var names []sample
	seen := map[string]bool{}
	for _, p := range pictures {
		if !seen[p.label] {
			seen[p.label] = true
			names = append(names, sample{data: []byte(p.caption), text: true, label: p.label})
		}
	}
	queries, _, err := ev.vectors(names)
	if err != nil {
		return err
	}
	right := 0
	for i, q := range queries {
		if slices.ContainsFunc(nearest(q, images, top), func(k int) bool { return pictures[k].label == names[i].label }) {
			right++
		}
	}
	return ev.emit(evalLine{
		Task: task, Metric: fmt.Sprintf("name_to_picture_top%d", top), Value: float64(right) / float64(len(names)), N: len(names), Failed: failed,
		Beside: fmt.Sprintf("chance %.4f, among %d pictures", float64(top)/float64(len(names)), len(pictures)),
	})
}

// captions measures how often a picture in an unseen style gets exactly its name.
func (ev *evaluator) captions(dir string) error {
	pictures, err := readEmoji(dir, func(s string) bool { return s == "test_style" })
	if err != nil || len(pictures) == 0 {
		return err
	}
	var right, any atomic.Int64
	failed, err := ev.each(len(pictures), func(i int) error {
		p, err := ev.model.Predict(ev.ctx, pictures[i].item(), pipeline.PredictOptions{Top: 1, Caption: true})
		if err != nil {
			return err
		}
		if p.Caption != "" {
			any.Add(1)
		}
		if strings.TrimSpace(p.Caption) == pictures[i].caption {
			right.Add(1)
		}
		return nil
	})
	if err != nil || any.Load() == 0 {
		return err
	}
	return ev.emit(evalLine{Task: "emoji_caption", Metric: "exact_match", Value: float64(right.Load()) / float64(len(pictures)), N: len(pictures), Failed: failed})
}

// soundNames says which emoji shows what a sound is of; classes without one are left out.
var soundNames = map[string][]string{
	"baby_cry": {"baby"}, "clock_tick": {"clock"}, "dog_bark": {"dog", "dog face"}, "fire_crackling": {"fire"},
	"helicopter": {"helicopter"}, "person_sneeze": {"sneezing face"}, "rain": {"rain"}, "rooster": {"rooster"},
	"sea_waves": {"water wave", "wave"},
}

// across searches all emoji pictures by sounds and by shapes.
func (ev *evaluator) across(dir, emojiDir string) error {
	if !ev.asked("sound_to_picture") && !ev.asked("shape_to_picture") {
		return nil
	}
	pictures, err := readEmoji(emojiDir, func(string) bool { return true })
	if err != nil {
		return fmt.Errorf("emoji: %w", err)
	}
	images, _, err := ev.vectors(pictures)
	if err != nil {
		return err
	}
	sounds, err := readESC(filepath.Join(dir, "esc10"), ev.split)
	if err != nil && !missing(err) {
		return fmt.Errorf("esc10: %w", err)
	}
	err = ev.search("sound_to_picture", sounds, pictures, images, func(s sample) []string { return soundNames[s.label] })
	if err != nil {
		return err
	}
	shapes, err := readShapes(filepath.Join(dir, "shapes3d"), ev.split)
	if err != nil && !missing(err) {
		return fmt.Errorf("shapes3d: %w", err)
	}
	return ev.search("shape_to_picture", shapes, pictures, images, func(s sample) []string { return []string{s.caption} })
}

// search measures how often one of the five nearest pictures shows what a query is of.
// Queries that no picture shows are left out.
func (ev *evaluator) search(task string, queries, pictures []sample, images [][]float32, words func(sample) []string) error {
	const top, examples = 5, 6
	targets := make([]int, 0, len(queries)) // pictures that show each query
	queries = slices.DeleteFunc(slices.Clone(queries), func(q sample) bool {
		n := 0
		for _, p := range pictures {
			if slices.ContainsFunc(words(q), p.matchesWord) {
				n++
			}
		}
		if n > 0 {
			targets = append(targets, n)
		}
		return n == 0
	})
	if len(queries) == 0 || !ev.asked(task) {
		return nil
	}
	vectors, failed, err := ev.vectors(queries)
	if err != nil {
		return err
	}
	line := evalLine{Task: task, Metric: "top5", N: len(queries), Failed: failed}
	right, chance := 0, 0.0
	told := map[string]bool{}
	for i, q := range vectors {
		chance += 1 - math.Pow(1-float64(targets[i])/float64(len(pictures)), top)
		found := nearest(q, images, top)
		hit := slices.ContainsFunc(found, func(k int) bool { return slices.ContainsFunc(words(queries[i]), pictures[k].matchesWord) })
		if hit {
			right++
		}
		if what := words(queries[i])[0]; hit && !told[what] && len(line.Sample) < examples {
			told[what] = true
			var names []string
			for _, k := range found {
				names = append(names, pictures[k].caption)
			}
			line.Sample = append(line.Sample, what+" → "+strings.Join(names, ", "))
		}
	}
	line.Value = float64(right) / float64(len(queries))
	line.Beside = fmt.Sprintf("chance %.4f, among %d pictures", chance/float64(len(queries)), len(pictures))
	return ev.emit(line)
}
