package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"
)

// loadFlags say how hard to press, and with what.
type loadFlags struct {
	url, key string
	rates    string
	seconds  float64
	capacity float64
	hostile  float64
	check    bool
	json     bool

	soak         time.Duration
	threads      int
	hostileFiles string
}

// stageReport is what one rate did to the server.
type stageReport struct {
	Rate     float64 `json:"rate"`      // of capacity
	Offered  float64 `json:"offered"`   // requests a second
	Goodput  float64 `json:"goodput"`   // right answers a second
	P50      float64 `json:"p50_ms"`    // of admitted requests
	P99      float64 `json:"p99_ms"`    //
	Shed     float64 `json:"shed"`      // share refused with 429 or 503
	Failed   int64   `json:"failed"`    // neither answered nor shed
	Wrong    int64   `json:"wrong"`     // answers that differ from the first of the same input
	Refused  int64   `json:"refused"`   // hostile inputs refused, as they should be
	Accepted int64   `json:"accepted"`  // hostile inputs answered
	RSS      float64 `json:"rss_bytes"` // of the server afterwards
}

// load drives a server over HTTP in an open loop: requests come at their own times, whether or
// not earlier ones were answered, as they do from many clients.
func load(ctx context.Context, e *env, fs *flag.FlagSet, args []string) error {
	var f loadFlags
	fs.StringVar(&f.url, "url", "", "server to press; empty starts one on a free port, with the built-in model")
	fs.StringVar(&f.key, "key", "", "API key")
	fs.StringVar(&f.rates, "rates", "0.5,1,2,5", "rates, in multiples of capacity")
	fs.Float64Var(&f.seconds, "seconds", 10, "length of each rate")
	fs.Float64Var(&f.capacity, "capacity", 0, "requests a second that count as capacity; 0 measures it first")
	fs.Float64Var(&f.hostile, "hostile", 0, "share of broken inputs, and in a soak of hostile clients, among the requests")
	fs.BoolVar(&f.check, "check", false, "fail on a wrong answer, a failed request, growing memory, or goodput that falls under overload")
	fs.BoolVar(&f.json, "json", false, "print JSON")
	fs.DurationVar(&f.soak, "soak", 0, "drive the server at its capacity for so long instead, and fail on a wrong answer, an unexpected status or growth")
	fs.StringVar(&f.hostileFiles, "hostile-files", "", "`DIR` of files for the hostile part of a soak; those the server takes are left out")
	fs.IntVar(&f.threads, "threads", 0, "threads of the server that is started; 0 means all cores")
	files, err := parse(fs, args)
	if err != nil {
		return err
	}
	var rates []float64
	for r := range strings.SplitSeq(f.rates, ",") {
		v, err := strconv.ParseFloat(strings.TrimSpace(r), 64)
		if err != nil || v <= 0 {
			return usagef("--rates: %q is no positive number", r)
		}
		rates = append(rates, v)
	}
	if f.seconds <= 0 || f.hostile < 0 || f.hostile >= 1 {
		return usagef("--seconds wants more than 0, --hostile a share below 1")
	}
	if f.url == "" {
		url, stop, err := startServer(ctx, f.threads)
		if err != nil {
			return err
		}
		defer stop()
		f.url = url
	}
	g, err := newGenerator(ctx, f, files)
	if err != nil {
		return err
	}
	if f.capacity == 0 {
		if f.capacity, err = g.capacity(ctx, min(5*time.Second, time.Duration(f.seconds*float64(time.Second)))); err != nil {
			return err
		}
	}
	if f.soak > 0 {
		g.loadFlags = f
		report, err := g.soak(ctx, files, f.soak, e.stderr)
		if err != nil && report == nil {
			return err
		}
		if err := report.print(e.stdout, f.json); err != nil {
			return err
		}
		return cmp.Or(err, report.verdict())
	}
	var reports []stageReport
	for _, r := range rates {
		reports = append(reports, g.press(ctx, r, r*f.capacity, time.Duration(f.seconds*float64(time.Second))))
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if err := printLoad(e.stdout, f, reports); err != nil {
		return err
	}
	if f.check {
		return checkLoad(reports)
	}
	return nil
}

func printLoad(w io.Writer, f loadFlags, reports []stageReport) error {
	if f.json {
		return json.NewEncoder(w).Encode(map[string]any{"capacity": f.capacity, "stages": reports})
	}
	fmt.Fprintf(w, "capacity %.1f requests/s\n", f.capacity)
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "rate\toffered/s\tgoodput/s\tp50 ms\tp99 ms\tshed\tfailed\twrong\thostile refused\tanswered\tRSS MiB\t")
	for _, r := range reports {
		fmt.Fprintf(t, "%.2g×\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f %%\t%d\t%d\t%d\t%d\t%.0f\t\n",
			r.Rate, r.Offered, r.Goodput, r.P50, r.P99, 100*r.Shed, r.Failed, r.Wrong, r.Refused, r.Accepted, r.RSS/(1<<20))
	}
	return t.Flush()
}

// checkLoad is the verdict of --check.
func checkLoad(reports []stageReport) error {
	peak := 0.0
	for _, r := range reports {
		peak = max(peak, r.Goodput)
		if r.Wrong > 0 || r.Failed > 0 || r.Accepted > 0 {
			return fmt.Errorf("at %.2g×: %d wrong answers, %d failed requests, %d hostile inputs answered", r.Rate, r.Wrong, r.Failed, r.Accepted)
		}
	}
	last := reports[len(reports)-1]
	if last.Goodput < 0.9*peak && last.Rate > 1 {
		return fmt.Errorf("goodput fell to %.1f/s at %.2g×, peak %.1f/s", last.Goodput, last.Rate, peak)
	}
	const growth = 1.25
	if first := reports[0]; len(reports) > 1 && first.RSS > 0 && first.Rate == last.Rate && last.RSS > growth*first.RSS {
		return fmt.Errorf("memory grew from %.0f to %.0f MiB", first.RSS/(1<<20), last.RSS/(1<<20))
	}
	return nil
}

// generator sends inputs and knows their right answers.
type generator struct {
	loadFlags
	wire   *wire
	inputs []loadInput
	bad    [][]byte // requests that should be refused
}

// loadInput is a request with its answer.
type loadInput struct {
	request, answer []byte
}

// newGenerator asks for each input once, one after the other: those answers are the right ones.
func newGenerator(ctx context.Context, f loadFlags, files []string) (*generator, error) {
	w, err := newWire(ctx, f.url, f.key)
	if err != nil {
		return nil, err
	}
	g := &generator{loadFlags: f, wire: w}
	var bodies [][]byte
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		bodies = append(bodies, b)
	}
	if len(bodies) == 0 {
		bodies = [][]byte{[]byte("what is the weather like in Lisbon"), []byte("play some music"), []byte("book a table for two at eight")}
	}
	for i, b := range bodies {
		request := g.encode(b)
		status, answer, err := w.send(request)
		if err != nil {
			return nil, fmt.Errorf("load: input %d: %w", i, err)
		}
		if status != http.StatusOK {
			return nil, fmt.Errorf("load: input %d: status %d: %.200s", i, status, answer)
		}
		g.inputs = append(g.inputs, loadInput{request, answer})
	}
	for _, b := range [][]byte{
		[]byte("\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\xea\x60\x00\x00\xea\x60\x08\x06\x00\x00\x00"),
		[]byte("RIFF\xff\xff\xff\xffWAVEfmt "), []byte("ply\nformat binary_little_endian 1.0\nelement vertex 9999999999\nend_header\n"),
		[]byte("\xff\xd8\xff\xe0\x00\x10JFIF"), {},
	} {
		g.bad = append(g.bad, g.encode(b))
	}
	return g, nil
}

// encode asks for the pooled vector of one body, as bare numbers.
func (g *generator) encode(body []byte) []byte {
	return g.wire.request("POST", "/v1/encode?output=pooled&format=raw", "", body)
}

// capacity is the requests a second that clients get who each wait for an answer before they ask
// again, enough of them to keep every thread busy.
func (g *generator) capacity(ctx context.Context, d time.Duration) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	var n, other atomic.Int64
	var wg sync.WaitGroup
	begin := time.Now()
	for range 8 * runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for ctx.Err() == nil {
				in := g.inputs[rand.IntN(len(g.inputs))]
				switch status, _, err := g.wire.send(in.request); {
				case err == nil && status == http.StatusOK:
					n.Add(1)
				case ctx.Err() == nil:
					other.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if n.Load() == 0 {
		return 0, fmt.Errorf("load: no answer in %s (%d failures)", d, other.Load())
	}
	return float64(n.Load()) / time.Since(begin).Seconds(), nil
}

// tick is how exact the times of requests and answers are: what is due within one goes together,
// so that the generator is not woken for each.
const tick = 500 * time.Microsecond

// press sends requests at random times, so many a second on average, and waits for the last.
func (g *generator) press(ctx context.Context, multiple, rate float64, d time.Duration) stageReport {
	r := stageReport{Rate: multiple}
	var mu sync.Mutex
	var took []float64
	var sent, good, shed int64
	var wg sync.WaitGroup
	start, sleep, rest := g.wire.start, time.Sleep, wg.Wait
	if f := newFleet(ctx, g.wire); f != nil {
		defer f.close()
		start, sleep, rest = f.start, f.sleep, f.rest
	}
	begin := time.Now()
	for due := begin; ; {
		due = due.Add(time.Duration(rand.ExpFloat64() / rate * float64(time.Second)))
		if due.Sub(begin) > d || ctx.Err() != nil {
			break
		}
		from := due // waiting to be sent counts
		if early := time.Until(due); early > tick {
			sleep(early)
		} else if early > 0 {
			from = time.Now()
		}
		sent++
		hostile := rand.Float64() < g.hostile
		in := g.inputs[rand.IntN(len(g.inputs))]
		if hostile {
			in = loadInput{request: g.bad[rand.IntN(len(g.bad))]}
		}
		wg.Add(1)
		start(in.request, func(status int, answer []byte, err error) {
			defer wg.Done()
			ms := time.Since(from).Seconds() * 1e3
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				r.Failed++
			case status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests:
				shed++
			case hostile && status >= 400 && status < 500:
				r.Refused++
			case hostile && status == http.StatusOK:
				r.Accepted++
			case status != http.StatusOK:
				r.Failed++
			case !bytes.Equal(answer, in.answer):
				r.Wrong++
			default:
				good++
				took = append(took, ms)
			}
		})
	}
	rest()
	seconds := time.Since(begin).Seconds()
	slices.Sort(took)
	r.Offered, r.Goodput = float64(sent)/d.Seconds(), float64(good)/seconds
	r.P50, r.P99 = quantile(took, 0.5), quantile(took, 0.99)
	r.Shed = float64(shed) / float64(max(sent, 1))
	r.RSS = g.rss()
	return r
}

func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// rss is the server's resident memory by its own metrics, 0 when it does not tell.
func (g *generator) rss() float64 {
	_, b, err := g.wire.send(g.wire.request("GET", "/metrics", "", nil))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "process_resident_memory_bytes "); ok {
			n, _ := strconv.ParseFloat(strings.TrimSpace(v), 64)
			return n
		}
	}
	return 0
}
