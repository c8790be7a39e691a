package tokenizer

import (
	"container/heap"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"
)

// bpe is byte-pair encoding: characters are joined by the merge of lowest rank, leftmost
// first, until none applies.
type bpe struct {
	vocab        map[string]int
	merges       map[[2]int]merge
	unk          int // −1 for none
	fuse         bool
	bytes        [256]int // ids of <0x00> … <0xFF>; −1 where the vocabulary lacks one
	fallback     bool
	ignoreMerges bool
	suffix       string
}

type merge struct{ rank, id int }

func parseModel(raw json.RawMessage) (model, error) {
	var head struct {
		Type  string          `json:"type"`
		Vocab json.RawMessage `json:"vocab"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return nil, fmt.Errorf("tokenizer: model: %w", err)
	}
	switch {
	case head.Type == "BPE" || head.Type == "" && strings.HasPrefix(strings.TrimSpace(string(head.Vocab)), "{"):
		return parseBPE(raw)
	case head.Type == "Unigram" || head.Type == "":
		return parseUnigram(raw)
	}
	return nil, fmt.Errorf("tokenizer: model %q is not known (known: BPE, Unigram)", head.Type)
}

func parseBPE(raw json.RawMessage) (model, error) {
	var f struct {
		Vocab        map[string]int    `json:"vocab"`
		Merges       []json.RawMessage `json:"merges"`
		Unk          *string           `json:"unk_token"`
		Prefix       *string           `json:"continuing_subword_prefix"`
		Suffix       *string           `json:"end_of_word_suffix"`
		Fuse         bool              `json:"fuse_unk"`
		Fallback     bool              `json:"byte_fallback"`
		IgnoreMerges bool              `json:"ignore_merges"`
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		return nil, fmt.Errorf("tokenizer: bpe: %w", err)
	}
	if f.Prefix != nil && *f.Prefix != "" {
		return nil, fmt.Errorf("tokenizer: bpe: continuing_subword_prefix %q is not known", *f.Prefix)
	}
	m := &bpe{vocab: f.Vocab, merges: make(map[[2]int]merge, len(f.Merges)), unk: -1, fuse: f.Fuse, fallback: f.Fallback, ignoreMerges: f.IgnoreMerges}
	if f.Suffix != nil {
		m.suffix = *f.Suffix
	}
	for token, id := range f.Vocab {
		if id < 0 || id > maxID {
			return nil, fmt.Errorf("tokenizer: bpe: token %q has id %d", token, id)
		}
	}
	if f.Unk != nil {
		id, ok := f.Vocab[*f.Unk]
		if ok {
			m.unk = id
		}
	}
	m.bytes = byteIDs(func(s string) (int, bool) { id, ok := f.Vocab[s]; return id, ok })
	for rank, raw := range f.Merges {
		pair, err := parseMerge(raw)
		if err != nil {
			return nil, err
		}
		a, ok1 := f.Vocab[pair[0]]
		b, ok2 := f.Vocab[pair[1]]
		id, ok3 := f.Vocab[pair[0]+pair[1]]
		if !ok1 || !ok2 || !ok3 {
			return nil, fmt.Errorf("tokenizer: bpe: merge %d of %q and %q is not in the vocabulary", rank, pair[0], pair[1])
		}
		if _, taken := m.merges[[2]int{a, b}]; !taken {
			m.merges[[2]int{a, b}] = merge{rank, id}
		}
	}
	return m, nil
}

// parseMerge reads "a b" or ["a", "b"].
func parseMerge(raw json.RawMessage) ([2]string, error) {
	var pair []string
	if json.Unmarshal(raw, &pair) == nil && len(pair) == 2 {
		return [2]string(pair), nil
	}
	var text string
	if json.Unmarshal(raw, &text) == nil {
		if a, b, ok := strings.Cut(text, " "); ok {
			return [2]string{a, b}, nil
		}
	}
	return [2]string{}, fmt.Errorf("tokenizer: bpe: merge %.60s", raw)
}

// byteIDs finds the byte tokens of a vocabulary.
func byteIDs(id func(string) (int, bool)) (out [256]int) {
	for b := range out {
		out[b] = -1
		if i, ok := id(fmt.Sprintf("<0x%02X>", b)); ok {
			out[b] = i
		}
	}
	return out
}

func (m *bpe) id(token string) (int, bool) { id, ok := m.vocab[token]; return id, ok }

func (m *bpe) each(f func(int, string)) {
	for token, id := range m.vocab {
		f(id, token)
	}
}

// symbol is one piece of a word, linked to its neighbours.
type symbol struct {
	id         int // −1 once merged away
	prev, next int
}

// encode implements model.
func (m *bpe) encode(dst []int, piece string) []int {
	if m.ignoreMerges {
		if id, ok := m.vocab[piece]; ok {
			return append(dst, id)
		}
	}
	symbols := m.symbols(piece)
	m.mergeAll(symbols)
	for _, s := range symbols {
		if s.id >= 0 {
			dst = append(dst, s.id)
		}
	}
	return dst
}

// symbols splits a piece into characters of the vocabulary, bytes, or the unknown token.
func (m *bpe) symbols(piece string) []symbol {
	var ids []int
	lastUnk := false
	for i := 0; i < len(piece); {
		_, n := utf8.DecodeRuneInString(piece[i:])
		char := piece[i : i+n]
		i += n
		if m.suffix != "" && i == len(piece) {
			char += m.suffix
		}
		if id, ok := m.vocab[char]; ok {
			ids, lastUnk = append(ids, id), false
			continue
		}
		if m.fallback && allBytes(m.bytes, char) {
			for _, b := range []byte(char) {
				ids = append(ids, m.bytes[b])
			}
			lastUnk = false
			continue
		}
		if m.unk >= 0 && !(m.fuse && lastUnk) {
			ids = append(ids, m.unk)
		}
		lastUnk = m.unk >= 0
	}
	out := make([]symbol, len(ids))
	for i, id := range ids {
		out[i] = symbol{id: id, prev: i - 1, next: i + 1}
	}
	return out
}

func allBytes(table [256]int, s string) bool {
	for i := range len(s) {
		if table[s[i]] < 0 {
			return false
		}
	}
	return true
}

// candidate is a merge that could be made at a place.
type candidate struct {
	rank, at, id int
	left, right  int // ids it was found for
}

// candidates is a heap by rank, then place.
type candidates []candidate

func (c candidates) Len() int { return len(c) }
func (c candidates) Less(i, j int) bool {
	return c[i].rank < c[j].rank || c[i].rank == c[j].rank && c[i].at < c[j].at
}
func (c candidates) Swap(i, j int) { c[i], c[j] = c[j], c[i] }

// Push implements heap.Interface.
func (c *candidates) Push(x any) { *c = append(*c, x.(candidate)) }

// Pop implements heap.Interface.
func (c *candidates) Pop() any {
	last := (*c)[len(*c)-1]
	*c = (*c)[:len(*c)-1]
	return last
}

func (m *bpe) mergeAll(s []symbol) {
	var queue candidates
	offer := func(i int) {
		if i < 0 || s[i].next >= len(s) {
			return
		}
		pair := [2]int{s[i].id, s[s[i].next].id}
		if mg, ok := m.merges[pair]; ok {
			heap.Push(&queue, candidate{rank: mg.rank, at: i, id: mg.id, left: pair[0], right: pair[1]})
		}
	}
	for i := range s {
		offer(i)
	}
	for queue.Len() > 0 {
		c := heap.Pop(&queue).(candidate)
		next := s[c.at].next
		if s[c.at].id != c.left || next >= len(s) || s[next].id != c.right {
			continue // a neighbour changed meanwhile
		}
		s[c.at].id, s[next].id = c.id, -1
		s[c.at].next = s[next].next
		if s[c.at].next < len(s) {
			s[s[c.at].next].prev = c.at
		}
		offer(s[c.at].prev)
		offer(c.at)
	}
}
