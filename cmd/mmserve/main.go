// Command mmserve turns media into latents, task outputs and soft tokens for language models,
// on the command line and over HTTP.
//
//	mmserve predict --model DIR cat.jpg
//	mmserve encode --model DIR --output latents --format npy -o cat.npy cat.jpg
//	mmserve help
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
)

// env is what a command may touch besides its arguments.
type env struct {
	stdin          io.Reader
	stdout, stderr io.Writer
}

// command is one verb of the program.
type command struct {
	name, args, about string
	run               func(ctx context.Context, e *env, fs *flag.FlagSet, args []string) error
}

// usageError is a fault of the command line: its command's help is shown.
type usageError string

func (u usageError) Error() string { return string(u) }

func usagef(format string, args ...any) error { return usageError(fmt.Sprintf(format, args...)) }

// errSilent ends the program with status 1; everything has been said.
var errSilent = errors.New("")

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	os.Exit(run(untilSignal(), os.Args[1:], &env{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}))
}

// untilSignal is a context that a first signal to stop ends. A second one, however soon, ends the
// process as if nobody listened.
func untilSignal() context.Context {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-signals
		cancel()
		second := <-signals
		signal.Reset(second)
		if p, err := os.FindProcess(os.Getpid()); err != nil || p.Signal(second) != nil {
			os.Exit(1)
		}
	}()
	return ctx
}

// run runs one command line and returns the exit status: 0 done, 1 failed, 2 wrong usage.
func run(ctx context.Context, args []string, e *env) int {
	if len(args) == 0 {
		args = []string{defaultCommand}
	}
	switch args[0] {
	case "help", "-h", "--help":
		return help(e, args[1:])
	}
	if strings.HasPrefix(args[0], "-") {
		args = append([]string{defaultCommand}, args...)
	}
	c, ok := find(args[0])
	if !ok {
		fmt.Fprintf(e.stderr, "mmserve: unknown command %q\n\n", args[0])
		overview(e.stderr)
		return 2
	}
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	closePlugins, err := c.plugins(ctx)
	if err == nil {
		err = c.run(ctx, e, fs, args[1:])
		closePlugins()
	}
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.Is(err, flag.ErrHelp):
		describe(e.stdout, c, fs)
		return 0
	case errors.As(err, &usage):
		fmt.Fprintf(e.stderr, "mmserve %s: %s\n\n", c.name, usage)
		describe(e.stderr, c, fs)
		return 2
	case errors.Is(err, errSilent):
		return 1
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		fmt.Fprintf(e.stderr, "mmserve %s: interrupted\n", c.name)
		return 130
	}
	fmt.Fprintf(e.stderr, "mmserve %s: %v\n", c.name, err)
	return 1
}

// parse parses flags that may stand before, between and after the operands, and returns the
// operands. "--" ends the flags.
func parse(fs *flag.FlagSet, args []string) ([]string, error) {
	var operands []string
	for {
		if err := fs.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, err
			}
			return nil, usageError(err.Error())
		}
		rest := fs.Args()
		if len(rest) == 0 {
			return operands, nil
		}
		if used := len(args) - len(rest); used > 0 && args[used-1] == "--" {
			return append(operands, rest...), nil
		}
		operands = append(operands, rest[0])
		args = rest[1:]
	}
}

func find(name string) (command, bool) {
	i := slices.IndexFunc(commands(), func(c command) bool { return c.name == name })
	if i < 0 {
		return command{}, false
	}
	return commands()[i], true
}

func help(e *env, args []string) int {
	if len(args) == 0 {
		overview(e.stdout)
		return 0
	}
	return run(context.Background(), []string{args[0], "-h"}, e)
}

func overview(w io.Writer) {
	fmt.Fprint(w, "mmserve turns any medium into a fixed number of latents that a language model can use.\n\nusage: mmserve COMMAND [flags] [operands]\n\n")
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-11s %s\n", c.name, c.about)
	}
	fmt.Fprint(w, "\n\"mmserve help COMMAND\" shows a command's flags. Without a command, mmserve serves the built-in model on\n127.0.0.1:8080. Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.\n")
}

func describe(w io.Writer, c command, fs *flag.FlagSet) {
	fmt.Fprintf(w, "usage: mmserve %s %s\n\n%s.\n\n", c.name, c.args, strings.ToUpper(c.about[:1])+c.about[1:])
	fs.VisitAll(func(f *flag.Flag) {
		name, usage := flag.UnquoteUsage(f)
		dash := "--"
		if len(f.Name) == 1 {
			dash = "-"
		}
		def := ""
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "0" {
			def = " (default " + f.DefValue + ")"
		}
		fmt.Fprintf(w, "  %s%s %s\n        %s%s\n", dash, f.Name, name, usage, def)
	})
}
