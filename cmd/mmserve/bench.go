package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/pipeline"
)

// benchResult is the JSON line of bench.
type benchResult struct {
	Architecture string  `json:"architecture"`
	Batch        int     `json:"batch"`
	Threads      int     `json:"threads"`
	Kernels      string  `json:"kernels"`
	DType        string  `json:"dtype"`
	Runs         int     `json:"runs"`
	MedianS      float64 `json:"median_s"`
	MinS         float64 `json:"min_s"`
	GFLOPs       float64 `json:"gflops"` // textbook GFLOP a second, by the median
	GFLOP        float64 `json:"gflop"`  // of one forward
	LoadS        float64 `json:"load_s"`
	RSSMiB       float64 `json:"rss_mib"`        // peak of the process while it runs forwards
	LoadedMiB    float64 `json:"rss_loaded_mib"` // of the process with the weights loaded, before the first forward
	LoadMiB      float64 `json:"rss_load_mib"`   // peak of the process while it loads
	// Peaks is what the machine can do, measured in the same run; with --peaks.
	Peaks *kernel.Rates `json:"peaks,omitempty"`
}

func bench(ctx context.Context, e *env, fs *flag.FlagSet, args []string) error {
	var m modelFlags
	m.register(fs)
	config := fs.String("config", "", "config.json `FILE` of a model to build with --random weights")
	random := fs.Bool("random", false, "random weights")
	batch := fs.Int("batch", 1, "inputs a forward")
	seconds := fs.Float64("seconds", 10, "how long to measure, in `SECONDS`; three forwards at least")
	asJSON := fs.Bool("json", false, "print one JSON line")
	peaks := fs.Bool("peaks", false, "also measure what the machine can do: FMA, bf16, int8, memory")
	parts := fs.String("targets", "", "instead measure these `PARTS` of the table in docs/performance.md and print it: all, or some of "+targetNames()+" (minutes; 2 GiB of memory, 1 GiB of temporary files)")
	samples := fs.String("samples", "", "with --targets: also write each measurement to `FILE`, in the format of Go's benchmarks")
	if _, err := parse(fs, args); err != nil {
		return err
	}
	if *parts != "" {
		if err := m.machine.apply(); err != nil {
			return err
		}
		return targets(ctx, e, *parts, *samples)
	}
	if *batch < 1 || *seconds <= 0 {
		return usagef("--batch and --seconds must be positive")
	}
	opt, err := m.options()
	if err != nil {
		return err
	}
	opt.Random = *random
	start := time.Now()
	model, err := openBench(ctx, m.dir, *config, opt)
	if err != nil {
		return err
	}
	b, err := pipeline.AsBencher(model)
	if err != nil {
		return err
	}
	flops, forward, err := b.Work(*batch)
	if err != nil {
		return err
	}
	info := model.Info()
	r := benchResult{
		Architecture: info.Architecture, Batch: *batch, Threads: kernel.Threads(), Kernels: kernel.Set(),
		DType: info.DType, GFLOP: flops / 1e9, LoadS: time.Since(start).Seconds(), LoadMiB: peakRSS(),
	}
	resetPeakRSS()
	r.LoadedMiB = currentRSS()
	if err := r.measure(withProgress(ctx, e), *seconds, forward); err != nil {
		return err
	}
	r.RSSMiB = peakRSS()
	if *peaks {
		rates := kernel.Peaks()
		r.Peaks = &rates
	}
	if *asJSON {
		return json.NewEncoder(e.stdout).Encode(r)
	}
	return r.print(e)
}

// openBench opens a model directory, or builds one of a config alone.
func openBench(ctx context.Context, dir, config string, opt pipeline.Options) (pipeline.Model, error) {
	switch {
	case dir != "" && config != "":
		return nil, usagef("give --model or --config, not both")
	case dir != "":
		return pipeline.Open(ctx, dir, opt)
	case config == "":
		return openBuiltin(ctx, opt)
	case !opt.Random:
		return nil, usagef("--config needs --random: there are no weights beside it")
	}
	// The directory is read through the one file, whatever its name.
	text, err := os.ReadFile(config)
	if err != nil {
		return nil, err
	}
	d, err := pipeline.ReadConfig(filepath.Dir(config), text)
	if err != nil {
		return nil, err
	}
	return pipeline.OpenDir(ctx, d, opt)
}

// measure runs forward once to warm up, then for the given time and three runs at least.
func (r *benchResult) measure(ctx context.Context, seconds float64, forward func(context.Context) error) error {
	if err := forward(ctx); err != nil {
		return err
	}
	var times []float64
	for begin := time.Now(); len(times) < 3 || time.Since(begin).Seconds() < seconds; {
		start := time.Now()
		if err := forward(ctx); err != nil {
			return err
		}
		times = append(times, time.Since(start).Seconds())
	}
	slices.Sort(times)
	r.Runs, r.MinS, r.MedianS = len(times), times[0], times[len(times)/2]
	r.GFLOPs = r.GFLOP / r.MedianS
	return nil
}

func (r benchResult) print(e *env) error {
	fmt.Fprintf(e.stdout, "%s, batch %d, %s, %s kernels, %d threads\n", r.Architecture, r.Batch, r.DType, r.Kernels, r.Threads)
	fmt.Fprintf(e.stdout, "median %.4g s, best %.4g s of %d runs; %.1f GFLOP/s of %.1f GFLOP\n", r.MedianS, r.MinS, r.Runs, r.GFLOPs, r.GFLOP)
	_, err := fmt.Fprintf(e.stdout, "loaded in %.3g s with at most %.0f MiB; peak memory of a forward %.0f MiB, %.0f MiB of them loaded before\n", r.LoadS, r.LoadMiB, r.RSSMiB, r.LoadedMiB)
	return err
}
