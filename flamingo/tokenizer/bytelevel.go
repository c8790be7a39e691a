package tokenizer

import (
	"strings"

	"golang.org/x/text/encoding/unicode"
)

// spelt gives each byte a printable character: itself where it is one, else one from U+0100
// on (openai/gpt-2 encoder.py, bytes_to_unicode). unspelt is the way back.
var spelt, unspelt = func() (to [256]rune, from map[rune]byte) {
	from = map[rune]byte{}
	next := rune(256)
	for b := range 256 {
		r := rune(b)
		if !(r >= '!' && r <= '~' || r >= '¡' && r <= '¬' || r >= '®' && r <= 'ÿ') {
			r = next
			next++
		}
		to[b], from[r] = r, byte(b)
	}
	return to, from
}()

func spell(text string) string {
	var b strings.Builder
	for i := range len(text) {
		b.WriteRune(spelt[text[i]])
	}
	return b.String()
}

// decodeByteLevel joins tokens and reads their characters back as bytes. A token that is not
// spelt this way, an added one, stands for itself.
func decodeByteLevel(tokens []string) []string {
	var out []byte
	for _, t := range tokens {
		at := len(out)
		for _, r := range t {
			b, ok := unspelt[r]
			if !ok {
				out = append(out[:at], t...)
				break
			}
			out = append(out, b)
		}
	}
	return []string{lossy(out)}
}

// lossy replaces every truncated or ill-formed sequence by one U+FFFD, as Rust's
// from_utf8_lossy does (Unicode 3.9, best practice).
func lossy(b []byte) string {
	text, _ := unicode.UTF8.NewDecoder().Bytes(b) // it refuses nothing
	return string(text)
}
