package tokenizer

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// charsMap is SentencePiece's compiled normalisation: a double-array trie over UTF-8 whose
// values are places in a list of texts that end in a zero byte.
//
//	blob = length of the trie in bytes, uint32 ⊕ units of the trie, uint32 ⊕ texts
//
// A unit holds the label of its own edge (bits 0–7, and bit 31, which no label has), whether a
// value ends there (bit 8), and the distance to its children (bits 10–30, times 256 with bit
// 9). The unit of a value is the value.
type charsMap struct {
	units []uint32
	texts []byte
}

// parseCharsMap reads the base64 of a blob.
func parseCharsMap(text string) (*charsMap, error) {
	blob, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("tokenizer: precompiled_charsmap: %w", err)
	}
	if len(blob) < 4 {
		return nil, fmt.Errorf("tokenizer: precompiled_charsmap of %d bytes", len(blob))
	}
	size := int64(binary.LittleEndian.Uint32(blob))
	if rest := int64(len(blob) - 4); size > rest || size%4 != 0 || size == 0 {
		return nil, fmt.Errorf("tokenizer: precompiled_charsmap: a trie of %d bytes in %d", size, rest)
	}
	m := &charsMap{texts: blob[4+size:]}
	for at := int64(4); at < 4+size; at += 4 {
		m.units = append(m.units, binary.LittleEndian.Uint32(blob[at:]))
	}
	return m, nil
}

// children is the distance from a unit to its children.
func children(unit uint32) int { return int(unit >> 10 << (unit & (1 << 9) >> 6)) }

// find returns what the shortest start of s in the trie becomes. A byte outside the trie, or a
// place outside the arrays, ends the search.
func (m *charsMap) find(s string) (string, bool) {
	at := children(m.units[0])
	for i := range len(s) {
		if s[i] == 0 {
			return "", false
		}
		at ^= int(s[i])
		if at >= len(m.units) {
			return "", false
		}
		unit := m.units[at]
		if unit&(1<<31|0xFF) != uint32(s[i]) {
			return "", false
		}
		at ^= children(unit)
		if unit>>8&1 == 0 {
			continue
		}
		if at >= len(m.units) {
			return "", false
		}
		from := int(m.units[at] & (1<<31 - 1))
		if from >= len(m.texts) {
			return "", false
		}
		text := m.texts[from:]
		if end := bytes.IndexByte(text, 0); end >= 0 {
			text = text[:end]
		}
		return string(text), true
	}
	return "", false
}

// normalise rewrites a text as the tokenizers library does: a grapheme of less than six bytes
// as a whole where its start is in the trie, else character by character.
func (m *charsMap) normalise(text string) string {
	var b strings.Builder
	for text != "" {
		n := grapheme(text)
		cluster := text[:n]
		text = text[n:]
		if n < 6 {
			if to, ok := m.find(cluster); ok {
				b.WriteString(to)
				continue
			}
		}
		for len(cluster) > 0 {
			_, k := utf8.DecodeRuneInString(cluster)
			if to, ok := m.find(cluster[:k]); ok {
				b.WriteString(to)
			} else {
				b.WriteString(cluster[:k])
			}
			cluster = cluster[k:]
		}
	}
	return b.String()
}

// grapheme measures the first user-perceived character of a text (UAX #29), exact for those of
// less than six bytes, which alone are looked up as a whole: the rules for Hangul, flags,
// emoji and Indic conjuncts join more bytes than that.
func grapheme(text string) int {
	first, n := utf8.DecodeRuneInString(text)
	switch {
	case first == '\r' && len(text) > 1 && text[1] == '\n':
		return 2
	case control(first):
		return n
	}
	for prepended := prepend(first); n < len(text); {
		r, k := utf8.DecodeRuneInString(text[n:])
		if !extends(r) && (!prepended || control(r)) {
			return n
		}
		prepended = !extends(r) && prepend(r)
		n += k
	}
	return n
}

func control(r rune) bool {
	return unicode.In(r, unicode.Cc, unicode.Zl, unicode.Zp) || unicode.Is(unicode.Cf, r) && !prepend(r) && r != 0x200C && r != 0x200D && !tag(r)
}

func prepend(r rune) bool { return unicode.Is(unicode.Prepended_Concatenation_Mark, r) }

// tag reports the characters of flags spelt out, which extend though they are format ones.
func tag(r rune) bool { return r >= 0xE0020 && r <= 0xE007F }

// extends reports whether a character belongs to the one before it: Extend, ZWJ, SpacingMark.
func extends(r rune) bool {
	switch {
	case r == 0x200C || r == 0x200D || r == 0x0E33 || r == 0x0EB3 || r >= 0x1F3FB && r <= 0x1F3FF || tag(r):
		return true
	case unicode.In(r, unicode.Mn, unicode.Me, unicode.Other_Grapheme_Extend):
		return true
	}
	return unicode.Is(unicode.Mc, r) && !unspaced(r)
}

// unspaced are the spacing marks that begin a grapheme of their own: Myanmar's and its kin's.
func unspaced(r rune) bool {
	return r >= 0x1000 && r <= 0x109F && r != 0x1031 && r != 0x103B && r != 0x103C && r != 0x1056 && r != 0x1057 && r != 0x1084 ||
		r == 0x1A61 || r == 0x1A63 || r == 0x1A64 || r == 0xAA7B || r == 0xAA7D || r == 0x11720 || r == 0x11721
}
