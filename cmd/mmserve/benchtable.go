package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mmserve/mmserve/internal/kernel"
)

// benchTable collects the rows of bench --targets.
type benchTable struct {
	rows    []benchRow
	samples io.Writer    // every measurement in the format of Go's benchmarks; nil for none
	top     kernel.Rates // the highest peaks seen in this run
	say     func(format string, args ...any)
}

// benchRow is one measured target.
type benchRow struct {
	what, gate, hope string
	unit             string // of the values: "%", "×", "ms", "s", "MiB"
	values           []float64
	peak             func(kernel.Rates) float64 // set: values are rates, shown as shares of this peak
	less             bool                       // less is better
	note             string                     // what the values are of
	others           float64                    // share of the processors that other processes used meanwhile
}

// add runs measure, which returns the values of a row, and keeps the row with the load of the
// machine meanwhile.
func (t *benchTable) add(r benchRow, measure func(r *benchRow) error) error {
	t.say("%s", r.what)
	before := readLoad()
	if err := measure(&r); err != nil {
		return fmt.Errorf("%s: %w", r.what, err)
	}
	r.others = readLoad().others(before)
	t.rows = append(t.rows, r)
	return nil
}

// timed runs f and notes the time it took under a benchmark's name.
func (t *benchTable) timed(name string, f func() error) (float64, error) {
	start := time.Now()
	if err := f(); err != nil {
		return 0, err
	}
	d := time.Since(start)
	if t.samples != nil {
		fmt.Fprintf(t.samples, "Benchmark%s-%d\t1\t%d ns/op\n", name, kernel.Threads(), d.Nanoseconds())
	}
	return d.Seconds(), nil
}

// warm runs every function once, unmeasured.
func warm(fs ...func() error) error {
	for _, f := range fs {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

// ratios times a and b in turn, n times, and keeps a's time over b's.
func (t *benchTable) ratios(r *benchRow, n int, nameA string, a func() error, nameB string, b func() error) error {
	if err := warm(a, b); err != nil {
		return err
	}
	var as, bs []float64
	for range n {
		x, err := t.timed(nameA, a)
		if err != nil {
			return err
		}
		y, err := t.timed(nameB, b)
		if err != nil {
			return err
		}
		as, bs = append(as, x), append(bs, y)
		r.values = append(r.values, x/y)
	}
	r.note = fmt.Sprintf("medians %s and %s", seconds(median(as)), seconds(median(bs)))
	return nil
}

// peaks measures the machine's peaks; a busy moment lowers them, so the highest count.
func (t *benchTable) peaks() {
	r, top := kernel.Peaks(), &t.top
	top.Threads = r.Threads
	top.F32, top.BF16, top.Int8 = max(top.F32, r.F32), max(top.BF16, r.BF16), max(top.Int8, r.Int8)
	top.Read, top.Copy = max(top.Read, r.Read), max(top.Copy, r.Copy)
}

// write prints the table as Markdown, with the machine above it.
func (t *benchTable) write(w io.Writer, machine string, others float64) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\n\n", machine)
	fmt.Fprintf(&b, "Other processes used %.0f %% of the processors during the whole run; the last column says it row by row.\n\n", 100*others)
	fmt.Fprintf(&b, "| what | gate | hope | median | best | worst | runs | measured | others' CPU |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for _, r := range t.rows {
		if r.peak != nil {
			r.values = slices.Clone(r.values)
			for i := range r.values {
				r.values[i] /= r.peak(t.top)
			}
		}
		lo, hi := slices.Min(r.values), slices.Max(r.values)
		if r.less {
			lo, hi = hi, lo
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %d | %s | %.0f %% |\n", r.what, r.gate, r.hope, r.show(median(r.values)), r.show(hi), r.show(lo), len(r.values), r.note, 100*r.others)
	}
	_, err := w.Write(b.Bytes())
	return err
}

// show writes a value in the row's unit.
func (r benchRow) show(v float64) string {
	switch r.unit {
	case "%":
		return fmt.Sprintf("%.0f %%", 100*v)
	case "×":
		return fmt.Sprintf("%.2f×", v)
	case "s":
		return seconds(v)
	}
	return fmt.Sprintf("%.0f %s", v, r.unit)
}

// seconds writes a time for people.
func seconds(s float64) string {
	if s < 1 {
		return strconv.FormatFloat(1000*s, 'f', 1, 64) + " ms"
	}
	return strconv.FormatFloat(s, 'f', 2, 64) + " s"
}

// median is the middle value, the mean of two for an even number.
func median(x []float64) float64 {
	s := slices.Sorted(slices.Values(x))
	n := len(s)
	return (s[(n-1)/2] + s[n/2]) / 2
}

// machineLoad is processor time since the machine started, in ticks: all of it, what was
// busy, and what this process used. Zero where the system does not tell (not Linux).
type machineLoad struct{ all, busy, own float64 }

func readLoad() machineLoad {
	var l machineLoad
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return l
	}
	line, _, _ := strings.Cut(string(stat), "\n")
	for i, f := range strings.Fields(line) {
		v, err := strconv.ParseFloat(f, 64)
		if err != nil || i > 8 { // the name, and guests' time, which is counted before
			continue
		}
		l.all += v
		if i != 4 && i != 5 { // idle, waiting for a disk
			l.busy += v
		}
	}
	self, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return machineLoad{}
	}
	_, rest, _ := strings.Cut(string(self), ") ")
	for i, f := range strings.Fields(rest) {
		if i == 11 || i == 12 { // user and system time
			v, _ := strconv.ParseFloat(f, 64)
			l.own += v
		}
	}
	return l
}

// others is the share of the processors that other processes used since before.
func (l machineLoad) others(before machineLoad) float64 {
	all := l.all - before.all
	if all <= 0 {
		return 0
	}
	return max(0, (l.busy-before.busy-(l.own-before.own))/all)
}
