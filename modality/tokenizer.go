package modality

import (
	"strings"

	"golang.org/x/text/encoding/unicode"

	"github.com/mmserve/mmserve/modality/media"
)

// The special ids of the byte tokenizer. Byte b of the text is id b+ByteOffset.
const (
	PAD        = 0
	BOS        = 1
	EOS        = 2
	MASK       = 3
	CLS        = 4
	SEP        = 5
	ByteOffset = 6
	Vocabulary = 256 + ByteOffset // ids in all
)

// specials are the names of ids 0..5, as they stand in text.
var specials = [ByteOffset]string{"[PAD]", "[BOS]", "[EOS]", "[MASK]", "[CLS]", "[SEP]"}

// Tokenizer is the byte tokenizer of Perceiver IO (PerceiverTokenizer): [CLS] bytes [SEP], pairs
// [CLS] a [SEP] b [SEP]. The literal names of the special tokens inside a text become their
// ids; spaces beside them stay. The zero value is ready.
type Tokenizer struct {
	MaxLength int  // ids in all; 0: 2048
	Truncate  bool // cut longer texts to MaxLength instead of refusing them
	Bare      bool // no [CLS] and [SEP]
	Literal   bool // the names of special tokens are plain text
}

// DefaultMaxLength is the length the published language model has positions for.
const DefaultMaxLength = 2048

func (t Tokenizer) maxLength() int {
	if t.MaxLength > 0 {
		return t.MaxLength
	}
	return DefaultMaxLength
}

// Encode returns the ids of a text. Invalid UTF-8 is kept byte for byte. A text longer than
// MaxLength is cut, which can cut a character, or is a TooLarge error.
func (t Tokenizer) Encode(text string) ([]int, error) {
	ids := t.ids(text)
	room := t.maxLength() - len(t.wrap(nil))
	if err := t.fits(len(ids), room); err != nil {
		return nil, err
	}
	return t.wrap(ids[:min(len(ids), max(room, 0))]), nil
}

// EncodePair returns the ids of two texts. Cutting takes from the longer one, and from the
// second when both are as long.
func (t Tokenizer) EncodePair(first, second string) ([]int, error) {
	a, b := t.ids(first), t.ids(second)
	room := t.maxLength() - len(t.wrapPair(nil, nil))
	if err := t.fits(len(a)+len(b), room); err != nil {
		return nil, err
	}
	for len(a)+len(b) > max(room, 0) {
		if len(a) > len(b) {
			a = a[:len(a)-1]
		} else {
			b = b[:len(b)-1]
		}
	}
	return t.wrapPair(a, b), nil
}

func (t Tokenizer) fits(n, room int) error {
	if n > room && !t.Truncate {
		over := t.maxLength() - room
		return media.Exceeds("text: tokens", float64(t.maxLength()), float64(n+over))
	}
	return nil
}

func (t Tokenizer) wrap(ids []int) []int {
	if t.Bare {
		return ids
	}
	return append(append([]int{CLS}, ids...), SEP)
}

func (t Tokenizer) wrapPair(a, b []int) []int {
	ids := t.wrap(a)
	ids = append(ids, b...)
	if !t.Bare {
		ids = append(ids, SEP)
	}
	return ids
}

// ids are the ids of a text alone.
func (t Tokenizer) ids(text string) []int {
	out := make([]int, 0, len(text)+2)
	for i := 0; i < len(text); {
		if id := specialAt(text[i:]); id >= 0 && !t.Literal {
			out = append(out, id)
			i += len(specials[id])
			continue
		}
		out = append(out, int(text[i])+ByteOffset)
		i++
	}
	return out
}

// specialAt is the special token a text begins with, or -1.
func specialAt(text string) int {
	if text[0] != '[' {
		return -1
	}
	for id, name := range specials {
		if strings.HasPrefix(text, name) {
			return id
		}
	}
	return -1
}

// Pad returns ids padded on the right to n with [PAD], and the mask: 1 for ids, 0 for padding.
func Pad(ids []int, n int) (padded []int, mask []float32) {
	padded, mask = make([]int, max(n, len(ids))), make([]float32, max(n, len(ids)))
	copy(padded, ids)
	for i := range ids {
		mask[i] = 1
	}
	return padded, mask
}

// Decode returns the text of ids. Special tokens are printed by name, or left out when skip is
// set; ids beyond the vocabulary are left out. What is not UTF-8 becomes U+FFFD, one for each
// maximal part of a character, as Python decodes.
func (t Tokenizer) Decode(ids []int, skip bool) string {
	return replaceInvalid(t.DecodeBytes(ids, skip))
}

// DecodeBytes is Decode without the repair of invalid UTF-8.
func (t Tokenizer) DecodeBytes(ids []int, skip bool) []byte {
	var out []byte
	for _, id := range ids {
		switch {
		case id >= ByteOffset && id < Vocabulary:
			out = append(out, byte(id-ByteOffset))
		case id >= 0 && id < ByteOffset && !skip:
			out = append(out, specials[id]...)
		}
	}
	return out
}

// replaceInvalid replaces each maximal ill-formed part by U+FFFD (Unicode 3.9, best practice).
func replaceInvalid(b []byte) string {
	text, _ := unicode.UTF8.NewDecoder().Bytes(b) // it refuses nothing
	return string(text)
}

// Windows cuts a long text into pieces of at most MaxLength ids, each with its own [CLS] and
// [SEP], that overlap by overlap ids, so a model of bounded length can read all of it. Start is
// the index of the window's first id among the text's ids. A text that fits is one window.
func (t Tokenizer) Windows(text string, overlap int) ([]Window, error) {
	ids := t.ids(text)
	room := t.maxLength() - len(t.wrap(nil))
	if room < 1 || overlap < 0 || overlap >= room {
		return nil, media.Errorf(media.BadOptions, "text: windows of %d ids overlapping by %d", room, overlap)
	}
	var out []Window
	for start := 0; ; start += room - overlap {
		end := min(start+room, len(ids))
		out = append(out, Window{Start: start, IDs: t.wrap(ids[start:end])})
		if end == len(ids) {
			return out, nil
		}
	}
}

// Window is a piece of a long text.
type Window struct {
	Start int   // index of its first id among the text's
	IDs   []int // with [CLS] and [SEP]
}
