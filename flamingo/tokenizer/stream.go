package tokenizer

import "strings"

// Stream decodes tokens as they come. A character that spans tokens is held back until it is
// whole. Special tokens are left out.
type Stream struct {
	t      *Tokenizer
	ids    []int
	prefix int // tokens before it are settled
	read   int // tokens before it have been given out
}

// NewStream starts an empty text.
func (t *Tokenizer) NewStream() *Stream { return &Stream{t: t} }

// maxHeld bounds the tokens held back: four bytes make the longest character.
const maxHeld = 6

// Push adds a token and returns the text that is now certain, "" when there is none.
func (s *Stream) Push(id int) string {
	s.ids = append(s.ids, id)
	before := s.t.Decode(s.ids[s.prefix:s.read], true)
	after := s.t.Decode(s.ids[s.prefix:], true)
	if len(after) <= len(before) {
		return ""
	}
	if strings.HasSuffix(after, "\uFFFD") && len(s.ids)-s.read < maxHeld {
		return ""
	}
	s.settle()
	return tail(before, after)
}

// Flush returns what is held back; bytes that never became a character are U+FFFD.
func (s *Stream) Flush() string {
	before := s.t.Decode(s.ids[s.prefix:s.read], true)
	after := s.t.Decode(s.ids[s.prefix:], true)
	s.settle()
	return tail(before, after)
}

func (s *Stream) settle() {
	s.ids = s.ids[s.prefix:]
	s.read -= s.prefix
	s.prefix, s.read = s.read, len(s.ids)
}

// tail is what after has beyond before.
func tail(before, after string) string {
	if rest, ok := strings.CutPrefix(after, before); ok {
		return rest
	}
	return after[min(len(before), len(after)):]
}
