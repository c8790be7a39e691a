package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/term"

	"github.com/mmserve/mmserve/internal/kernel"
	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/pipeline"
)

// modelFlags are the flags of every command that loads a model.
type modelFlags struct {
	dir, dtype string
	plain      bool
	machine    machineFlags
}

func (m *modelFlags) register(fs *flag.FlagSet) {
	fs.StringVar(&m.dir, "model", "", "`DIR` of the model: config.json or model.json, and weights; empty: the built-in one")
	fs.StringVar(&m.dtype, "dtype", "", dtypeUsage)
	fs.BoolVar(&m.plain, "plain", false, "textbook formulation, without folded projections or separable positions")
	m.machine.register(fs)
}

// open loads the model that the flags name.
func (m *modelFlags) open(ctx context.Context, e *env) (pipeline.Model, error) {
	opt, err := m.options()
	if err != nil {
		return nil, err
	}
	if m.dir == "" {
		return openBuiltin(ctx, opt)
	}
	return pipeline.Open(withProgress(ctx, e), m.dir, opt)
}

// dtypeUsage is the help of every --dtype of a command that loads models.
const dtypeUsage = "arithmetic: f32, bf16 or int8, or bf16w for float32 over 16-bit weights; empty: what model.json says, else f32"

// checkDType refuses an unknown --dtype before anything is loaded.
func checkDType(name string) error {
	if name == "" {
		return nil
	}
	if _, err := kernel.ParseDType(name); err != nil {
		return usagef("--dtype: %v", err)
	}
	return nil
}

func (m *modelFlags) options() (pipeline.Options, error) {
	if err := m.machine.apply(); err != nil {
		return pipeline.Options{}, err
	}
	if err := checkDType(m.dtype); err != nil {
		return pipeline.Options{}, err
	}
	return pipeline.Options{DType: m.dtype, Plain: m.plain}, nil
}

// machineFlags choose how the machine is used.
type machineFlags struct {
	kernels string
	threads int
}

func (m *machineFlags) register(fs *flag.FlagSet) {
	fs.StringVar(&m.kernels, "kernels", "", "kernel `SET`: avx512, avx2, neon or portable; empty picks the best")
	fs.IntVar(&m.threads, "threads", 0, "threads to use; 0 means all cores")
}

func (m *machineFlags) apply() error {
	if m.kernels != "" {
		if err := kernel.UseSet(m.kernels); err != nil {
			return usagef("--kernels: %v", err)
		}
	}
	if m.threads < 0 {
		return usagef("--threads: %d is negative", m.threads)
	}
	if m.threads > 0 {
		kernel.SetThreads(m.threads)
	}
	return nil
}

// textFlag collects the texts of a flag that may be given twice, for a pair.
type textFlag []string

func (t *textFlag) String() string { return "" }

// Set implements flag.Value.
func (t *textFlag) Set(s string) error {
	if s == "" {
		return errors.New("the text is empty")
	}
	*t = append(*t, s)
	return nil
}

// openItem makes an item of input paths and texts; the path "-" is standard input. Close
// releases its files.
func openItem(ctx context.Context, e *env, paths []string, texts ...string) (pipeline.Item, func(), error) {
	var it pipeline.Item
	var closers []func()
	done := func() {
		for _, c := range closers {
			c()
		}
	}
	for _, path := range paths {
		in, closer, err := openInput(ctx, e, path)
		if err != nil {
			done()
			return it, nil, err
		}
		closers = append(closers, closer)
		it.Parts = append(it.Parts, pipeline.Part{Input: in})
	}
	for _, text := range texts {
		it.Parts = append(it.Parts, pipeline.TextPart(text))
	}
	return it, done, nil
}

// openInput opens a file, a directory or, for "-", standard input, which is kept to be read
// again.
func openInput(ctx context.Context, e *env, path string) (media.Input, func(), error) {
	if path == "-" {
		return media.Spool(ctx, media.Stream("", e.stdin))
	}
	in, closer, err := media.File(path)
	if err != nil {
		return in, nil, err
	}
	return in, func() { closer.Close() }, nil
}

// inputs runs f for one input after another. Of several, one that fails does not keep the
// others from being answered: its fault is said, and the command fails at the end.
func inputs(ctx context.Context, e *env, command string, paths []string, f func(path string) error) error {
	failed := false
	for _, path := range paths {
		err := f(path)
		switch {
		case err == nil:
		case ctx.Err() != nil || len(paths) == 1:
			return err
		default:
			failed = true
			fmt.Fprintf(e.stderr, "mmserve %s: %s: %v\n", command, path, err)
		}
	}
	if failed {
		return errSilent
	}
	return nil
}

// terminal is the writer's file, when that is a terminal.
func terminal(w io.Writer) (*os.File, bool) {
	f, ok := w.(*os.File)
	return f, ok && term.IsTerminal(int(f.Fd()))
}

// withProgress shows progress lines on a terminal.
func withProgress(ctx context.Context, e *env) context.Context {
	f, ok := terminal(e.stderr)
	if !ok {
		return ctx
	}
	p := &progressLine{out: f, start: time.Now()}
	return pipeline.WithProgress(ctx, p.show)
}

// output writes a result to a file, or to standard output for "" and "-". The file appears
// under its name only when it is whole; what is no file, a device or a pipe, is written to and
// never replaced.
func output(e *env, path string, write func(w io.Writer) error) error {
	if path == "" || path == "-" {
		return write(e.stdout)
	}
	if st, err := os.Stat(path); err == nil && !st.Mode().IsRegular() {
		return outputDevice(path, write)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".mmserve-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	err = write(tmp)
	if e := tmp.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Chmod(tmp.Name(), 0o644)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.Rename(tmp.Name(), path)
}

func outputDevice(path string, write func(w io.Writer) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	err = write(f)
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
