package api

import (
	"bytes"
	"context"
	"io"
	"slices"
)

// What a body of JSON becomes can be hundreds of times its size: two bytes of a list may be an item
// with all its fields. So it is weighed as it is read, before it is decoded, and what passes its
// own bytes is held against the limits of bodies.
const (
	opensBytes   = 1 << 10 // an object or a list: its fields, and what is made of them
	elementBytes = 1 << 10 // an element of a list
	memberBytes  = 32      // a member of an object
	numberBytes  = 8       // an element of a list of numbers
	freeBytes    = 4 << 10 // what any request may become, uncounted
)

// numberLists are the members that hold numbers and nothing else, many of them.
var numberLists = []string{"data", "positions", "image", "audio"}

// numberPlaces are the members that numberLists are found in. Elsewhere a list may be read into an any,
// where a number takes an interface; so may one whose names are spelt otherwise.
var numberPlaces = []string{"inputs", "latents", "queries", "points"}

// weighed is JSON that is counted while it is read.
type weighed struct {
	io.Reader
	take func(n int64) error // counts n bytes beyond the JSON's own

	open    []opened
	quoted  bool
	escaped bool
	text    []byte // the begin of the last string
	member  bool   // text names the value that follows
	length  int64
	cost    int64
	taken   int64
}

// weighing is JSON of the request in ctx, counted while it is read.
func weighing(ctx context.Context, text io.Reader) io.Reader {
	l, ok := ctx.Value(ledgerKey{}).(*ledger)
	if !ok {
		return text
	}
	return &weighed{Reader: text, take: l.hold}
}

// opened is an object or a list that has not ended yet.
type opened struct{ list, numbers, elsewhere bool }

// Read implements io.Reader. Its error is the source's, or that of what is held.
func (w *weighed) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	w.weigh(p[:n])
	if more := w.cost/bodyCopies - w.length - freeBytes - w.taken; more > 0 {
		w.taken += more
		if err := w.take(more); err != nil {
			return 0, err
		}
	}
	return n, err
}

// weigh counts b, which continues what came before. What is no JSON is counted as well as may be;
// that it is none, the decoder says.
func (w *weighed) weigh(b []byte) {
	w.length += int64(len(b))
	for len(b) > 0 {
		if w.quoted {
			b = w.skip(b)
			continue
		}
		c := b[0]
		b = b[1:]
		switch c {
		case '"':
			w.quoted, w.text = true, w.text[:0]
		case ':':
			w.member = true
		case '{', '[':
			name := string(w.text)
			numbers := w.member && slices.Contains(numberLists, name)
			elsewhere := w.last().elsewhere || w.member && !numbers && !slices.Contains(numberPlaces, name)
			w.open = append(w.open, opened{c == '[', numbers && !elsewhere, elsewhere})
			w.cost += opensBytes
			w.member = false
		case '}', ']':
			if n := len(w.open); n > 0 {
				w.open = w.open[:n-1]
			}
		case ',':
			w.member = false
			switch at := w.last(); {
			case at.list && at.numbers:
				w.cost += numberBytes
			case at.list:
				w.cost += elementBytes
			default:
				w.cost += memberBytes
			}
		}
	}
}

// skip passes over what b holds of a string.
func (w *weighed) skip(b []byte) []byte {
	if w.escaped {
		w.escaped = false
		return b[1:]
	}
	n := bytes.IndexByte(b, '"')
	if n < 0 {
		n = len(b)
	}
	if i := bytes.IndexByte(b[:n], '\\'); i >= 0 {
		n, w.escaped = i, true
	}
	const longest = 16 // of a name that is asked for
	w.text = append(w.text, b[:min(n, max(longest-len(w.text), 0))]...)
	if n == len(b) {
		return nil
	}
	w.quoted = w.escaped
	return b[n+1:]
}

// last is the innermost object or list.
func (w *weighed) last() opened {
	if n := len(w.open); n > 0 {
		return w.open[n-1]
	}
	return opened{}
}
