package api

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"github.com/mmserve/mmserve/modality/media"
)

// A body of JSON is mostly the base64 of its media, and a decoder of JSON looks at every byte of
// it several times, one at a time. So the base64 is taken out, and decoded, before the rest is
// read. What is out of the ordinary is left in and read as any other string.

// liftedMark begins the string that stands for base64 that was taken out; its number follows.
const liftedMark = `"#lifted `

// leastLifted is the length of base64 that is worth taking out.
const leastLifted = 256

// readWork reads a request of the native routes that is JSON; what it does not say, the query may.
func readWork(r *http.Request) (*workRequest, error) {
	req, err := queryRequest(r)
	if err != nil {
		return nil, err
	}
	again := *req
	body, err := readWhole(r.Body, r.ContentLength)
	if err != nil {
		return nil, err
	}
	text, lifted := lift(body)
	if err := decodeJSON(r.Context(), bytes.NewReader(text), req); err != nil {
		return nil, err
	}
	if req.putBack(lifted) {
		return req, nil
	}
	// It was taken out of something else than media.
	return &again, decodeJSON(r.Context(), bytes.NewReader(body), &again)
}

// lift takes the base64 of members named "data" out of JSON text. In its place it leaves a string
// with the number of what it took.
func lift(body []byte) (text []byte, lifted [][]byte) {
	if bytes.Contains(body, []byte(liftedMark)) {
		return body, nil
	}
	kept := 0 // of body, in text
	for at := 0; ; {
		const name = `"data"`
		i := bytes.Index(body[at:], []byte(name))
		if i < 0 {
			break
		}
		at += i + len(name)
		value, ok := bytes.CutPrefix(bytes.TrimLeft(body[at:], " \t\r\n"), []byte(":"))
		if value = bytes.TrimLeft(value, " \t\r\n"); !ok || len(value) == 0 || value[0] != '"' {
			continue
		}
		n := bytes.IndexByte(value[1:], '"')
		if n < leastLifted {
			continue
		}
		code := value[1 : 1+n]
		if bytes.IndexByte(code, '\n') >= 0 || bytes.IndexByte(code, '\r') >= 0 { // no JSON, though base64
			continue
		}
		b, err := unbase64(code)
		if err != nil {
			continue
		}
		text = append(text, body[kept:len(body)-len(value)]...)
		text = append(append(append(text, liftedMark...), strconv.Itoa(len(lifted))...), '"')
		lifted = append(lifted, b)
		at = len(body) - len(value) + n + 2
		kept = at
	}
	if lifted == nil {
		return body, nil
	}
	return append(text, body[kept:]...), lifted
}

// putBack gives the parts of a request what lift took out of them. It reports whether they took
// all of it, each one thing.
func (r *workRequest) putBack(lifted [][]byte) bool {
	n := 0
	for _, item := range r.Inputs {
		for i := range item.Content {
			p := &item.Content[i]
			data := p.Data
			if p.Audio != nil { // it goes before (see part)
				data = p.Audio.Data
			}
			if n < len(lifted) && string(data) == liftedMark+strconv.Itoa(n)+`"` {
				p.lifted = lifted[n]
				n++
			}
		}
	}
	return n == len(lifted)
}

// inline sets an input's bytes from a JSON string of base64 in the part.
func (c *wirePart) inline(in *media.Input, data json.RawMessage, field string) error {
	b, err := c.lifted, error(nil)
	if b == nil {
		b, err = unquote64(data)
	}
	if err != nil {
		return fieldProblem(field, err.Error())
	}
	setBytes(in, b)
	return nil
}

// unquote64 reads a JSON string of base64, which mostly needs no unquoting.
func unquote64(q json.RawMessage) ([]byte, error) {
	if n := len(q); n >= 2 && q[0] == '"' && bytes.IndexByte(q, '\\') < 0 {
		return unbase64(q[1 : n-1])
	}
	var s string
	if err := json.Unmarshal(q, &s); err != nil {
		return nil, fmt.Errorf("is no string")
	}
	return unbase64([]byte(s))
}

// unbase64 reads standard or URL base64, padded or not, over several lines or not.
func unbase64(s []byte) ([]byte, error) {
	s = bytes.TrimRight(s, "=\r\n")
	if bytes.IndexByte(s, '-') >= 0 || bytes.IndexByte(s, '_') >= 0 {
		s = bytes.ReplaceAll(bytes.ReplaceAll(s, []byte("-"), []byte("+")), []byte("_"), []byte("/"))
	}
	code := base64.RawStdEncoding
	b := make([]byte, code.DecodedLen(len(s)))
	n, err := code.Decode(b, s) // line breaks are skipped
	if err != nil {
		return nil, fmt.Errorf("is not base64")
	}
	return b[:n], nil
}
