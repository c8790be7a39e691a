package tokenizer

import "strings"

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
// from_utf8_lossy does.
func lossy(b []byte) string {
	var out strings.Builder
	for len(b) > 0 {
		n, ok := sequence(b)
		if ok {
			out.Write(b[:n])
		} else {
			out.WriteString("\uFFFD")
		}
		b = b[n:]
	}
	return out.String()
}

// sequence measures the first sequence of b: a whole character, or the longest start of one.
func sequence(b []byte) (n int, ok bool) {
	lo, hi, need := byte(0x80), byte(0xBF), 0
	switch c := b[0]; {
	case c < 0x80:
		return 1, true
	case c >= 0xC2 && c <= 0xDF:
		need = 1
	case c >= 0xE0 && c <= 0xEF:
		need = 2
		if c == 0xE0 {
			lo = 0xA0
		} else if c == 0xED {
			hi = 0x9F
		}
	case c >= 0xF0 && c <= 0xF4:
		need = 3
		if c == 0xF0 {
			lo = 0x90
		} else if c == 0xF4 {
			hi = 0x8F
		}
	default:
		return 1, false
	}
	for n = 1; n <= need; n++ {
		if n >= len(b) || b[n] < lo || b[n] > hi {
			return n, false
		}
		lo, hi = 0x80, 0xBF
	}
	return n, true
}
