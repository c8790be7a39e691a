package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/pipeline"
)

// evalLine is one result of eval.
type evalLine struct {
	Task      string   `json:"task"`
	Condition string   `json:"condition,omitempty"` // what was done to the inputs, with --robustness
	Metric    string   `json:"metric"`
	Value     float64  `json:"value"`
	N         int      `json:"n"`
	Clean     *float64 `json:"clean,omitempty"`   // the value without the condition
	Chance    float64  `json:"chance,omitempty"`  // the value of guesses
	Among     int      `json:"among,omitempty"`   // candidates of a search
	Beside    string   `json:"beside,omitempty"`  // a simpler model's value
	Failed    int      `json:"failed,omitempty"`  // items that gave an error; they count as wrong
	Unknown   int      `json:"unknown,omitempty"` // items of classes the model does not have; they count as wrong
	Examples  []string `json:"examples,omitempty"`
}

// write prints a result: as a JSON object, or a line with its examples indented below.
func (l evalLine) write(w io.Writer, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(l)
	}
	task := l.Task
	if l.Condition != "" {
		task += "+" + l.Condition
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%-24s %-22s %8.4f  n=%d", task, l.Metric, l.Value, l.N)
	if l.Failed > 0 {
		fmt.Fprintf(&b, "  failed=%d", l.Failed)
	}
	if l.Unknown > 0 {
		fmt.Fprintf(&b, "  unknown=%d", l.Unknown)
	}
	if l.Clean != nil {
		fmt.Fprintf(&b, "  (clean %.4f)", *l.Clean)
	}
	if l.Among > 0 {
		fmt.Fprintf(&b, "  (chance %.4f, among %d)", l.Chance, l.Among)
	}
	if l.Beside != "" {
		fmt.Fprintf(&b, "  (%s)", l.Beside)
	}
	b.WriteByte('\n')
	for _, s := range l.Examples {
		fmt.Fprintf(&b, "    %s\n", s)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// evaluator runs one model over data sets.
type evaluator struct {
	ctx      context.Context
	model    pipeline.Model
	dir      string
	split    string     // "" for all that is not marked train or val
	limit    int        // items a task, evenly spread; 0: all
	robust   bool       // also under every condition
	examples int        // of a search across media
	against  *agreement // nil without --against
	emit     func(evalLine) error
	note     func(format string, args ...any) // says what a number does not
	progress func(unit string, done, total int)
	images   struct { // of all emoji pictures
		n, failed int
		vectors   [][]float32
	}
}

// evalTask is one line of eval.
type evalTask struct {
	name string
	run  func(ev *evaluator, task string) error
}

// evalTasks lists what eval measures, in the order it does.
func evalTasks() []evalTask {
	classes := func(head, medium string, read func(ev *evaluator) ([]sample, error)) func(*evaluator, string) error {
		return func(ev *evaluator, task string) error {
			items, err := read(ev)
			if err != nil {
				return err
			}
			return ev.classify(task, head, medium, items)
		}
	}
	texts := func(file string, columns int, skip string) func(*evaluator) ([]sample, error) {
		return func(ev *evaluator) ([]sample, error) { return readTSV(ev.at("text", file), ev.split, columns, skip) }
	}
	return []evalTask{
		{"cifar10", classes("cifar10", "image", func(ev *evaluator) ([]sample, error) { return readCIFAR(ev.at("cifar10"), ev.split) })},
		{"digits", classes("digit", "audio", func(ev *evaluator) ([]sample, error) { return readDigits(ev.at("fsdd"), ev.split) })},
		{"esc10", classes("esc10", "audio", func(ev *evaluator) ([]sample, error) { return readESC(ev.at("esc10"), ev.split) })},
		{"shapes", classes("shape", "pointcloud", func(ev *evaluator) ([]sample, error) {
			all, err := readShapes(ev.at("shapes3d"), ev.split)
			return slices.DeleteFunc(all, func(s sample) bool { return s.label == "other" }), err
		})},
		{"snips", classes("snips", "text", texts("snips_intents.tsv", 3, ""))},
		{"clinc150", classes("clinc150", "text", texts("clinc150_intents.tsv", 4, "oos"))},
		{"language", classes("language", "text", texts("udhr_langid.tsv", 3, ""))},
		{"masked_bytes", (*evaluator).maskedBytes},
		{"emoji_style", (*evaluator).emojiStyle},
		{"emoji_concept", (*evaluator).emojiConcept},
		{"emoji_caption", (*evaluator).emojiCaptions},
		{"sound_to_picture", (*evaluator).soundToPicture},
		{"shape_to_picture", (*evaluator).shapeToPicture},
	}
}

func eval(ctx context.Context, e *env, fs *flag.FlagSet, args []string) error {
	var m modelFlags
	m.register(fs)
	ev := &evaluator{}
	asJSON := fs.Bool("json", false, "print one JSON object a task")
	fs.StringVar(&ev.split, "split", "", "items of this split; empty: all that are not marked train or val")
	tasks := fs.String("tasks", "", "comma-separated tasks to run; empty: all that the directory has data for")
	fs.IntVar(&ev.limit, "limit", 0, "measure on at most so many items a task, evenly spread; 0 takes all")
	fs.BoolVar(&ev.robust, "robustness", false, "also measure on worse inputs: JPEG quality 30, half size, grey; 10 dB noise; 256 points, no colours, no normals")
	reference := fs.String("against", "", "instead count where --dtype (several, by commas; bf16 and int8 unless said) chooses as this arithmetic does")
	fs.IntVar(&ev.examples, "examples", 0, "show so many examples of searches across media")
	dirs, err := parse(fs, args)
	if err != nil {
		return err
	}
	if len(dirs) != 1 {
		return usagef("want one DATA_DIR, got %d operands", len(dirs))
	}
	chosen, err := chooseTasks(*tasks)
	if err != nil {
		return err
	}
	if ev.limit < 0 || ev.examples < 0 {
		return usagef("--limit and --examples want 0 or more")
	}
	if err := present(dirs[0]); err != nil {
		return err
	}
	if *reference != "" {
		others := strings.Split(cmp.Or(m.dtype, "bf16,int8"), ",")
		m.dtype = *reference
		ev.against = &agreement{}
		for _, dt := range others {
			other := m
			other.dtype = dt
			o, err := other.open(ctx, e)
			if err != nil {
				return err
			}
			info := o.Info()
			ev.against.others = append(ev.against.others, o)
			ev.against.rows = append(ev.against.rows, pipeline.Precision{Model: info.Name, Architecture: info.Architecture, Digest: info.Digest, DType: info.DType})
		}
		chosen = tasksThatChoose(chosen)
	}
	if ev.model, err = m.open(ctx, e); err != nil {
		return err
	}
	if m.machine.threads == 0 {
		defer kernel.SetThreads(kernel.Threads())
		kernel.SetThreads(1) // items run side by side instead
	}
	ev.ctx, ev.dir = ctx, dirs[0]
	lines := 0
	ev.emit = func(l evalLine) error {
		lines++
		return l.write(e.stdout, *asJSON)
	}
	ev.note = func(format string, args ...any) { fmt.Fprintf(e.stderr, format+"\n", args...) }
	faults := ev.run(chosen, *tasks != "", e)
	if ev.against != nil {
		return errors.Join(faults, ev.against.write(e.stdout, *asJSON))
	}
	if faults == nil && lines == 0 {
		return fmt.Errorf("%s: nothing there that this model can be measured on", ev.dir)
	}
	return faults
}

// chooseTasks finds the named tasks; all for none.
func chooseTasks(names string) ([]evalTask, error) {
	all := evalTasks()
	if names == "" {
		return all, nil
	}
	var out []evalTask
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(all, func(t evalTask) bool { return t.name == strings.TrimSpace(name) })
		if i < 0 {
			var known []string
			for _, t := range all {
				known = append(known, t.name)
			}
			return nil, usagef("--tasks: no task %q; there are %s", name, strings.Join(known, ", "))
		}
		out = append(out, all[i])
	}
	return out, nil
}

// present refuses a directory that holds none of the known sets.
func present(dir string) error {
	if _, err := os.ReadDir(dir); err != nil {
		return err
	}
	for _, name := range evalSets {
		if st, err := os.Stat(filepath.Join(dir, name)); err == nil && st.IsDir() {
			return nil
		}
	}
	return fmt.Errorf("%s: none of the folders %s is there", dir, strings.Join(evalSets, ", "))
}

// run does the tasks one after another. A task whose data is absent is left out, unless it was
// named; a faulty set does not keep the others from being measured.
func (ev *evaluator) run(tasks []evalTask, named bool, e *env) error {
	var faults []error
	for _, t := range tasks {
		begin := time.Now()
		line := progressLine{out: io.Discard, start: begin}
		if f, ok := terminal(e.stderr); ok {
			line.out = f
		}
		ev.progress = func(_ string, done, total int) { line.show("items of "+t.name, done, total) }
		err := t.run(ev, t.name)
		switch {
		case errors.Is(err, context.Canceled) || ev.ctx.Err() != nil:
			return ev.ctx.Err()
		case missing(err) && !named:
			continue
		case err != nil:
			faults = append(faults, fmt.Errorf("%s: %w", t.name, err))
		}
		if took := time.Since(begin); took > time.Second {
			ev.note("%s: %.1f s", t.name, took.Seconds())
		}
	}
	return errors.Join(faults...)
}

// at is a path below the data directory.
func (ev *evaluator) at(parts ...string) string {
	return filepath.Join(append([]string{ev.dir}, parts...)...)
}

// some keeps as many items as the limit allows, evenly spread.
func (ev *evaluator) some(items []sample) []sample {
	n := len(items)
	if ev.limit == 0 || n <= ev.limit {
		return items
	}
	out := make([]sample, ev.limit)
	for i := range out {
		out[i] = items[i*n/ev.limit]
	}
	return out
}

// each runs f over n items on all cores and returns how many failed, and the first fault. An
// ended context is the only error.
func (ev *evaluator) each(n int, f func(i int) error) (failed int, first, err error) {
	var next, done atomic.Int64
	var mu sync.Mutex
	at := n
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), n) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && ev.ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				err := f(i)
				mu.Lock()
				if err != nil && ev.ctx.Err() == nil {
					if failed++; i < at {
						at, first = i, err
					}
				}
				ev.progress("items", int(done.Add(1)), n)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return failed, first, ev.ctx.Err()
}

// faults says which items could not be used.
func (ev *evaluator) faults(task string, failed, n int, first error) {
	if failed > 0 {
		ev.note("%s: %d of %d items failed and count as wrong; the first: %v", task, failed, n, first)
	}
}

// classify measures the share of items whose best class is their label, and again under the
// conditions of their medium.
func (ev *evaluator) classify(task, head, medium string, items []sample) error {
	items = ev.some(items)
	if len(items) == 0 {
		ev.note("%s: no items%s", task, ev.ofSplit())
		return nil
	}
	if !slices.Contains(ev.model.Info().Modalities, medium) {
		ev.note("%s: left out, the model does not take %s", task, medium)
		return nil
	}
	labels := ev.labels(head, items)
	line := evalLine{Task: task, Metric: "accuracy", N: len(items), Unknown: ev.unknown(task, labels, items)}
	if labels == nil {
		ev.note("%s: left out, the model has no classes named %q", task, head)
		return nil
	}
	if line.Unknown == len(items) {
		ev.note("%s: left out, the model knows none of the classes", task)
		return nil
	}
	if ev.against != nil {
		return ev.agreeOnClasses(task, head, items)
	}
	return ev.withConditions(line, medium, func(l *evalLine, alter alteration) error {
		right, failed, err := ev.accuracy(task, head, items, alter)
		l.Value, l.Failed = float64(right)/float64(len(items)), failed
		return err
	})
}

// ofSplit names the split that was asked for.
func (ev *evaluator) ofSplit() string {
	if ev.split == "" {
		return " that are not marked train or val"
	}
	return fmt.Sprintf(" of split %q", ev.split)
}

// accuracy counts the items whose best class is their label.
func (ev *evaluator) accuracy(task, head string, items []sample, alter alteration) (right, failed int, err error) {
	var count atomic.Int64
	failed, first, err := ev.each(len(items), func(i int) error {
		s, err := alter.of(items[i])
		if err != nil {
			return fmt.Errorf("%s: %w", items[i].name, err)
		}
		p, err := ev.model.Predict(ev.ctx, s.item(), pipeline.PredictOptions{Top: 1})
		if err != nil {
			return fmt.Errorf("%s: %w", items[i].name, err)
		}
		if c := classesOf(p, head); len(c) > 0 && c[0].Label == items[i].label {
			count.Add(1)
		}
		return nil
	})
	ev.faults(task, failed, len(items), first)
	return int(count.Load()), failed, err
}

// classesOf are the classes of a head; of the only task, for a model without heads.
func classesOf(p *pipeline.Prediction, head string) []pipeline.Class {
	for _, h := range p.Heads {
		if h.Task == head {
			return h.Classes
		}
	}
	if len(p.Heads) == 0 {
		return p.Classes
	}
	return nil
}

// labels are the classes that a head can answer, by the first item that it answers; nil when
// there is none.
func (ev *evaluator) labels(head string, items []sample) map[string]bool {
	for _, s := range items {
		p, err := ev.model.Predict(ev.ctx, s.item(), pipeline.PredictOptions{Top: math.MaxInt})
		if ev.ctx.Err() != nil {
			return nil
		}
		if err != nil {
			continue
		}
		var known map[string]bool
		for _, c := range classesOf(p, head) {
			if known == nil {
				known = map[string]bool{}
			}
			known[c.Label] = true
		}
		return known
	}
	return map[string]bool{} // none was answered: each will say why
}

// unknown counts the items whose class is none of the model's, and names those classes.
func (ev *evaluator) unknown(task string, labels map[string]bool, items []sample) int {
	if len(labels) == 0 {
		return 0
	}
	n := 0
	var names []string
	for _, s := range items {
		if !labels[s.label] {
			n++
			if !slices.Contains(names, s.label) {
				names = append(names, s.label)
			}
		}
	}
	if n > 0 {
		const shown = 5
		more := ""
		if len(names) > shown {
			more = fmt.Sprintf(" and %d more", len(names)-shown)
		}
		ev.note("%s: the model has no class %q%s; %d of %d items cannot be right", task, names[:min(shown, len(names))], more, n, len(items))
	}
	return n
}
