package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/mmserve/mmserve/pipeline"
)

// vectors embeds items into the model's shared space: unit vectors, nil for what failed.
func (ev *evaluator) vectors(task string, items []sample, alter alteration) ([][]float32, int, error) {
	out := make([][]float32, len(items))
	failed, first, err := ev.each(len(items), func(i int) error {
		s, err := alter.of(items[i])
		if err != nil {
			return fmt.Errorf("%s: %w", items[i].name, err)
		}
		enc, err := ev.model.Encode(ev.ctx, s.item(), pipeline.EncodeOptions{Outputs: []string{pipeline.OutputPooled}})
		if err != nil {
			return fmt.Errorf("%s: %w", items[i].name, err)
		}
		out[i] = unitVector(enc.Pooled.Data)
		return nil
	})
	ev.faults(task, failed, len(items), first)
	return out, failed, err
}

// unitVector is x divided by its Euclidean norm.
func unitVector(x []float32) []float32 {
	k := float32(1 / math.Max(math.Sqrt(similarity(x, x)), 1e-12))
	out := make([]float32, len(x))
	for i, v := range x {
		out[i] = v * k
	}
	return out
}

// similarity is the scalar product of two vectors of one length.
func similarity(a, b []float32) float64 {
	s := 0.0
	for i := range a {
		s += float64(a[i]) * float64(b[i])
	}
	return s
}

// scores are the similarities of all vectors to q; −∞ for those that are not there.
func scores(q []float32, all [][]float32) []float64 {
	out := make([]float64, len(all))
	for i, v := range all {
		if out[i] = math.Inf(-1); len(v) == len(q) {
			out[i] = similarity(q, v)
		}
	}
	return out
}

// nearest returns the indexes of the k best scores, best first; equal ones in order.
func nearest(s []float64, k int) []int {
	order := make([]int, 0, len(s))
	for i, v := range s {
		if !math.IsInf(v, -1) {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(s[b], s[a]) })
	return order[:min(k, len(order))]
}

// rank is the place of the best right candidate, 1 for the first. Wrong candidates of the same
// score go before it, so that a model which cannot tell them apart gains nothing. No right
// candidate: one beyond the last.
func rank(s []float64, right func(i int) bool) int {
	best := math.Inf(-1)
	for i, v := range s {
		if right(i) {
			best = max(best, v)
		}
	}
	if math.IsInf(best, -1) {
		return len(s) + 1
	}
	place := 1
	for i, v := range s {
		if v >= best && !right(i) {
			place++
		}
	}
	return place
}

// guessed is the chance that one of k of n candidates, drawn without looking, is among the
// right ones.
func guessed(right, n, k int) float64 {
	miss := 1.0
	for i := range min(k, n) {
		miss *= max(float64(n-right-i), 0) / float64(n-i)
	}
	return 1 - miss
}

// pictures reads the emoji of one split.
func (ev *evaluator) pictures(task string, keep func(split string) bool) ([]sample, error) {
	out, absent, err := readEmoji(ev.at("emoji"), keep)
	if absent > 0 {
		ev.note("%s: images.zip lacks %d of the pictures that captions.jsonl names", task, absent)
	}
	return out, err
}

// emojiPart is the split of a test of unseen styles or concepts: the one that was asked for,
// which is then the only one, or its own.
func (ev *evaluator) emojiPart(own string) (split string, ok bool) {
	switch ev.split {
	case "", "test", own:
		return own, true
	case "test_style", "test_concept":
		return "", false
	}
	return ev.split, true
}

func (ev *evaluator) emojiStyle(task string) error   { return ev.findByName(task, "test_style", 1) }
func (ev *evaluator) emojiConcept(task string) error { return ev.findByName(task, "test_concept", 5) }

// findByName searches the pictures of a split by the names of what they show.
func (ev *evaluator) findByName(task, own string, top int) error {
	split, ok := ev.emojiPart(own)
	if !ok {
		return nil
	}
	pictures, err := ev.pictures(task, func(s string) bool { return s == split })
	if err != nil {
		return err
	}
	if len(pictures) == 0 {
		ev.note("%s: no pictures of split %q", task, split)
		return nil
	}
	if why := ev.cannotSearch("image", "text"); why != "" {
		ev.note("%s: left out, %s", task, why)
		return nil
	}
	shown := map[string]int{} // pictures of a concept
	var names []sample
	for _, p := range pictures {
		if shown[p.label]++; shown[p.label] == 1 {
			names = append(names, sample{name: p.label, data: []byte(p.caption), text: true, label: p.label})
		}
	}
	names = ev.some(names)
	queries, unasked, err := ev.vectors(task, names, alteration{})
	if err != nil {
		return err
	}
	line := evalLine{Task: task, Metric: fmt.Sprintf("name_to_picture_top%d", top), N: len(names), Among: len(pictures)}
	for _, q := range names {
		line.Chance += guessed(shown[q.label], len(pictures), top) / float64(len(names))
	}
	return ev.withConditions(line, "image", func(l *evalLine, alter alteration) error {
		images, failed, err := ev.vectors(task, pictures, alter)
		if err != nil {
			return err
		}
		found := 0
		for i, q := range queries {
			if q != nil && rank(scores(q, images), func(k int) bool { return pictures[k].label == names[i].label }) <= top {
				found++
			}
		}
		l.Value, l.Failed = float64(found)/float64(len(names)), failed+unasked
		return nil
	})
}

// cannotSearch says why the model cannot search one medium by another, "" when it can.
func (ev *evaluator) cannotSearch(media ...string) string {
	info := ev.model.Info()
	for _, m := range media {
		if !slices.Contains(info.Modalities, m) {
			return "the model does not take " + m
		}
	}
	if !slices.Contains(info.Outputs, pipeline.OutputPooled) {
		return "the model has no embedding"
	}
	return ""
}

// emojiCaptions measures how often a picture in an unseen style gets exactly its name.
func (ev *evaluator) emojiCaptions(task string) error {
	split, ok := ev.emojiPart("test_style")
	if !ok {
		return nil
	}
	pictures, err := ev.pictures(task, func(s string) bool { return s == split })
	if err != nil {
		return err
	}
	if pictures = ev.some(pictures); len(pictures) == 0 {
		ev.note("%s: no pictures of split %q", task, split)
		return nil
	}
	var right, said atomic.Int64
	failed, first, err := ev.each(len(pictures), func(i int) error {
		p, err := ev.model.Predict(ev.ctx, pictures[i].item(), pipeline.PredictOptions{Top: 1, Caption: true})
		if err != nil {
			return fmt.Errorf("%s: %w", pictures[i].name, err)
		}
		if p.Caption != "" {
			said.Add(1)
		}
		if strings.TrimSpace(p.Caption) == strings.TrimSpace(pictures[i].caption) {
			right.Add(1)
		}
		return nil
	})
	if err != nil {
		return err
	}
	ev.faults(task, failed, len(pictures), first)
	if said.Load() == 0 {
		ev.note("%s: left out, the model says nothing of a picture", task)
		return nil
	}
	return ev.emit(evalLine{Task: task, Metric: "exact_match", Value: float64(right.Load()) / float64(len(pictures)), N: len(pictures), Failed: failed})
}

// soundNames says which emoji shows what a sound is of; classes without one are left out.
var soundNames = map[string][]string{
	"baby_cry": {"baby"}, "clock_tick": {"clock"}, "dog_bark": {"dog", "dog face"}, "fire_crackling": {"fire"},
	"helicopter": {"helicopter"}, "person_sneeze": {"sneezing face"}, "rain": {"rain"}, "rooster": {"rooster"},
	"sea_waves": {"water wave", "wave"},
}

// soundToPicture searches all emoji pictures by sounds.
func (ev *evaluator) soundToPicture(task string) error {
	sounds, err := readESC(ev.at("esc10"), ev.split)
	if err != nil {
		return err
	}
	return ev.across(task, "audio", sounds, func(s sample) []string { return soundNames[s.label] })
}

// shapeToPicture searches all emoji pictures by shapes.
func (ev *evaluator) shapeToPicture(task string) error {
	shapes, err := readShapes(ev.at("shapes3d"), ev.split)
	if err != nil {
		return err
	}
	return ev.across(task, "pointcloud", shapes, func(s sample) []string {
		if s.caption == "" {
			return nil
		}
		return []string{s.caption}
	})
}

// across measures how often one of the five pictures nearest to a query shows what the query is
// of, among all emoji pictures. Queries that no picture shows are left out.
func (ev *evaluator) across(task, medium string, queries []sample, words func(sample) []string) error {
	const top = 5
	pictures, err := ev.pictures(task, func(string) bool { return true })
	if err != nil {
		return err
	}
	if why := ev.cannotSearch("image", medium); why != "" {
		ev.note("%s: left out, %s", task, why)
		return nil
	}
	shows := func(p, query sample) bool { return slices.ContainsFunc(words(query), p.named) }
	right := func(query sample) (n int) {
		for _, p := range pictures {
			if shows(p, query) {
				n++
			}
		}
		return n
	}
	queries = ev.some(slices.DeleteFunc(queries, func(q sample) bool { return right(q) == 0 }))
	if len(queries) == 0 {
		ev.note("%s: no items%s that a picture shows", task, ev.ofSplit())
		return nil
	}
	images, failed, err := ev.imageVectors(task, pictures)
	if err != nil {
		return err
	}
	vectors, unasked, err := ev.vectors(task, queries, alteration{})
	if err != nil {
		return err
	}
	line := evalLine{Task: task, Metric: fmt.Sprintf("top%d", top), N: len(queries), Failed: failed + unasked, Among: len(pictures)}
	found := 0
	var told hits
	for i, q := range vectors {
		line.Chance += guessed(right(queries[i]), len(pictures), top) / float64(len(queries))
		if q == nil {
			continue
		}
		s := scores(q, images)
		hit := rank(s, func(k int) bool { return shows(pictures[k], queries[i]) }) <= top
		if hit {
			found++
		}
		told.add(words(queries[i])[0], hit, func() string {
			var names []string
			for _, k := range nearest(s, top) {
				names = append(names, pictures[k].caption)
			}
			return strings.Join(names, ", ")
		})
	}
	line.Value, line.Examples = float64(found)/float64(len(queries)), told.lines(ev.examples)
	return ev.emit(line)
}

// imageVectors embeds pictures, once for all searches among the same.
func (ev *evaluator) imageVectors(task string, pictures []sample) ([][]float32, int, error) {
	if ev.images.n != len(pictures) || ev.images.vectors == nil {
		v, failed, err := ev.vectors(task, pictures, alteration{})
		if err != nil {
			return nil, 0, err
		}
		ev.images.n, ev.images.vectors, ev.images.failed = len(pictures), v, failed
	}
	return ev.images.vectors, ev.images.failed, nil
}

// hits collects the answers of a search by what was looked for.
type hits []hit

type hit struct {
	what     string
	found, n int
	answer   string // of one query, one with a right answer where there is one
}

func (h *hits) add(what string, found bool, answer func() string) {
	i := slices.IndexFunc(*h, func(x hit) bool { return x.what == what })
	if i < 0 {
		i = len(*h)
		*h = append(*h, hit{what: what})
	}
	x := &(*h)[i]
	if x.answer == "" || found && x.found == 0 {
		x.answer = answer()
	}
	x.n++
	if found {
		x.found++
	}
}

// lines tells the first k, those found most often first.
func (h hits) lines(k int) []string {
	slices.SortStableFunc(h, func(a, b hit) int { return cmp.Compare(b.found*a.n, a.found*b.n) })
	var out []string
	for _, x := range h[:min(k, len(h))] {
		out = append(out, fmt.Sprintf("%s (%d of %d) → %s", x.what, x.found, x.n, x.answer))
	}
	return out
}
