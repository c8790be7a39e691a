package tokenizer

import (
	"encoding/json"
	"fmt"
	"math"
	"unicode/utf8"
)

// unigram picks the division of a text whose pieces have the highest total score
// (arXiv 1804.10959).
type unigram struct {
	pieces   []string
	scores   []float64
	index    map[string]int
	longest  int // bytes of the longest piece
	unk      int // −1 for none
	unkScore float64
	bytes    [256]int
	fallback bool
}

func parseUnigram(raw json.RawMessage) (model, error) {
	var f struct {
		Vocab    [][2]json.RawMessage `json:"vocab"`
		Unk      *int                 `json:"unk_id"`
		Fallback bool                 `json:"byte_fallback"`
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		return nil, fmt.Errorf("tokenizer: unigram: %w", err)
	}
	m := &unigram{index: make(map[string]int, len(f.Vocab)), unk: -1, fallback: f.Fallback}
	least := math.Inf(1)
	for i, entry := range f.Vocab {
		var piece string
		var score float64
		if json.Unmarshal(entry[0], &piece) != nil || json.Unmarshal(entry[1], &score) != nil {
			return nil, fmt.Errorf("tokenizer: unigram: piece %d", i)
		}
		m.pieces, m.scores = append(m.pieces, piece), append(m.scores, score)
		m.index[piece] = i
		m.longest, least = max(m.longest, len(piece)), min(least, score)
	}
	m.unkScore = least - 10
	if f.Unk != nil {
		if *f.Unk < 0 || *f.Unk >= len(m.pieces) {
			return nil, fmt.Errorf("tokenizer: unigram: unk_id %d of %d pieces", *f.Unk, len(m.pieces))
		}
		m.unk = *f.Unk
	}
	m.bytes = byteIDs(m.id)
	return m, nil
}

func (m *unigram) id(token string) (int, bool) { id, ok := m.index[token]; return id, ok }

func (m *unigram) each(f func(int, string)) {
	for id, token := range m.pieces {
		f(id, token)
	}
}

// best is the best way to reach a place of the text.
type best struct {
	score float64
	from  int // −1 for not reached
	id    int
}

// encode implements model.
func (m *unigram) encode(dst []int, text string) []int {
	ends := m.paths(text)
	type span struct{ from, to, id int }
	var back []span
	for at := len(text); at > 0; {
		b := ends[at]
		if k := len(back) - 1; b.id == m.unk && k >= 0 && back[k].id == m.unk {
			back[k].from = b.from // unknown neighbours are one
		} else {
			back = append(back, span{b.from, at, b.id})
		}
		at = b.from
	}
	for i := len(back) - 1; i >= 0; i-- {
		s := back[i]
		piece := text[s.from:s.to]
		switch {
		case s.id != m.unk:
			dst = append(dst, s.id)
		case m.fallback && allBytes(m.bytes, piece):
			for _, b := range []byte(piece) {
				dst = append(dst, m.bytes[b])
			}
		case m.unk >= 0:
			dst = append(dst, m.unk)
		}
	}
	return dst
}

// paths fills the best way to every place, from the left.
func (m *unigram) paths(text string) []best {
	ends := make([]best, len(text)+1)
	for i := range ends {
		ends[i].from = -1
	}
	ends[0].from = 0
	reach := func(from, to, id int, score float64) {
		if total := ends[from].score + score; ends[to].from < 0 || total > ends[to].score {
			ends[to] = best{score: total, from: from, id: id}
		}
	}
	for at := 0; at < len(text); {
		_, char := utf8.DecodeRuneInString(text[at:])
		single := false
		for n := 1; n <= min(m.longest, len(text)-at); n++ {
			if id, ok := m.index[text[at:at+n]]; ok && utf8.RuneStart(next(text, at+n)) {
				reach(at, at+n, id, m.scores[id])
				single = single || n == char
			}
		}
		if !single {
			reach(at, at+char, m.unk, m.unkScore)
		}
		at += char
	}
	return ends
}

// next is the byte at i, or one that starts a character at the end.
func next(s string, i int) byte {
	if i < len(s) {
		return s[i]
	}
	return 0
}
