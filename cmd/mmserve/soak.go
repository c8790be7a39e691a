package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

const (
	soakSample = 5 * time.Second // between looks at the server's memory
	soakLine   = time.Minute     // between lines of progress
	// What may grow from the second quarter of the run to the last, in median: a share, and so
	// much besides.
	soakGrowth      = 0.10
	soakGrowthBytes = 16 << 20
	soakGrowthCount = 64
)

// usage is what the server holds at one moment.
type usage struct {
	RSS        float64 `json:"rss_bytes"`
	Heap       float64 `json:"heap_bytes"`
	Goroutines float64 `json:"goroutines"`
	Files      float64 `json:"open_files"`
}

// soakReport is what a soak found.
type soakReport struct {
	Seconds  float64          `json:"seconds"`
	Sent     int64            `json:"sent"`
	Right    int64            `json:"right"`   // answers equal to the recorded ones, bit for bit
	Wrong    int64            `json:"wrong"`   // answers that differ
	Shed     int64            `json:"shed"`    // 503
	Failed   int64            `json:"failed"`  // any other status, or none
	Refused  int64            `json:"refused"` // hostile files, refused as recorded
	Mischief map[string]int64 `json:"mischief"`
	Harmed   int64            `json:"harmed"` // hostile clients whom the server answered amiss
	P50      float64          `json:"p50_ms"` // of right answers, over the last minute of the run
	P99      float64          `json:"p99_ms"`
	Idle     usage            `json:"idle_before"` // before the first request of the soak
	Early    usage            `json:"second_quarter"`
	Late     usage            `json:"last_quarter"`
	Peak     usage            `json:"peak"`
	After    usage            `json:"idle_after"` // when all connections are closed again
	Faults   []string         `json:"faults"`     // the first of each kind
}

// soak drives the server at its capacity for a long time and watches what it holds. The rate
// follows the server: up while nothing is shed, down while more than a fiftieth is.
type soak struct {
	*generator
	good, bad []soakCase
	progress  io.Writer

	mu     sync.Mutex
	report soakReport
	took   []float64 // ms, of the last minute
	window struct{ sent, shed int64 }
	usages []usage
}

func (g *generator) soak(ctx context.Context, files []string, d time.Duration, progress io.Writer) (*soakReport, error) {
	s := &soak{generator: g, progress: progress, report: soakReport{Mischief: map[string]int64{}}}
	var err error
	if s.good, err = g.goodCases(files); err != nil {
		return nil, err
	}
	if s.bad, err = g.badCases(g.hostileFiles); err != nil {
		return nil, err
	}
	if s.report.Idle, err = g.usage(); err != nil {
		return nil, err
	}
	fmt.Fprintf(progress, "soak: %d requests with recorded answers, %d files refused, %d kinds of mischief, capacity %.0f/s\n", len(s.good), len(s.bad), len(mischiefs), g.loadFlags.capacity)
	s.drive(ctx, d)
	s.settle(ctx)
	return &s.report, ctx.Err()
}

// drive sends for d, then waits for the last answer.
func (s *soak) drive(ctx context.Context, d time.Duration) {
	var wg sync.WaitGroup
	defer wg.Wait()
	rate := s.loadFlags.capacity
	begin := time.Now()
	s.sample()
	next, line := begin.Add(soakSample), begin.Add(soakLine)
	for due := begin; due.Sub(begin) < d && ctx.Err() == nil; {
		due = due.Add(time.Duration(rand.ExpFloat64() / rate * float64(time.Second)))
		due = laterOf(due, time.Now().Add(-time.Second)) // a stall of ours is not made up for with a burst
		time.Sleep(time.Until(due))
		if rand.Float64() < s.hostile {
			wg.Go(s.attack)
		} else {
			wg.Go(func() { s.ask(s.good[rand.IntN(len(s.good))]) })
		}
		if now := time.Now(); now.After(next) {
			rate = s.adapt(rate)
			next = now.Add(soakSample)
			wg.Go(s.sample)
			if now.After(line) {
				line = now.Add(soakLine)
				s.tell(now.Sub(begin), rate)
			}
		}
	}
	s.report.Seconds = time.Since(begin).Seconds()
}

func laterOf(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// adapt is the next rate, by what the last window saw.
func (s *soak) adapt(rate float64) float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.window
	s.window.sent, s.window.shed = 0, 0
	switch {
	case w.sent == 0 || w.shed*50 > w.sent:
		return max(0.9*rate, 0.5)
	case w.shed == 0:
		return 1.03 * rate
	}
	return rate
}

// ask sends a good request and compares the answer.
func (s *soak) ask(c soakCase) {
	begin := time.Now()
	status, answer, err := s.wire.send(c.request)
	ms := time.Since(begin).Seconds() * 1e3
	right := err == nil && c.same(status, answer)
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &s.report
	r.Sent++
	s.window.sent++
	switch {
	case right:
		r.Right++
		s.took = append(s.took, ms)
	case err == nil && status == http.StatusServiceUnavailable:
		r.Shed++
		s.window.shed++
	case err == nil && status == c.status:
		r.Wrong++
		s.fault("%s: another answer than at the start", c.name)
	default:
		r.Failed++
		s.fault("%s: %d %.200s %v", c.name, status, answer, err)
	}
}

// attack is one hostile client: every other one sends a broken file, the rest misbehave.
func (s *soak) attack() {
	if rand.IntN(2) == 0 {
		c := s.bad[rand.IntN(len(s.bad))]
		status, answer, err := s.wire.send(c.request)
		same := err == nil && c.same(status, answer)
		s.mu.Lock()
		defer s.mu.Unlock()
		switch {
		case same:
			s.report.Refused++
		case err == nil && status == http.StatusServiceUnavailable:
			s.report.Shed++
		default:
			s.report.Harmed++
			s.fault("%s: %d %.200s %v, at the start %d %s", c.name, status, answer, err, c.status, c.answer)
		}
		return
	}
	m := mischiefs[rand.IntN(len(mischiefs))]
	err := m.do(s.generator, s.good[rand.IntN(len(s.good))])
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report.Mischief[m.name]++
	if err != nil {
		s.report.Harmed++
		s.fault("%s: %v", m.name, err)
	}
}

// fault notes one of the first faults. The lock is held.
func (s *soak) fault(format string, args ...any) {
	if len(s.report.Faults) < 20 {
		f := fmt.Sprintf(format, args...)
		s.report.Faults = append(s.report.Faults, f)
		fmt.Fprintln(s.progress, "soak:", f)
	}
}

// sample looks at what the server holds.
func (s *soak) sample() {
	u, err := s.usage()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.report.Failed++
		s.fault("metrics: %v", err)
		return
	}
	s.usages = append(s.usages, u)
}

// tell writes a line of progress.
func (s *soak) tell(since time.Duration, rate float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var u usage
	if n := len(s.usages); n > 0 {
		u = s.usages[n-1]
	}
	r := &s.report
	s.latency()
	fmt.Fprintf(s.progress, "soak: %6.0f s, rate %.1f/s, %d sent, %d right, %d shed, %d wrong, %d failed, %d harmed; p50 %.0f ms, p99 %.0f ms; RSS %.1f MiB, heap %.1f MiB, %.0f goroutines, %.0f files\n",
		since.Seconds(), rate, r.Sent, r.Right, r.Shed, r.Wrong, r.Failed, r.Harmed, r.P50, r.P99, u.RSS/(1<<20), u.Heap/(1<<20), u.Goroutines, u.Files)
}

// latency sums up the answers since it was called last. The lock is held.
func (s *soak) latency() {
	if len(s.took) > 0 {
		slices.Sort(s.took)
		s.report.P50, s.report.P99 = quantile(s.took, 0.5), quantile(s.took, 0.99)
		s.took = s.took[:0]
	}
}

// settle closes the connections, waits until the server holds none, and sums up.
func (s *soak) settle(ctx context.Context) {
	r := &s.report
	s.sample()
	for end := time.Now().Add(30 * time.Second); ; {
		s.wire.rest()
		u, err := s.usage()
		if err == nil {
			r.After = u
		}
		if err == nil && u.Files <= r.Idle.Files+1 && u.Goroutines <= r.Idle.Goroutines+1 || time.Now().After(end) || ctx.Err() != nil {
			break
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
	s.latency()
	n := len(s.usages)
	r.Early, r.Late = medianUsage(s.usages[n/4:n/2+1]), medianUsage(s.usages[n-(n+3)/4:])
	for _, u := range s.usages {
		r.Peak = usage{max(r.Peak.RSS, u.RSS), max(r.Peak.Heap, u.Heap), max(r.Peak.Goroutines, u.Goroutines), max(r.Peak.Files, u.Files)}
	}
}

func medianUsage(all []usage) usage {
	mid := func(f func(usage) float64) float64 {
		v := make([]float64, len(all))
		for i, u := range all {
			v[i] = f(u)
		}
		slices.Sort(v)
		return quantile(v, 0.5)
	}
	return usage{
		mid(func(u usage) float64 { return u.RSS }), mid(func(u usage) float64 { return u.Heap }),
		mid(func(u usage) float64 { return u.Goroutines }), mid(func(u usage) float64 { return u.Files }),
	}
}

// usage reads the server's own metrics.
func (g *generator) usage() (usage, error) {
	status, b, err := g.wire.send(g.wire.request("GET", "/metrics", "", nil))
	if err != nil {
		return usage{}, err
	}
	if status != http.StatusOK {
		return usage{}, fmt.Errorf("load: /metrics: status %d", status)
	}
	values := map[string]float64{}
	for line := range strings.Lines(string(b)) {
		if name, v, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			values[name], _ = strconv.ParseFloat(v, 64) // comments and labelled series are not asked for
		}
	}
	u := usage{values["process_resident_memory_bytes"], values["go_memstats_heap_inuse_bytes"], values["go_goroutines"], values["process_open_fds"]}
	if u.Goroutines == 0 {
		return u, fmt.Errorf("load: /metrics does not tell what the server holds")
	}
	return u, nil
}

// verdict is nil for a server that held.
func (r *soakReport) verdict() error {
	var faults []string
	count := func(what string, n int64) {
		if n > 0 {
			faults = append(faults, fmt.Sprintf("%d %s", n, what))
		}
	}
	count("wrong answers", r.Wrong)
	count("failed requests", r.Failed)
	count("hostile clients answered amiss", r.Harmed)
	if r.Right == 0 {
		faults = append(faults, "no right answer")
	}
	grown := func(what string, early, late, besides float64) {
		if late > early*(1+soakGrowth)+besides {
			faults = append(faults, fmt.Sprintf("%s grew from %.0f to %.0f", what, early, late))
		}
	}
	grown("resident bytes", r.Early.RSS, r.Late.RSS, soakGrowthBytes)
	grown("heap bytes", r.Early.Heap, r.Late.Heap, soakGrowthBytes)
	grown("goroutines at rest", r.Idle.Goroutines, r.After.Goroutines, soakGrowthCount)
	grown("open files at rest", r.Idle.Files, r.After.Files, soakGrowthCount)
	if len(faults) > 0 {
		return fmt.Errorf("soak: %s", strings.Join(faults, "; "))
	}
	return nil
}

func (r *soakReport) print(w io.Writer, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(r)
	}
	fmt.Fprintf(w, "%.0f s: %d sent, %d right bit for bit (%.1f/s), %d shed, %d wrong, %d failed\n",
		r.Seconds, r.Sent, r.Right, float64(r.Right)/r.Seconds, r.Shed, r.Wrong, r.Failed)
	fmt.Fprintf(w, "hostile: %d files refused, %d answered amiss", r.Refused, r.Harmed)
	for _, m := range mischiefs {
		fmt.Fprintf(w, ", %d %s", r.Mischief[m.name], m.name)
	}
	fmt.Fprintf(w, "\nlast minute: p50 %.0f ms, p99 %.0f ms\n", r.P50, r.P99)
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tidle before\tsecond quarter\tlast quarter\tpeak\tidle after\t")
	row := func(name string, unit float64, f func(usage) float64) {
		fmt.Fprintf(t, "%s\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t\n", name, f(r.Idle)/unit, f(r.Early)/unit, f(r.Late)/unit, f(r.Peak)/unit, f(r.After)/unit)
	}
	row("RSS MiB", 1<<20, func(u usage) float64 { return u.RSS })
	row("heap MiB", 1<<20, func(u usage) float64 { return u.Heap })
	row("goroutines", 1, func(u usage) float64 { return u.Goroutines })
	row("open files", 1, func(u usage) float64 { return u.Files })
	return t.Flush()
}
