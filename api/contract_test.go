package api_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/api"
)

// schema checks JSON values against the part of JSON Schema that openapi.json uses.
type schema struct{ all map[string]any }

// check returns what is wrong with v, "" when nothing is.
func (s schema) check(sch map[string]any, v any, at string) string {
	if ref, ok := sch["$ref"].(string); ok {
		name := strings.TrimPrefix(ref, "#/components/schemas/")
		target, ok := s.all[name].(map[string]any)
		if !ok {
			return at + ": no schema " + ref
		}
		return s.check(target, v, at)
	}
	if c, ok := sch["const"]; ok && c != v {
		return fmt.Sprintf("%s: %v, want %v", at, v, c)
	}
	if e, ok := sch["enum"].([]any); ok && !slices.Contains(e, v) {
		return fmt.Sprintf("%s: %v is none of %v", at, v, e)
	}
	if one, ok := sch["oneOf"].([]any); ok {
		fits := 0
		for _, o := range one {
			if s.check(o.(map[string]any), v, at) == "" {
				fits++
			}
		}
		if fits != 1 {
			return fmt.Sprintf("%s: fits %d of oneOf", at, fits)
		}
	}
	switch t := sch["type"].(type) {
	case string:
		if !isType(v, t) {
			return fmt.Sprintf("%s: %T is no %s", at, v, t)
		}
	case []any:
		if !slices.ContainsFunc(t, func(k any) bool { return isType(v, k.(string)) }) {
			return fmt.Sprintf("%s: %T is none of %v", at, v, t)
		}
	}
	if items, ok := sch["items"].(map[string]any); ok {
		list, _ := v.([]any)
		for i, x := range list {
			if e := s.check(items, x, fmt.Sprintf("%s[%d]", at, i)); e != "" {
				return e
			}
		}
	}
	return s.object(sch, v, at)
}

func (s schema) object(sch map[string]any, v any, at string) string {
	o, ok := v.(map[string]any)
	if !ok {
		return ""
	}
	required, _ := sch["required"].([]any)
	for _, r := range required {
		if _, ok := o[r.(string)]; !ok {
			return fmt.Sprintf("%s: lacks %v", at, r)
		}
	}
	props, _ := sch["properties"].(map[string]any)
	for k, x := range o {
		if p, ok := props[k].(map[string]any); ok {
			if e := s.check(p, x, at+"."+k); e != "" {
				return e
			}
			continue
		}
		switch extra := sch["additionalProperties"].(type) {
		case bool:
			if !extra {
				return fmt.Sprintf("%s: undocumented field %q", at, k)
			}
		case map[string]any:
			if e := s.check(extra, x, at+"."+k); e != "" {
				return e
			}
		}
	}
	return ""
}

func isType(v any, t string) bool {
	switch v := v.(type) {
	case nil:
		return t == "null"
	case bool:
		return t == "boolean"
	case string:
		return t == "string"
	case []any:
		return t == "array"
	case map[string]any:
		return t == "object"
	case float64:
		return t == "number" || t == "integer" && v == math.Trunc(v)
	}
	return false
}

func document(t *testing.T, s *site) (paths, schemas map[string]any) {
	t.Helper()
	doc := s.want(s.do("GET", "/openapi.json", nil), 200).json(t)
	if doc["openapi"] != "3.1.0" {
		t.Errorf("openapi %v", doc["openapi"])
	}
	return doc["paths"].(map[string]any), doc["components"].(map[string]any)["schemas"].(map[string]any)
}

// The document and the table name the same routes, and every reference in it resolves.
func TestDocumentNamesEveryRoute(t *testing.T) {
	s := newSite(t, &api.Server{})
	paths, schemas := document(t, s)
	described := map[string]bool{}
	for path, ops := range paths {
		for verb, op := range ops.(map[string]any) {
			if verb == "parameters" {
				continue
			}
			described[strings.ToUpper(verb)+" "+path] = op.(map[string]any)["security"] == nil
		}
	}
	for _, rt := range api.Routes(s.api) {
		keyed, ok := described[rt.Method+" "+rt.Path]
		if !ok {
			t.Errorf("openapi.json lacks %s %s", rt.Method, rt.Path)
		}
		if keyed != (rt.Scope != api.ScopePublic) {
			t.Errorf("%s %s: the document and the table differ on whether a key is needed", rt.Method, rt.Path)
		}
		delete(described, rt.Method+" "+rt.Path)
	}
	for d := range described {
		t.Errorf("openapi.json describes %s, which is no route", d)
	}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if ref, ok := v["$ref"].(string); ok && schemas[strings.TrimPrefix(ref, "#/components/schemas/")] == nil {
				t.Errorf("dangling %s", ref)
			}
			for _, x := range v {
				walk(x)
			}
		case []any:
			for _, x := range v {
				walk(x)
			}
		}
	}
	walk(map[string]any{"paths": paths, "schemas": schemas})
}

// Live answers, good and bad, fit the document; so do the examples, which are sent as they are.
func TestLiveAnswersFitTheDocument(t *testing.T) {
	s := newSite(t, &api.Server{})
	paths, schemas := document(t, s)
	check := func(verb, path string, a answer) {
		t.Helper()
		op := paths[path].(map[string]any)[strings.ToLower(verb)].(map[string]any)
		resp := op["responses"].(map[string]any)
		r, ok := resp[fmt.Sprint(a.status)].(map[string]any)
		if !ok {
			r = resp["default"].(map[string]any)
		}
		kind, _, _ := strings.Cut(a.header.Get("Content-Type"), ";")
		c, ok := r["content"].(map[string]any)[kind].(map[string]any)
		if !ok {
			t.Errorf("%s %s: %d of type %q is undocumented", verb, path, a.status, kind)
			return
		}
		if !strings.Contains(kind, "json") {
			return
		}
		var v any
		if err := json.Unmarshal(a.body, &v); err != nil {
			t.Errorf("%s %s: %v", verb, path, err)
		}
		if e := (schema{schemas}).check(c["schema"].(map[string]any), v, ""); e != "" {
			t.Errorf("%s %s: %d: %s", verb, path, a.status, e)
		}
	}
	for path, ops := range paths {
		live := strings.NewReplacer("{id}", "default", "{model}", "default", "/versions/{version}", "", "/*", "/").Replace(path)
		if op, ok := ops.(map[string]any)["get"].(map[string]any); ok {
			_ = op
			if path != "/" { // which redirects to the page
				check("GET", path, s.do("GET", live, nil))
			}
			continue
		}
		post := ops.(map[string]any)["post"].(map[string]any)
		check("POST", path, s.post(live, `{"nonsense":1}`))
		body, ok := post["requestBody"].(map[string]any)
		if !ok {
			check("POST", path, s.post(live, ""))
			continue
		}
		media := body["content"].(map[string]any)["application/json"].(map[string]any)
		if ex, ok := media["example"]; ok {
			if e := (schema{schemas}).check(media["schema"].(map[string]any), ex, "example"); e != "" {
				t.Errorf("POST %s: %s", path, e)
			}
			b, _ := json.Marshal(ex)
			check("POST", path, s.want(s.post(live, string(b)), 200))
		}
	}
	check("POST", "/v1/encode", s.post("/v1/encode", texts(`"model":"mlm","output":"all",`, "abc", strings.Repeat("long ", 100)))) // one item fails
	for _, file := range []string{"image/go-video-001.rgb.jpeg", "audio/fsdd-7_george_0.wav", "pointcloud/pyntcloud-diamond.ply"} {
		for _, route := range []string{"/v1/encode", "/v1/predict", "/v1/plan"} {
			check("POST", route, s.want(s.do("POST", route, readMedia(t, file)), 200))
		}
	}
	check("GET", "/v1/models/{id}", s.want(s.do("GET", "/v1/models/none", nil), 404))
	check("POST", "/v1/predict", s.want(s.post("/v1/predict", texts(`"model":"mlm",`, "a[MASK]c")), 200))
}

// Every metric of the server has its line in docs/operations.md.
func TestMetricsAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t, &api.Server{Store: newFake(1).store()})
	s.want(s.post("/v1/encode", texts("", "x")), 200)
	s.want(s.do("GET", "/none", nil), 404)
	n := 0
	for line := range strings.Lines(string(s.do("GET", "/metrics", nil).body)) {
		name, ok := strings.CutPrefix(line, "# HELP mmserve_")
		if !ok {
			continue
		}
		n++
		if name, _, _ = strings.Cut(name, " "); !strings.Contains(string(doc), "`mmserve_"+name+"`") {
			t.Errorf("docs/operations.md lacks mmserve_%s", name)
		}
	}
	if n < 10 {
		t.Errorf("%d metrics were exposed, want every one", n)
	}
}

// Every code a client can meet has its section in docs/errors.md.
func TestEveryCodeIsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, code := range api.Codes() {
		if !strings.Contains(string(doc), "\n## "+code+"\n") {
			t.Errorf("docs/errors.md lacks a section %q", code)
		}
	}
}

// skeleton is what of an answer does not depend on weights or time: the fields, the kinds of their
// values, and the values that name something of the protocol.
func skeleton(v any, key string) string {
	switch v := v.(type) {
	case map[string]any:
		var fields []string
		for _, k := range slices.Sorted(maps.Keys(v)) {
			fields = append(fields, k+":"+skeleton(v[k], k))
		}
		return "{" + strings.Join(fields, " ") + "}"
	case []any:
		var kinds []string
		for _, x := range v {
			kinds = append(kinds, skeleton(x, key))
		}
		return "[" + strings.Join(slices.Compact(kinds), " ") + "]"
	case string:
		if slices.Contains([]string{"id", "object", "status", "dtype", "datatype", "order", "endian", "modality", "media_type", "code", "model", "role"}, key) && !strings.HasPrefix(v, "chatcmpl-") {
			return v
		}
	}
	return fmt.Sprintf("%T", v)
}

// Every example of the document is an exchange that was recorded, and happens again.
func TestExamplesHappenAgain(t *testing.T) {
	s := newSite(t, &api.Server{})
	paths, _ := document(t, s)
	n := 0
	for path, ops := range paths {
		post, ok := ops.(map[string]any)["post"].(map[string]any)
		if !ok {
			continue
		}
		body, _ := post["requestBody"].(map[string]any)
		content, _ := body["content"].(map[string]any)
		asked, _ := content["application/json"].(map[string]any)
		ok200, _ := post["responses"].(map[string]any)["200"].(map[string]any)
		answered, _ := ok200["content"].(map[string]any)
		kind, _ := answered["application/json"].(map[string]any)
		if (asked["example"] == nil) != (kind["example"] == nil) {
			t.Errorf("%s: half an example", path)
		}
		if asked["example"] == nil {
			continue
		}
		n++
		b, _ := json.Marshal(asked["example"])
		got := s.want(s.post(strings.ReplaceAll(path, "{model}", "default"), string(b)), 200).json(t)
		if have, want := skeleton(got, ""), skeleton(kind["example"], ""); have != want {
			t.Errorf("%s answers\n%s\nthe example says\n%s", path, have, want)
		}
	}
	if n < 7 {
		t.Errorf("%d examples", n)
	}
}
