package tokenizer

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// normaliser rewrites a text; splitter cuts pieces further (first says that they begin the
// input); decoder rewrites a list of tokens towards text.
type (
	normaliser func(string) string
	splitter   func(pieces []string, first bool) []string
	decoder    func(tokens []string) []string
)

// pattern is {"String": "…"} or {"Regex": "…"}.
type pattern struct {
	String *string `json:"String"`
	Regex  *string `json:"Regex"`
}

// stage is the union of the fields of normalisers, pre-tokenisers, decoders and processors.
type stage struct {
	Type       string            `json:"type"`
	Normal     []json.RawMessage `json:"normalizers"`
	Pre        []json.RawMessage `json:"pretokenizers"`
	Decoders   []json.RawMessage `json:"decoders"`
	Processors []json.RawMessage `json:"processors"`

	Prepend     string          `json:"prepend"`
	Pattern     pattern         `json:"pattern"`
	Content     json.RawMessage `json:"content"`
	Left        bool            `json:"strip_left"`
	Right       bool            `json:"strip_right"`
	Prefix      *bool           `json:"add_prefix_space"`
	UseRegex    *bool           `json:"use_regex"`
	Replacement string          `json:"replacement"`
	Scheme      string          `json:"prepend_scheme"`
	Split       *bool           `json:"split"`
	Behavior    string          `json:"behavior"`
	Invert      bool            `json:"invert"`
	Individual  bool            `json:"individual_digits"`
	CharsMap    string          `json:"precompiled_charsmap"`
	Start       int             `json:"start"`
	Stop        int             `json:"stop"`

	Single  []map[string]templatePart `json:"single"`
	Special map[string]struct {
		IDs []int `json:"ids"`
	} `json:"special_tokens"`
}

type templatePart struct {
	ID string `json:"id"`
}

// read parses a stage; ok is false for null.
func read(raw json.RawMessage, what string) (s stage, ok bool, err error) {
	if len(raw) == 0 || string(raw) == "null" {
		return s, false, nil
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return s, false, fmt.Errorf("tokenizer: %s: %w", what, err)
	}
	return s, true, nil
}

func (s stage) text() string {
	var text string
	if json.Unmarshal(s.Content, &text) != nil {
		return ""
	}
	return text
}

// all parses a sequence of stages, one after the other.
func all[T any](list []json.RawMessage, parse func(json.RawMessage) ([]T, error)) ([]T, error) {
	var out []T
	for _, raw := range list {
		part, err := parse(raw)
		if err != nil {
			return nil, err
		}
		out = append(out, part...)
	}
	return out, nil
}

func parseNormaliser(raw json.RawMessage) ([]normaliser, error) {
	s, ok, err := read(raw, "normalizer")
	if !ok || err != nil {
		return nil, err
	}
	switch s.Type {
	case "Sequence":
		return all(s.Normal, parseNormaliser)
	case "NFC":
		return []normaliser{norm.NFC.String}, nil
	case "NFD":
		return []normaliser{norm.NFD.String}, nil
	case "NFKC":
		return []normaliser{norm.NFKC.String}, nil
	case "NFKD":
		return []normaliser{norm.NFKD.String}, nil
	case "Lowercase":
		return []normaliser{strings.ToLower}, nil
	case "Strip":
		return []normaliser{func(t string) string {
			if s.Left {
				t = strings.TrimLeftFunc(t, unicode.IsSpace)
			}
			if s.Right {
				t = strings.TrimRightFunc(t, unicode.IsSpace)
			}
			return t
		}}, nil
	case "Precompiled":
		m, err := parseCharsMap(s.CharsMap)
		if err != nil {
			return nil, err
		}
		return []normaliser{m.normalise}, nil
	case "Prepend":
		return []normaliser{func(t string) string {
			if t == "" {
				return t
			}
			return s.Prepend + t
		}}, nil
	case "Replace":
		f, err := s.replace()
		if err != nil {
			return nil, err
		}
		return []normaliser{f}, nil
	}
	return nil, fmt.Errorf("tokenizer: normalizer %q is not known", s.Type)
}

// replace is the rewriting of a Replace stage.
func (s stage) replace() (func(string) string, error) {
	content := s.text()
	if s.Pattern.String != nil {
		old := *s.Pattern.String
		return func(t string) string { return strings.ReplaceAll(t, old, content) }, nil
	}
	cut, err := s.compile()
	if err != nil {
		return nil, err
	}
	return func(t string) string {
		var b strings.Builder
		at := 0
		cut(t, func(from, to int) {
			b.WriteString(t[at:from])
			b.WriteString(content)
			at = to
		})
		b.WriteString(t[at:])
		return b.String()
	}, nil
}

// gpt2 is the division into words of byte-level BPE (openai/gpt-2 encoder.py).
const gpt2 = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`

// space is what \s means in the tokenizers library: all Unicode white space.
const space = `\s\x0b\x{85}\p{Z}`

// matcher calls f for every match in t, from the left.
type matcher func(t string, f func(from, to int))

// compile prepares a Split or Replace pattern. Go's regexp has no lookahead; the one that
// published tokenizers use, a run of white space that leaves its last character to the next
// word, is done by hand.
func (s stage) compile() (matcher, error) {
	if s.Pattern.String != nil {
		return compile(regexp.QuoteMeta(*s.Pattern.String))
	}
	if s.Pattern.Regex == nil {
		return nil, fmt.Errorf("tokenizer: %s without a pattern", s.Type)
	}
	return compile(*s.Pattern.Regex)
}

func compile(expr string) (matcher, error) {
	const lookahead = `\s+(?!\S)|\s+`
	body, trailing := strings.CutSuffix(expr, lookahead)
	if trailing {
		expr = body + `(\s+)`
	}
	if strings.Contains(expr, "(?!") || strings.Contains(expr, "(?=") || strings.Contains(expr, "(?<") {
		return nil, fmt.Errorf("tokenizer: pattern %q looks ahead in a way that is not known", expr)
	}
	re, err := regexp.Compile(unicodeSpace(expr))
	if err != nil {
		return nil, fmt.Errorf("tokenizer: pattern: %w", err)
	}
	return func(t string, f func(from, to int)) {
		for at := 0; at < len(t); {
			m := re.FindStringSubmatchIndex(t[at:])
			if m == nil {
				return
			}
			from, to := at+m[0], at+m[1]
			if trailing && m[len(m)-2] >= 0 && to < len(t) {
				if _, n := utf8.DecodeLastRuneInString(t[from:to]); to-n > from {
					to -= n
				}
			}
			if to == from { // an empty match divides nothing
				_, n := utf8.DecodeRuneInString(t[from:])
				at = from + n
				continue
			}
			f(from, to)
			at = to
		}
	}, nil
}

// unicodeSpace widens \s and \S of an expression to Unicode white space.
func unicodeSpace(expr string) string {
	var b strings.Builder
	class := false
	for i := 0; i < len(expr); i++ {
		c := expr[i]
		switch {
		case c == '\\' && i+1 < len(expr):
			i++
			switch {
			case expr[i] == 's' && class:
				b.WriteString(space)
			case expr[i] == 's':
				b.WriteString("[" + space + "]")
			case expr[i] == 'S' && !class:
				b.WriteString("[^" + space + "]")
			default:
				b.WriteByte(c)
				b.WriteByte(expr[i])
			}
			continue
		case c == '[':
			class = true
		case c == ']':
			class = false
		}
		b.WriteByte(c)
	}
	return b.String()
}

func parseSplitter(raw json.RawMessage) ([]splitter, error) {
	s, ok, err := read(raw, "pre_tokenizer")
	if !ok || err != nil {
		return nil, err
	}
	switch s.Type {
	case "Sequence":
		return all(s.Pre, parseSplitter)
	case "ByteLevel":
		return s.byteLevel()
	case "Metaspace":
		return s.metaspace()
	case "Split":
		m, err := s.compile()
		if err != nil {
			return nil, err
		}
		return s.splitBy(m)
	case "Digits":
		expr := `\p{N}+`
		if s.Individual {
			expr = `\p{N}`
		}
		m, err := compile(expr)
		s.Behavior = "Isolated"
		if err != nil {
			return nil, err
		}
		return s.splitBy(m)
	case "WhitespaceSplit":
		m, err := compile(`\s+`)
		s.Behavior = "Removed"
		if err != nil {
			return nil, err
		}
		return s.splitBy(m)
	}
	return nil, fmt.Errorf("tokenizer: pre_tokenizer %q is not known", s.Type)
}

// splitBy cuts at matches, or with invert at what lies between them.
func (s stage) splitBy(m matcher) ([]splitter, error) {
	switch s.Behavior {
	case "Isolated", "Removed", "MergedWithPrevious", "MergedWithNext":
	default:
		return nil, fmt.Errorf("tokenizer: split behavior %q is not known", s.Behavior)
	}
	return []splitter{func(pieces []string, _ bool) []string {
		var out []string
		for _, p := range pieces {
			out = append(out, cut(p, m, s.Behavior, s.Invert)...)
		}
		return out
	}}, nil
}

// part is a stretch of a text that matches, or not.
type part struct {
	text  string
	match bool
}

func cut(p string, m matcher, behavior string, invert bool) []string {
	var parts []part
	add := func(from, to int, match bool) {
		if from < to {
			parts = append(parts, part{p[from:to], match != invert})
		}
	}
	at := 0
	m(p, func(from, to int) {
		add(at, from, false)
		add(from, to, true)
		at = to
	})
	add(at, len(p), false)
	var out []string
	join := false
	for _, q := range parts {
		switch {
		case behavior == "Removed" && q.match:
		case behavior == "MergedWithPrevious" && q.match && join:
			out[len(out)-1] += q.text
			join = false
		case behavior == "MergedWithNext" && !q.match && join:
			out[len(out)-1] += q.text
			join = false
		default:
			out = append(out, q.text)
			join = q.match == (behavior == "MergedWithNext")
		}
	}
	return out
}

// byteLevel spells the bytes of each word as printable characters.
func (s stage) byteLevel() ([]splitter, error) {
	m, err := compile(gpt2)
	if err != nil {
		return nil, err
	}
	prefix := s.Prefix == nil || *s.Prefix
	words := s.UseRegex == nil || *s.UseRegex
	return []splitter{func(pieces []string, _ bool) []string {
		var out []string
		for _, p := range pieces {
			if prefix && !strings.HasPrefix(p, " ") {
				p = " " + p
			}
			list := []string{p}
			if words {
				list = cut(p, m, "Isolated", false)
			}
			for _, w := range list {
				out = append(out, spell(w))
			}
		}
		return out
	}}, nil
}

// metaspace marks spaces with a visible character and cuts before it.
func (s stage) metaspace() ([]splitter, error) {
	mark := s.Replacement
	if mark == "" {
		mark = "▁"
	}
	scheme := s.scheme()
	divide := s.Split == nil || *s.Split
	return []splitter{func(pieces []string, first bool) []string {
		var out []string
		for i, p := range pieces {
			p = strings.ReplaceAll(p, " ", mark)
			if (scheme == "always" || scheme == "first" && first && i == 0) && !strings.HasPrefix(p, mark) {
				p = mark + p
			}
			if !divide {
				out = append(out, p)
				continue
			}
			for { // before every mark but a leading one
				n := 0
				if p != "" {
					n = strings.Index(p[1:], mark) + 1
				}
				if n == 0 {
					out = append(out, p)
					break
				}
				out, p = append(out, p[:n]), p[n:]
			}
		}
		return out
	}}, nil
}

// scheme is the prepend scheme, which older files say with add_prefix_space.
func (s stage) scheme() string {
	switch {
	case s.Scheme != "":
		return s.Scheme
	case s.Prefix != nil && !*s.Prefix:
		return "never"
	}
	return "always"
}

// parseTemplate reads what a text is put between.
func (t *Tokenizer) parseTemplate(raw json.RawMessage) error {
	s, ok, err := read(raw, "post_processor")
	if !ok || err != nil {
		return err
	}
	switch s.Type {
	case "Sequence":
		for _, r := range s.Processors {
			if err := t.parseTemplate(r); err != nil {
				return err
			}
		}
		return nil
	case "ByteLevel":
		return nil
	case "TemplateProcessing":
		dst := &t.prefix
		for _, p := range s.Single {
			if _, text := p["Sequence"]; text {
				dst = &t.suffix
			} else if sp, ok := p["SpecialToken"]; ok {
				*dst = append(*dst, s.Special[sp.ID].IDs...)
			}
		}
		return nil
	}
	return fmt.Errorf("tokenizer: post_processor %q is not known", s.Type)
}

func parseDecoder(raw json.RawMessage) ([]decoder, error) {
	s, ok, err := read(raw, "decoder")
	if !ok || err != nil {
		return nil, err
	}
	switch s.Type {
	case "Sequence":
		return all(s.Decoders, parseDecoder)
	case "ByteLevel":
		return []decoder{decodeByteLevel}, nil
	case "ByteFallback":
		return []decoder{decodeByteFallback}, nil
	case "Fuse":
		return []decoder{func(tokens []string) []string { return []string{strings.Join(tokens, "")} }}, nil
	case "Metaspace":
		return []decoder{s.decodeMetaspace}, nil
	case "Replace":
		f, err := s.replace()
		if err != nil {
			return nil, err
		}
		return []decoder{func(tokens []string) []string {
			for i := range tokens {
				tokens[i] = f(tokens[i])
			}
			return tokens
		}}, nil
	case "Strip":
		char := s.text()
		return []decoder{func(tokens []string) []string {
			for i, t := range tokens {
				for range s.Start {
					t = strings.TrimPrefix(t, char)
				}
				for range s.Stop {
					t = strings.TrimSuffix(t, char)
				}
				tokens[i] = t
			}
			return tokens
		}}, nil
	}
	return nil, fmt.Errorf("tokenizer: decoder %q is not known", s.Type)
}

func (s stage) decodeMetaspace(tokens []string) []string {
	mark := s.Replacement
	if mark == "" {
		mark = "▁"
	}
	for i := range tokens {
		if i == 0 && s.scheme() != "never" {
			tokens[i] = strings.ReplaceAll(tokens[i], mark, "")
		} else {
			tokens[i] = strings.ReplaceAll(tokens[i], mark, " ")
		}
	}
	return tokens
}

// decodeByteFallback turns runs of byte tokens into text, each byte into U+FFFD when the run
// is no UTF-8.
func decodeByteFallback(tokens []string) []string {
	var out []string
	var run []byte
	flush := func() {
		switch {
		case len(run) == 0:
		case utf8.Valid(run):
			out = append(out, string(run))
		default:
			for range run {
				out = append(out, "\uFFFD")
			}
		}
		run = run[:0]
	}
	for _, t := range tokens {
		if b, ok := byteToken(t); ok {
			run = append(run, b)
			continue
		}
		flush()
		out = append(out, t)
	}
	flush()
	return out
}

// byteToken reads <0x41>.
func byteToken(t string) (byte, bool) {
	if len(t) != 6 || !strings.HasPrefix(t, "<0x") || t[5] != '>' {
		return 0, false
	}
	var b byte
	for _, c := range t[3:5] {
		switch {
		case c >= '0' && c <= '9':
			b = b<<4 | byte(c-'0')
		case c >= 'A' && c <= 'F':
			b = b<<4 | byte(c-'A'+10)
		default:
			return 0, false
		}
	}
	return b, true
}
