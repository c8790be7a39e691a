package api_test

import (
	"bytes"
	"encoding/gob"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/api"
)

// What is kept of a key is its hash: the key itself is in nothing that is kept, nor is the hash a
// key. Hashes are compared in constant time and in no other way.
func TestKeysAreHashed(t *testing.T) {
	keys := new(api.Keys)
	const secret = "correct-horse"
	if err := keys.Set([]api.Key{{Name: "k", Hash: api.HashKey(secret), Scopes: []api.Scope{api.ScopeEncode}}}); err != nil {
		t.Fatal(err)
	}
	var kept bytes.Buffer
	gob.NewEncoder(&kept).Encode(api.Key{Name: "k", Hash: api.HashKey(secret)})
	if strings.Contains(kept.String(), secret) || strings.Contains(fmt.Sprintf("%+v", keys), secret) {
		t.Error("the key itself is kept")
	}
	s := newSite(t, &api.Server{Store: newFake(1).store(), Keys: keys})
	for key, status := range map[string]int{secret: 200, secret + "x": 401, secret[:5]: 401, "": 401, api.HashKey(secret): 401} {
		s.want(s.post("/v1/encode", texts("", "x"), "Authorization", "Bearer "+key), status)
	}
	if strings.Contains(s.log.String(), secret) {
		t.Error("the log holds a key")
	}
	file, err := parser.ParseFile(token.NewFileSet(), "auth.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	constant := 0
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			if n.Sel.Name == "ConstantTimeCompare" {
				constant++
			}
			if n.Sel.Name == "Equal" {
				t.Error("auth.go compares with Equal")
			}
		case *ast.BinaryExpr:
			for _, side := range []ast.Expr{n.X, n.Y} {
				if x, ok := side.(*ast.SelectorExpr); ok && (n.Op == token.EQL || n.Op == token.NEQ) && strings.EqualFold(x.Sel.Name, "hash") {
					t.Errorf("auth.go compares a hash with %s", n.Op)
				}
			}
		}
		return true
	})
	if constant != 1 {
		t.Errorf("auth.go compares in constant time in %d places, want 1", constant)
	}
}

// The table of promises in docs/operations.md names tests that exist.
func TestPromisesNameTests(t *testing.T) {
	doc, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile(`\bTest[A-Z]\w+`).FindAllString(string(doc), -1)
	if len(named) < 30 {
		t.Errorf("the table names %d tests", len(named))
	}
	var sources strings.Builder
	for _, dir := range []string{".", "../cmd/mmserve", "../perceiver", "../modality", "../modality/external", "../weights", "../pipeline", "../internal/layering"} {
		files, _ := filepath.Glob(filepath.Join(dir, "*_test.go"))
		for _, f := range files {
			b, _ := os.ReadFile(f)
			sources.Write(b)
		}
	}
	for _, name := range named {
		if !strings.Contains(sources.String(), "func "+name+"(t *testing.T)") {
			t.Errorf("docs/operations.md names %s, which is no test", name)
		}
	}
}
