package api

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/pipeline"
)

// sample is base64 that is worth lifting.
var sample = base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{0, 1, 2, 253, 254, 255, 62, 63, 64}, 40))

// bodies are JSON with media in all the places where some may be, and where none should.
func bodies() map[string]string {
	url := strings.NewReplacer("+", "-", "/", "_", "=", "").Replace(sample)
	part := func(rest string) string { return `{"inputs":[{"id":"a","content":[{"type":"image",` + rest + `}]}]}` }
	return map[string]string{
		"a picture":        part(`"data":"` + sample + `"`),
		"with spaces":      part("\"data\" \n:\t\"" + sample + "\" "),
		"url base64":       part(`"data":"` + url + `"`),
		"short":            part(`"data":"AAEC"`),
		"several":          part(`"data":"` + sample + `"},{"type":"audio","data":"` + url + `"},{"type":"text","text":"data"`),
		"no base64":        part(`"data":"` + sample + `!"`),
		"a line break":     part("\"data\":\"" + sample + "\n\""),
		"an escape":        part(`"data":"` + sample + `\n"`),
		"sound":            part(`"input_audio":{"data":"` + sample + `"}`),
		"sound and data":   part(`"data":"` + sample + `","input_audio":{"data":"AAEC"}`),
		"data and sound":   part(`"input_audio":{"data":"` + sample + `"},"data":"` + url + `"`),
		"data twice":       part(`"data":"` + sample + `","data":"` + url + `"`),
		"in options":       part(`"data":"AAEC","options":{"data":"` + sample + `"}`),
		"options and data": part(`"options":{"data":"` + sample + `"},"data":"` + url + `"`),
		"in user":          `{"user":{"data":"` + sample + `"},"inputs":[{"content":[{"type":"image","data":"` + sample + `"}]}]}`,
		"in a text":        part(`"text":"{\"data\":\"` + sample + `\"}"`),
		"ends in the name": part(`"a\"data":"` + sample + `"`),
		"a client's mark":  part(`"data":"#lifted 0","options":{"data":"` + sample + `"}`),
		"an escaped mark":  part(`"data":"\u0023lifted 0","options":{"data":"` + sample + `"}`),
		"unknown field":    part(`"data":"` + sample + `","colour":1`),
		"wrong type":       part(`"data":"` + sample + `","name":1`),
		"not whole":        `{"inputs":[{"content":[{"type":"image","data":"` + sample + `"`,
		"unfinished":       `{"inputs":[{"content":[{"type":"image","data":"` + sample,
		"no value":         `{"inputs":[{"content":[{"type":"image","data"`,
		"more than one":    part(`"data":"`+sample+`"`) + `{}`,
		"syntax":           part(`"data":"` + sample + `"` + sample + `"`),
	}
}

// told is what a reading of a body comes to, for comparison.
func told(items []pipeline.Item, err error) string {
	var b strings.Builder
	fmt.Fprintf(&b, "error %v", err)
	for _, it := range items {
		fmt.Fprintf(&b, "\nitem %q", it.ID)
		for _, p := range it.Parts {
			h, err := p.Input.Header()
			data, _ := io.ReadAll(p.Input.Reader())
			fmt.Fprintf(&b, "\n%q %q %q %s %q %v %x", p.Modality, p.Role, h.Name, p.Options, h.MediaType, err, data)
		}
	}
	return b.String()
}

// compare reads a body with its media lifted out and with a decoder of JSON alone.
func compare(t *testing.T, body []byte) {
	t.Helper()
	s := &Server{}
	plain := new(workRequest)
	var items []pipeline.Item
	err := decodeJSON(t.Context(), bytes.NewReader(body), plain)
	if err == nil {
		items, err = s.items(plain.Inputs)
	}
	want := told(items, err)
	items = nil
	req, err := readWork(httptest.NewRequest("POST", "/v1/encode", bytes.NewReader(body)))
	if err == nil {
		items, err = s.items(req.Inputs)
	}
	if got := told(items, err); got != want {
		t.Errorf("%.200s\n%.300s\nwant\n%.300s", body, got, want)
	}
}

// Lifting media out of a body changes nothing but the time it takes.
func TestLiftChangesNothing(t *testing.T) {
	for name, want := range map[string]int{"a picture": 1, "with spaces": 1, "url base64": 1, "several": 2, "sound": 1, "short": 0, "no base64": 0, "in a text": 0, "a client's mark": 0} {
		if _, lifted := lift([]byte(bodies()[name])); len(lifted) != want {
			t.Errorf("%s: %d lifted, want %d", name, len(lifted), want)
		}
	}
	for name, body := range bodies() {
		t.Run(name, func(t *testing.T) { compare(t, []byte(body)) })
	}
}

func FuzzLift(f *testing.F) {
	for _, body := range bodies() {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) { compare(t, body) })
}
