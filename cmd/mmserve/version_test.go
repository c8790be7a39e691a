package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The bill of materials names every module that the program is built of, as go.mod pins it.
func TestBillOfMaterials(t *testing.T) {
	var out bytes.Buffer
	if code := run(t.Context(), []string{"version", "--sbom"}, &env{stdout: &out, stderr: t.Output()}); code != 0 {
		t.Fatalf("status %d", code)
	}
	var bill struct {
		Format     string `json:"bomFormat"`
		Components []part `json:"components"`
	}
	if err := json.Unmarshal(out.Bytes(), &bill); err != nil || bill.Format != "CycloneDX" {
		t.Fatalf("%v: %s", err, out.Bytes())
	}
	pinned, err := os.ReadFile(filepath.Join("..", "..", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"github.com/go-chi/chi/v5", "gonum.org/v1/gonum", "github.com/disintegration/imaging", "github.com/hajimehoshi/go-mp3", "stdlib"} {
		i := slices.IndexFunc(bill.Components, func(p part) bool { return p.Name == name })
		if i < 0 {
			t.Errorf("lacks %s", name)
			continue
		}
		p := bill.Components[i]
		if p.PURL != "pkg:golang/"+name+"@"+p.Version || name != "stdlib" && (!strings.Contains(string(pinned), name+" "+p.Version) || len(p.Properties) != 1) {
			t.Errorf("%+v", p)
		}
	}
}
