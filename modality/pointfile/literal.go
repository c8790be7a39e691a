package pointfile

import (
	"strconv"
	"strings"
)

// parseLiteral reads the Python literals of an NPY header: strings, integers, True, False,
// tuples and lists (as []any) and dictionaries with string keys. Nothing is evaluated.
func parseLiteral(s string) (any, error) {
	p := &literal{s: s}
	v, err := p.value(0)
	if p.space(); err == nil && p.s != "" {
		err = malformed("npy: header goes on after its dictionary")
	}
	return v, err
}

type literal struct{ s string }

func (p *literal) space() { p.s = strings.TrimLeft(p.s, " \t\r\n") }

// eat takes a prefix when it is there.
func (p *literal) eat(prefix string) bool {
	p.space()
	rest, ok := strings.CutPrefix(p.s, prefix)
	if ok {
		p.s = rest
	}
	return ok
}

func (p *literal) value(depth int) (any, error) {
	p.space()
	switch {
	case depth > 4 || p.s == "":
		return nil, malformed("npy: header")
	case p.eat("True"):
		return true, nil
	case p.eat("False"):
		return false, nil
	case p.eat("("):
		return p.list(")", depth)
	case p.eat("["):
		return p.list("]", depth)
	case p.eat("{"):
		return p.dict(depth)
	case p.s[0] == '\'' || p.s[0] == '"':
		return p.str()
	}
	n := len(p.s) - len(strings.TrimLeft(p.s, "-0123456789"))
	v, err := strconv.ParseInt(p.s[:n], 10, 64)
	p.s = strings.TrimPrefix(p.s[n:], "L") // Python 2
	return v, err
}

func (p *literal) str() (string, error) {
	end := strings.IndexByte(p.s[1:], p.s[0])
	if end < 0 || strings.Contains(p.s[1:end+1], `\`) {
		return "", malformed("npy: header")
	}
	v := p.s[1 : end+1]
	p.s = p.s[end+2:]
	return v, nil
}

func (p *literal) list(end string, depth int) ([]any, error) {
	out := []any{}
	for !p.eat(end) {
		v, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
		if !p.eat(",") && !strings.HasPrefix(p.s, end) {
			return nil, malformed("npy: header")
		}
	}
	return out, nil
}

func (p *literal) dict(depth int) (map[string]any, error) {
	out := map[string]any{}
	for !p.eat("}") {
		k, err := p.value(depth + 1)
		key, ok := k.(string)
		if err != nil || !ok || !p.eat(":") {
			return nil, malformed("npy: header")
		}
		if out[key], err = p.value(depth + 1); err != nil {
			return nil, err
		}
		if !p.eat(",") && !strings.HasPrefix(p.s, "}") {
			return nil, malformed("npy: header")
		}
	}
	return out, nil
}
