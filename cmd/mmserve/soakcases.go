package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// soakCase is a request whose answer was recorded at the start.
type soakCase struct {
	name    string
	request []byte
	status  int
	answer  []byte // of a refusal: its code
}

// asked are the ways a good file is asked about; an empty suffix of the query stands for JSON.
var asked = []string{"/v1/encode?output=pooled&format=raw", "/v1/encode?output=latents&format=raw", "/v1/predict?top=3"}

// goodCases records the answers about files, one at a time and all in one batch.
func (g *generator) goodCases(files []string) ([]soakCase, error) {
	var cases []soakCase
	type part struct {
		Type string `json:"type"`
		Data string `json:"data"`
	}
	type item struct {
		Content []part `json:"content"`
	}
	var batch struct {
		Inputs []item `json:"inputs"`
	}
	bodies := map[string][]byte{"text": []byte("what is the weather like in Lisbon")}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		bodies[f] = b
	}
	for name, b := range bodies {
		for _, path := range asked {
			c := soakCase{name: name + " " + path, request: g.wire.request("POST", path, "", b)}
			if err := g.record(&c); err != nil {
				return nil, err
			}
			if c.status != http.StatusOK {
				return nil, fmt.Errorf("load: %s: %d %s", c.name, c.status, c.answer)
			}
			cases = append(cases, c)
		}
		kind, err := g.modality(b)
		if err != nil {
			return nil, err
		}
		batch.Inputs = append(batch.Inputs, item{[]part{{kind, base64.StdEncoding.EncodeToString(b)}}})
	}
	all, err := json.Marshal(batch)
	if err != nil {
		return nil, err
	}
	c := soakCase{name: "all in one batch", request: g.wire.request("POST", "/v1/encode?", "application/json", all)}
	if err := g.record(&c); err != nil {
		return nil, err
	}
	return append(cases, c), nil
}

// modality asks the server what a file is.
func (g *generator) modality(body []byte) (string, error) {
	status, answer, err := g.wire.send(g.wire.request("POST", "/v1/plan", "", body))
	if err != nil {
		return "", err
	}
	var doc struct {
		Data []struct{ Plan struct{ Modality string } }
	}
	if err := json.Unmarshal(answer, &doc); err != nil || status != http.StatusOK || len(doc.Data) != 1 {
		return "", fmt.Errorf("load: plan: %d %.200s", status, answer)
	}
	return doc.Data[0].Plan.Modality, nil
}

// record asks once and keeps the answer.
func (g *generator) record(c *soakCase) error {
	status, answer, err := g.wire.send(c.request)
	if err != nil {
		return fmt.Errorf("load: %s: %w", c.name, err)
	}
	c.status, c.answer = status, essence(status, answer)
	return nil
}

// essence is what of an answer must be the same each time: of a refusal its code, of a document
// everything but the id and the times of the request, of anything else each byte.
func essence(status int, answer []byte) []byte {
	if status != http.StatusOK {
		var p struct{ Code string }
		json.Unmarshal(answer, &p) // no problem document: an empty code
		return []byte(p.Code)
	}
	if !bytes.HasPrefix(answer, []byte("{")) {
		return answer
	}
	var doc map[string]json.RawMessage
	if json.Unmarshal(answer, &doc) != nil {
		return answer
	}
	delete(doc, "request_id")
	delete(doc, "timing_ms")
	b, err := json.Marshal(doc)
	if err != nil {
		return answer
	}
	return b
}

// same reports whether an answer is the recorded one.
func (c *soakCase) same(status int, answer []byte) bool {
	return status == c.status && bytes.Equal(essence(status, answer), c.answer)
}

// badCases records the refusals of a directory's files; what the server takes is left out.
func (g *generator) badCases(dir string) ([]soakCase, error) {
	var cases []soakCase
	for _, r := range g.bad {
		cases = append(cases, soakCase{name: "hostile header", request: r})
	}
	if dir != "" {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			cases = append(cases, soakCase{name: filepath.Base(path), request: g.encode(b)})
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	for i := range cases {
		if err := g.record(&cases[i]); err != nil {
			return nil, err
		}
		if cases[i].status >= 500 {
			return nil, fmt.Errorf("load: %s: %d %s", cases[i].name, cases[i].status, cases[i].answer)
		}
	}
	return slices.DeleteFunc(cases, func(c soakCase) bool { return c.status == http.StatusOK }), nil
}

// mischief is a way to be a bad client. It returns what the server did wrong, if anything.
type mischief struct {
	name string
	do   func(g *generator, good soakCase) error
}

var mischiefs = []mischief{
	{"body cut off", func(g *generator, good soakCase) error { return g.abandon(good.request[:len(good.request)-1]) }},
	{"header cut off", func(g *generator, good soakCase) error { return g.abandon(good.request[:20]) }},
	{"client gone", func(g *generator, good soakCase) error { return g.abandon(good.request) }},
	{"body announced too large", func(g *generator, _ soakCase) error {
		return g.expect([]byte("POST /v1/encode HTTP/1.1\r\n"+g.wire.header+"Content-Length: 1099511627776\r\n\r\nx"), http.StatusRequestEntityTooLarge)
	}},
	{"body compressed", func(g *generator, _ soakCase) error {
		return g.expect([]byte("POST /v1/encode HTTP/1.1\r\n"+g.wire.header+"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\x1f\x8b\x08"), http.StatusUnsupportedMediaType)
	}},
	{"no HTTP", func(g *generator, _ soakCase) error {
		return g.expect([]byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 ?\r\n\r\n"), http.StatusBadRequest)
	}},
	{"bad JSON", func(g *generator, _ soakCase) error {
		return g.expect(g.wire.request("POST", "/v1/encode", "application/json", []byte(`{"inputs":[{"content":[{"type":"text","text":"`)), http.StatusBadRequest)
	}},
	{"slow body", func(g *generator, good soakCase) error { return g.dawdle(good.request) }},
}

// abandon sends some bytes on a connection of its own and leaves.
func (g *generator) abandon(b []byte) error {
	c, err := g.wire.dial()
	if err != nil {
		return err
	}
	defer g.wire.drop(c)
	c.SetDeadline(time.Now().Add(answerLimit))
	_, err = c.Write(b)
	return err
}

// expect sends bytes on a connection of its own and wants a status, or to be shed.
func (g *generator) expect(b []byte, want int) error {
	status, answer, err := g.wire.lone(b)
	if err != nil {
		return err
	}
	if status != want && status != http.StatusServiceUnavailable {
		return fmt.Errorf("%d %.200s", status, answer)
	}
	return nil
}

// dawdle sends all of a request but its last byte, and wants to be told off, or cut, in time.
func (g *generator) dawdle(request []byte) error {
	return g.expect(request[:len(request)-1], http.StatusRequestTimeout)
}
