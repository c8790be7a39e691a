package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"strings"

	"github.com/mmserve/mmserve/pipeline"
)

func verify(ctx context.Context, e *env, fs *flag.FlagSet, args []string) error {
	var machine machineFlags
	machine.register(fs)
	dtype := fs.String("dtype", "", "arithmetic: f32, bf16 or int8; with --against several, by commas, bf16 and int8 unless said")
	reference := fs.String("against", "", "instead print how far --dtype is from this arithmetic, as a Markdown table")
	asJSON := fs.Bool("json", false, "with --against: one JSON object a row")
	plain := fs.Bool("plain", false, "textbook formulation, without folded projections or separable positions")
	dirs, err := parse(fs, args)
	if err != nil {
		return err
	}
	if len(dirs) == 0 {
		return usagef("no case directory given")
	}
	if err := machine.apply(); err != nil {
		return err
	}
	if *reference != "" {
		dts := strings.Split(cmp.Or(*dtype, "bf16,int8"), ",")
		for _, dt := range append(dts, *reference) {
			if err := checkDType(dt); err != nil {
				return err
			}
		}
		return against(ctx, e, dirs, *reference, dts, *plain, *asJSON)
	}
	if err := checkDType(*dtype); err != nil {
		return err
	}
	passed := 0
	for _, dir := range dirs {
		resetPeakRSS()
		v := pipeline.Verify(withProgress(ctx, e), dir, pipeline.Options{DType: *dtype, Plain: *plain})
		if errors.Is(v.Err, context.Canceled) {
			return v.Err
		}
		word := "FAIL"
		if v.Pass {
			word = "PASS"
			passed++
		}
		stage := v.Stage
		if stage == "" {
			stage = "-"
		}
		fmt.Fprintf(e.stdout, "%s %s %s %.3g %.3g %.2f %.0f\n", word, v.Name, stage, v.MaxAbs, v.Tolerance, v.Seconds, peakRSS())
		if v.Note != "" {
			fmt.Fprintf(e.stderr, "mmserve verify: %s: %s\n", v.Name, v.Note)
		}
		if v.Err != nil {
			fmt.Fprintf(e.stderr, "mmserve verify: %s: %v\n", v.Name, v.Err)
		}
	}
	if _, err := fmt.Fprintf(e.stdout, "verify: %d cases, %d passed, %d failed\n", len(dirs), passed, len(dirs)-passed); err != nil {
		return err
	}
	if passed < len(dirs) {
		return errSilent
	}
	return nil
}
