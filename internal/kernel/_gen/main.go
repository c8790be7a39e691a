// Command gen writes the assembly of internal/kernel. Run it in this directory with the
// directory to write to:
//
//	go run . ..
//
// The loops are written once against a small vector language (vec.go) with a back end for
// AVX-512, AVX2 and NEON; tiles and transposes, where the instruction sets differ most, are
// written for each.
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	dir := ".."
	if len(os.Args) > 1 {
		dir = os.Args[1]
	}
	for name, text := range generate() {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, "gen:", err)
			os.Exit(1)
		}
	}
}

// generate returns every generated file by name.
func generate() map[string]string {
	files := map[string]string{}
	for _, v := range []*vec{avx512(), avx2(), neon()} {
		emitMath(v)
		emitSoftmaxTile(v)
		emitBias(v)
		emitNorm(v)
		emitFinish(v)
		emitGrid(v)
		emitWiden(v)
		emitPeak(v, "peak", "runs n times 12 multiply-adds of vectors.", v.fma)
		switch v.name {
		case "avx512":
			emitTiles512(v)
			emitTranspose512(v)
			emitDots512(v)
		case "avx2":
			emitTiles256(v)
			emitTranspose256(v)
		case "neon":
			emitTilesNEON(v)
		}
		arch := "amd64"
		if v.arm {
			arch = "arm64"
		}
		files[v.name+"_"+arch+".s"] = v.assembly()
		files[v.name+"_decl_"+arch+".go"] = v.declarations()
	}
	return files
}
