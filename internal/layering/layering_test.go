package layering_test

import (
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/mmserve/mmserve"

// floors gives each package its height: a package imports only from lower floors. A name
// that ends in "/" covers what lies below it. Siblings on one floor never import each other,
// except that a package may import its own sub-packages.
var floors = []struct {
	pkg   string
	floor int
}{
	{"internal/kernel", 0},
	{"internal/position", 0},
	{"internal/spelling", 0},
	{"tensor", 1},
	{"weights", 2},
	{"internal/nn", 3},
	{"internal/refcase", 3},
	{"internal/golden", 4},
	{"internal/feed", 4},
	{"modality/media", 2},
	{"modality/imagefile", 3},
	{"modality/audiofile", 3},
	{"modality/pointfile", 3},
	{"modality/videofile", 4},
	{"modality", 5},
	{"modality/modalitytest", 6},
	{"modality/external", 6},
	{"perceiver", 5},
	{"resampler", 5},
	{"vision", 5},
	{"flamingo/tokenizer", 4},
	{"flamingo", 5},
	{"models", 5},
	{"pipeline/conditioned", 6},
	{"pipeline", 7},
	{"client", 0},
	{"api", 8},
	{"cmd/", 9},
	{"examples/custommodality", 8}, // examples/custommain imports it
	{"examples/", 9},
	{"internal/layering", 10},
}

// server holds what a user of the library packages must never pull in.
var server = []string{"net/http", "github.com/go-chi/chi", "github.com/prometheus/"}

// only names third-party code that one package alone may import.
var only = map[string]string{
	"github.com/go-chi/chi/v5":            "api",
	"github.com/disintegration/imaging":   "modality/imagefile",
	"github.com/hajimehoshi/go-mp3":       "modality/audiofile",
	"github.com/prometheus/client_golang": "api",
}

type listed struct {
	ImportPath string
	Dir        string
	Imports    []string
	Deps       []string
	GoFiles    []string
}

func TestFloors(t *testing.T) {
	pkgs := list(t)
	for _, p := range pkgs {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		floor, ok := floorOf(name)
		if !ok {
			t.Errorf("package %s has no floor: add it to the table", name)
			continue
		}
		for _, imp := range p.Imports {
			for third, where := range only {
				if strings.HasPrefix(imp, third) && name != where {
					t.Errorf("%s imports %s, which only %s may", name, imp, where)
				}
			}
			dep, ours := strings.CutPrefix(imp, module+"/")
			if !ours {
				continue
			}
			if f, ok := floorOf(dep); ok && f >= floor {
				t.Errorf("%s (floor %d) imports %s (floor %d)", name, floor, dep, f)
			}
		}
	}
}

func TestLibrariesPullInNoServer(t *testing.T) {
	for _, p := range list(t) {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		switch name {
		case "pipeline", "models", "modality", "perceiver", "resampler", "vision", "flamingo", "weights", "tensor":
		default:
			continue
		}
		for _, dep := range p.Deps {
			for _, s := range server {
				if strings.HasPrefix(dep, s) {
					t.Errorf("%s pulls in %s", name, dep)
				}
			}
		}
	}
}

func TestEveryPackageHasADocComment(t *testing.T) {
	for _, p := range list(t) {
		found := false
		for _, f := range p.GoFiles {
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, f), nil, parser.ParseComments|parser.PackageClauseOnly)
			if err != nil {
				t.Fatal(err)
			}
			found = found || file.Doc != nil
		}
		if !found && len(p.GoFiles) > 0 {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

func floorOf(name string) (int, bool) {
	for _, f := range floors {
		if f.pkg == name || strings.HasSuffix(f.pkg, "/") && strings.HasPrefix(name, f.pkg) {
			return f.floor, true
		}
	}
	return 0, false
}

func list(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Imports,Deps,GoFiles", "./...")
	cmd.Dir = filepath.Join("..", "..")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var pkgs []listed
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}
