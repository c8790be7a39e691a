package tokenizer

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxFile bounds a tokenizer.json, in bytes.
const maxFile = 128 << 20

// Tokenizer is a loaded tokenizer. It never changes and is safe for concurrent use.
type Tokenizer struct {
	model     model
	normalise []normaliser
	split     []splitter
	decode    []decoder
	prefix    []int // ids that the template puts in front and behind
	suffix    []int
	added     []Added // sorted by id
	byText    map[string]int
	special   map[int]bool
	tokens    map[int]string // id → token, added ones included
	size      int
}

// Added is a token outside the model's vocabulary, or one of it that is found in the text
// before anything else.
type Added struct {
	ID         int    `json:"id"`
	Content    string `json:"content"`
	Special    bool   `json:"special"`
	Normalized bool   `json:"normalized"` // looked for after the normaliser
	LStrip     bool   `json:"lstrip"`     // takes the white space before it
	RStrip     bool   `json:"rstrip"`
	SingleWord bool   `json:"single_word"` // only between word boundaries
}

// model turns one pre-tokenised piece into ids.
type model interface {
	encode(dst []int, piece string) []int
	id(token string) (int, bool)
	each(func(id int, token string))
}

// Open reads a tokenizer.json.
func Open(path string) (*Tokenizer, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("tokenizer: %s: %d bytes, at most %d", path, info.Size(), maxFile)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	return Parse(data)
}

// Parse reads the text of a tokenizer.json.
func Parse(data []byte) (*Tokenizer, error) {
	var f struct {
		Added     []Added         `json:"added_tokens"`
		Normalise json.RawMessage `json:"normalizer"`
		Pre       json.RawMessage `json:"pre_tokenizer"`
		Model     json.RawMessage `json:"model"`
		Post      json.RawMessage `json:"post_processor"`
		Decoder   json.RawMessage `json:"decoder"`
	}
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	t := &Tokenizer{}
	var err error
	if t.model, err = parseModel(f.Model); err != nil {
		return nil, err
	}
	if t.normalise, err = parseNormaliser(f.Normalise); err != nil {
		return nil, err
	}
	if t.split, err = parseSplitter(f.Pre); err != nil {
		return nil, err
	}
	if t.decode, err = parseDecoder(f.Decoder); err != nil {
		return nil, err
	}
	for _, a := range f.Added {
		if a.Content == "" || a.ID < 0 || a.ID > maxID {
			return nil, fmt.Errorf("tokenizer: added token %q with id %d", a.Content, a.ID)
		}
	}
	t.index(f.Added)
	if err := t.parseTemplate(f.Post); err != nil {
		return nil, err
	}
	return t, nil
}

// maxID bounds token ids.
const maxID = 1 << 24

// index makes the tables of a tokenizer with these added tokens.
func (t *Tokenizer) index(added []Added) {
	t.added = slices.Clone(added)
	slices.SortStableFunc(t.added, func(a, b Added) int { return a.ID - b.ID })
	t.byText, t.special, t.tokens, t.size = map[string]int{}, map[int]bool{}, map[int]string{}, 0
	t.model.each(func(id int, token string) {
		t.tokens[id] = token
		t.size = max(t.size, id+1)
	})
	for _, a := range t.added {
		t.byText[a.Content] = a.ID
		t.tokens[a.ID] = a.Content
		if a.Special {
			t.special[a.ID] = true
		}
		t.size = max(t.size, a.ID+1)
	}
}

// Size is the number of ids: one more than the highest.
func (t *Tokenizer) Size() int { return t.size }

// ID returns the id of a token, added ones first.
func (t *Tokenizer) ID(token string) (int, bool) {
	if id, ok := t.byText[token]; ok {
		return id, true
	}
	return t.model.id(token)
}

// Token returns the token of an id, "" when there is none.
func (t *Tokenizer) Token(id int) string { return t.tokens[id] }

// Special reports whether an id is a special token, which decoded text leaves out.
func (t *Tokenizer) Special(id int) bool { return t.special[id] }

// With returns a tokenizer with further special tokens; those it does not know get the next
// ids in order, as OpenFlamingo adds <|endofchunk|> and <image>.
func (t *Tokenizer) With(tokens ...string) *Tokenizer {
	more := *t
	added, next := slices.Clone(t.added), t.size
	for _, token := range tokens {
		if _, ok := t.byText[token]; ok || token == "" {
			continue
		}
		id, ok := t.model.id(token)
		if !ok {
			id = next
			next++
		}
		added = append(added, Added{ID: id, Content: token, Special: true})
	}
	more.index(added)
	return &more
}

// Encode returns the ids of text. With template the tokens that the model expects around a
// text (such as <s>) are put there.
func (t *Tokenizer) Encode(text string, template bool) []int {
	var ids []int
	if template {
		ids = append(ids, t.prefix...)
	}
	first := true
	t.eachPart(text, false, func(part string, id int) {
		if id >= 0 {
			ids = append(ids, id)
		} else {
			ids = t.encodeRaw(ids, part, first)
		}
		first = false
	})
	if template {
		ids = append(ids, t.suffix...)
	}
	return ids
}

// encodeRaw encodes text without raw added tokens; first says that it begins the input.
func (t *Tokenizer) encodeRaw(ids []int, text string, first bool) []int {
	for _, n := range t.normalise {
		text = n(text)
	}
	t.eachPart(text, true, func(part string, id int) {
		if id >= 0 {
			ids = append(ids, id)
			first = false
			return
		}
		pieces := []string{part}
		for _, s := range t.split {
			pieces = s(pieces, first)
		}
		first = false
		for _, p := range pieces {
			if p != "" {
				ids = t.model.encode(ids, p)
			}
		}
	})
	return ids
}

// eachPart cuts text at added tokens, the leftmost and there the longest first, and calls f
// for each part: with the id of a token, or −1 for what lies between.
func (t *Tokenizer) eachPart(text string, normalised bool, f func(part string, id int)) {
	at := 0
	for from := 0; from < len(text); {
		start, end, id := t.nextAdded(text, from, at, normalised)
		if id < 0 {
			break
		}
		if start > at {
			f(text[at:start], -1)
		}
		f(text[start:end], id)
		at, from = end, end
	}
	if at < len(text) {
		f(text[at:], -1)
	}
}

// nextAdded finds the next added token of text[from:]; white space it takes reaches back to
// at most floor.
func (t *Tokenizer) nextAdded(text string, from, floor int, normalised bool) (start, end, id int) {
	start, id = len(text), -1
	for _, a := range t.added {
		if a.Normalized != normalised {
			continue
		}
		i := findAdded(text, from, a)
		if i >= 0 && (i < start || i == start && i+len(a.Content) > end) {
			start, end, id = i, i+len(a.Content), a.ID
		}
	}
	if id < 0 {
		return 0, 0, -1
	}
	k := slices.IndexFunc(t.added, func(a Added) bool { return a.ID == id && a.Normalized == normalised })
	if t.added[k].LStrip {
		start = max(floor, len(strings.TrimRightFunc(text[:start], unicode.IsSpace)))
	}
	if t.added[k].RStrip {
		end = len(text) - len(strings.TrimLeftFunc(text[end:], unicode.IsSpace))
	}
	return start, end, id
}

// findAdded returns where a occurs at or after from, −1 for nowhere.
func findAdded(text string, from int, a Added) int {
	for from <= len(text) {
		i := strings.Index(text[from:], a.Content)
		if i < 0 {
			return -1
		}
		i += from
		before, _ := utf8.DecodeLastRuneInString(text[:i])
		after, _ := utf8.DecodeRuneInString(text[i+len(a.Content):])
		if !a.SingleWord || !(i > 0 && word(before) || i+len(a.Content) < len(text) && word(after)) {
			return i
		}
		from = i + len(a.Content)
	}
	return -1
}

func word(r rune) bool { return r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r) }

// Decode returns the text of ids. With skipSpecial, special tokens are left out. Ids without
// a token are left out too. Bytes that are no UTF-8 become U+FFFD.
func (t *Tokenizer) Decode(ids []int, skipSpecial bool) string {
	var tokens []string
	for _, id := range ids {
		token, ok := t.tokens[id]
		if !ok || skipSpecial && t.special[id] {
			continue
		}
		tokens = append(tokens, token)
	}
	if len(t.decode) == 0 {
		return strings.Join(tokens, " ")
	}
	for _, d := range t.decode {
		tokens = d(tokens)
	}
	return strings.Join(tokens, "")
}
