package pipeline

import (
	"bytes"
	_ "embed" // for the schema
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/mmserve/mmserve/internal/spelling"
)

// nativeSchemaText is the JSON Schema of model.json. It is what people and editors read, and
// what decides here which keys, types and bounds there are.
//
//go:embed model.schema.json
var nativeSchemaText []byte

// NativeSchema is the JSON Schema (2020-12) of model.json.
func NativeSchema() []byte { return bytes.Clone(nativeSchemaText) }

// schema is the part of JSON Schema that model.schema.json is written in.
type schema struct {
	Ref               string              `json:"$ref"`
	Type              schemaTypes         `json:"type"`
	Const             *string             `json:"const"`
	Enum              []string            `json:"enum"`
	Pattern           string              `json:"pattern"`
	Minimum           *float64            `json:"minimum"`
	ExclusiveMinimum  *float64            `json:"exclusiveMinimum"`
	Maximum           *float64            `json:"maximum"`
	Items             *schema             `json:"items"`
	MinItems          int                 `json:"minItems"`
	MaxItems          *int                `json:"maxItems"`
	Properties        map[string]*schema  `json:"properties"`
	PropertyNames     *schema             `json:"propertyNames"`
	MinProperties     int                 `json:"minProperties"`
	Required          []string            `json:"required"`
	DependentRequired map[string][]string `json:"dependentRequired"`
	Additional        *schemaOrBool       `json:"additionalProperties"`
	OneOf             []*schema           `json:"oneOf"` // told apart by their "kind"
	Defs              map[string]*schema  `json:"$defs"`
	// for people
	Schema      string          `json:"$schema"`
	ID          string          `json:"$id"`
	Title       string          `json:"title"`
	Description string          `json:"description"`
	Default     json.RawMessage `json:"default"`
}

// schemaTypes is one type or a list of them.
type schemaTypes []string

// UnmarshalJSON implements json.Unmarshaler.
func (t *schemaTypes) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*t = schemaTypes{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(t))
}

// schemaOrBool is a schema, or false for none.
type schemaOrBool struct{ schema *schema }

// UnmarshalJSON implements json.Unmarshaler.
func (s *schemaOrBool) UnmarshalJSON(b []byte) error {
	if string(b) == "false" {
		return nil
	}
	return json.Unmarshal(b, &s.schema)
}

// nativeSchema is the parsed schema of model.json.
var nativeSchema = sync.OnceValue(func() *schema {
	var s schema
	if err := json.Unmarshal(nativeSchemaText, &s); err != nil {
		panic("pipeline: model.schema.json: " + err.Error()) // it is embedded above
	}
	return &s
})

// checker compares a JSON value with a schema and notes every fault with its place.
type checker struct {
	root   *schema
	faults nativeFaults
}

func (c *checker) at(place, key string) string {
	if place == "" {
		return key
	}
	return place + "." + key
}

func (c *checker) add(place, format string, args ...any) {
	if place == "" {
		place = "the whole"
	}
	c.faults.add("%s: %s", place, fmt.Sprintf(format, args...))
}

// check notes what of v (as decodeJSON gives it) does not fit s.
func (c *checker) check(place string, s *schema, v any) {
	if name, ok := strings.CutPrefix(s.Ref, "#/$defs/"); ok {
		c.check(place, c.root.Defs[name], v)
	}
	if len(s.Type) > 0 && !slices.ContainsFunc(s.Type, func(t string) bool { return isType(v, t) }) {
		c.add(place, "want %s, got %s", strings.Join(s.Type, " or "), told(v))
		return
	}
	if s.Const != nil && v != *s.Const {
		c.add(place, "want %q, got %s", *s.Const, told(v))
	}
	if text, ok := v.(string); s.Enum != nil && !(ok && slices.Contains(s.Enum, text)) {
		c.add(place, "want %s, got %s", strings.Join(s.Enum, ", "), told(v))
	}
	if len(s.OneOf) > 0 {
		c.oneOf(place, s, v)
	}
	switch v := v.(type) {
	case json.Number:
		c.number(place, s, v)
	case []any:
		if most := len(v); len(v) < s.MinItems || s.MaxItems != nil && most > *s.MaxItems {
			c.add(place, "%d values, want %s", len(v), span(s.MinItems, s.MaxItems))
		}
		for i, x := range v {
			if s.Items != nil {
				c.check(fmt.Sprintf("%s[%d]", place, i), s.Items, x)
			}
		}
	case map[string]any:
		c.object(place, s, v)
	}
}

func span(least int, most *int) string {
	switch {
	case most == nil:
		return fmt.Sprintf("at least %d", least)
	case *most == least:
		return strconv.Itoa(least)
	}
	return fmt.Sprintf("%d to %d", least, *most)
}

func (c *checker) number(place string, s *schema, n json.Number) {
	x, err := n.Float64()
	if err != nil {
		c.add(place, "%s is beyond all bounds", told(n))
		return
	}
	switch {
	case s.Minimum != nil && x < *s.Minimum:
		c.add(place, "%s, want at least %v", n, *s.Minimum)
	case s.ExclusiveMinimum != nil && x <= *s.ExclusiveMinimum:
		c.add(place, "%s, want more than %v", n, *s.ExclusiveMinimum)
	case s.Maximum != nil && x > *s.Maximum:
		c.add(place, "%s, want at most %.0f", n, *s.Maximum)
	}
}

// oneOf checks v against the alternative that its "kind" names.
func (c *checker) oneOf(place string, s *schema, v any) {
	object, ok := v.(map[string]any)
	if !ok {
		c.add(place, "want object, got %s", told(v))
		return
	}
	var kinds []string
	for _, alternative := range s.OneOf {
		kind := *alternative.Properties["kind"].Const
		if object["kind"] == kind {
			c.check(place, alternative, v)
			return
		}
		kinds = append(kinds, kind)
	}
	kind, said := object["kind"]
	if !said {
		c.add(c.at(place, "kind"), "missing, want %s", strings.Join(kinds, ", "))
		return
	}
	c.add(c.at(place, "kind"), "want %s, got %s", strings.Join(kinds, ", "), told(kind))
}

func (c *checker) object(place string, s *schema, v map[string]any) {
	for _, key := range s.Required {
		if _, ok := v[key]; !ok {
			c.add(c.at(place, key), "missing")
		}
	}
	for key, others := range s.DependentRequired {
		for _, other := range others {
			if _, ok := v[key]; ok && v[other] == nil {
				c.add(c.at(place, other), "missing, and there is %s", key)
			}
		}
	}
	if len(v) < s.MinProperties {
		c.add(place, "empty")
	}
	for _, key := range slices.Sorted(maps.Keys(v)) {
		if p := s.Properties[key]; p != nil {
			c.check(c.at(place, key), p, v[key])
			continue
		}
		if s.PropertyNames != nil {
			if names := c.root.resolve(s.PropertyNames); !regexp.MustCompile(names.Pattern).MatchString(key) {
				c.add(place, "the name %q, want letters, digits, _ and -", key)
			}
		}
		switch {
		case s.Additional == nil:
		case s.Additional.schema != nil:
			c.check(c.at(place, key), s.Additional.schema, v[key])
		default:
			c.add(c.at(place, key), "unknown key%s", nearestKey(key, slices.Sorted(maps.Keys(s.Properties))))
		}
	}
}

// resolve follows a reference.
func (s *schema) resolve(t *schema) *schema {
	if name, ok := strings.CutPrefix(t.Ref, "#/$defs/"); ok {
		return s.Defs[name]
	}
	return t
}

// isType reports whether a value is of a JSON Schema type.
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
	case json.Number:
		return t == "number" || t == "integer" && whole(v)
	}
	return false
}

// whole reports whether a number is an integer as Go's decoder reads one.
func whole(n json.Number) bool {
	_, err := strconv.ParseInt(n.String(), 10, 64)
	return err == nil
}

// told shows a value in an error, cut to a few dozen characters.
func told(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprintf("%T", v)
	}
	if text := []rune(string(b)); len(text) > 40 {
		return string(text[:40]) + "…"
	}
	return string(b)
}

// nearestKey suggests the known key that an unknown one may have been meant as.
func nearestKey(key string, known []string) string {
	best := spelling.Nearest(key, known, len(key)/2)
	if best == "" {
		return ", there are " + strings.Join(known, ", ")
	}
	return fmt.Sprintf(", did you mean %q?", best)
}

// plainNumber writes a whole number such as 2.0 or 1e3 the way Go reads integers.
func plainNumber(n json.Number) json.Number {
	const exact = 1 << 53
	x, err := n.Float64()
	if err != nil || x != math.Trunc(x) || math.Abs(x) > exact {
		return n
	}
	return json.Number(strconv.FormatInt(int64(x), 10))
}

// maxJSONDepth bounds the nesting of a model.json.
const maxJSONDepth = 64

// decodeJSON reads one JSON value with its numbers as they are written, and refuses keys that
// stand twice and anything after the value.
func decodeJSON(text []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	v, err := decodeValue(d, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("something stands after the JSON value, at byte %d", d.InputOffset())
	}
	return v, nil
}

func decodeValue(d *json.Decoder, depth int) (any, error) {
	t, err := d.Token()
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, fmt.Errorf("at byte %d: %w", d.InputOffset(), err)
	}
	if n, ok := t.(json.Number); ok {
		return plainNumber(n), nil
	}
	delim, ok := t.(json.Delim)
	if !ok {
		return t, nil
	}
	if depth == maxJSONDepth {
		return nil, fmt.Errorf("at byte %d: nested more than %d deep", d.InputOffset(), maxJSONDepth)
	}
	object, list := map[string]any{}, []any{}
	for d.More() {
		key := ""
		if delim == '{' {
			k, err := d.Token()
			if err != nil {
				return nil, fmt.Errorf("at byte %d: %w", d.InputOffset(), err)
			}
			key = k.(string)
			if _, twice := object[key]; twice {
				return nil, fmt.Errorf("at byte %d: the key %q stands twice", d.InputOffset(), key)
			}
		}
		v, err := decodeValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		if delim == '{' {
			object[key] = v
		} else {
			list = append(list, v)
		}
	}
	if _, err := d.Token(); err != nil {
		return nil, fmt.Errorf("at byte %d: %w", d.InputOffset(), err)
	}
	if delim == '{' {
		return object, nil
	}
	return list, nil
}
