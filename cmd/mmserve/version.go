package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/mmserve/mmserve/internal/kernel"
)

func version(_ context.Context, e *env, fs *flag.FlagSet, args []string) error {
	bill := fs.Bool("sbom", false, "print the modules that the program is built of, as CycloneDX JSON")
	if _, err := parse(fs, args); err != nil {
		return err
	}
	if *bill {
		return printBill(e.stdout)
	}
	_, err := fmt.Fprintf(e.stdout, "mmserve %s %s/%s %s kernels %s\n", buildVersion(), runtime.GOOS, runtime.GOARCH, runtime.Version(), kernel.Set())
	return err
}

// buildVersion is the module's version as built, "devel" outside a release.
func buildVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}

// part is a component of a CycloneDX document (cyclonedx.org, 1.6).
type part struct {
	Type       string     `json:"type"`
	Ref        string     `json:"bom-ref"`
	Name       string     `json:"name"`
	Version    string     `json:"version"`
	PURL       string     `json:"purl"`
	Properties []property `json:"properties,omitempty"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// printBill writes what the linker noted of the program: its modules, with the sums that go.sum pins
// them by, and the standard library. The same binary says the same bytes.
func printBill(w io.Writer) error {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return errors.New("the program does not know what it is built of")
	}
	component := func(kind, name, version, sum string) part {
		purl := "pkg:golang/" + name + "@" + version
		p := part{Type: kind, Ref: purl, Name: name, Version: version, PURL: purl}
		if sum != "" {
			p.Properties = []property{{"go:sum", sum}}
		}
		return p
	}
	parts := []part{component("library", "stdlib", strings.TrimPrefix(info.GoVersion, "go"), "")}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		parts = append(parts, component("library", m.Path, m.Version, m.Sum))
	}
	out := json.NewEncoder(w)
	out.SetIndent("", " ")
	return out.Encode(map[string]any{
		"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
		"metadata":   map[string]any{"component": component("application", info.Main.Path, buildVersion(), "")},
		"components": parts,
	})
}
