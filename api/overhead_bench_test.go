package api_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/fstest"
	"time"

	"github.com/mmserve/mmserve/api"
	"github.com/mmserve/mmserve/models"
	"github.com/mmserve/mmserve/pipeline"
)

// photo is a 224×224 JPEG of about 11 KiB.
func photo(b *testing.B) []byte {
	img := image.NewRGBA(image.Rect(0, 0, 224, 224))
	for y := range 224 {
		for x := range 224 {
			img.Set(x, y, color.RGBA{uint8(x * y / 196), uint8(128 + 60*((x/7+y/11)%2)), uint8(y), 255})
		}
	}
	var buf bytes.Buffer
	if err := jpeg.Encode(&buf, img, &jpeg.Options{Quality: 90}); err != nil {
		b.Fatal(err)
	}
	return buf.Bytes()
}

// timedModel notes how long its last encoding took, from the medium's bytes to the latents.
type timedModel struct {
	pipeline.Model
	took  time.Duration
	again bool // answer at once, as the last time
	last  *pipeline.Encoding
}

func (m *timedModel) Encode(ctx context.Context, it pipeline.Item, opt pipeline.EncodeOptions) (enc *pipeline.Encoding, err error) {
	if m.again && m.last != nil {
		return m.last, nil
	}
	begin := time.Now()
	m.last, err = m.Model.Encode(ctx, it, opt)
	m.took = time.Since(begin)
	return m.last, err
}

// overheadModel opens the built-in model, or one of the shape of a published classifier.
func overheadModel(b *testing.B, name string) pipeline.Model {
	if name == "built-in" {
		m, err := pipeline.OpenFS(b.Context(), models.Default(), pipeline.Options{})
		if err != nil {
			b.Fatal(err)
		}
		return m
	}
	config, err := os.ReadFile(filepath.Join("..", "testdata", "reference", "fullsize", name, "config.json"))
	if err != nil {
		b.Fatal(err)
	}
	m, err := pipeline.OpenFS(b.Context(), fstest.MapFS{"config.json": {Data: config}}, pipeline.Options{Random: true})
	if err != nil {
		b.Fatal(err)
	}
	return m
}

// overheadCase is a way to ask for latents and the pooled vector of a picture.
type overheadCase struct {
	name    string
	request []byte
}

// overheadCases are the picture itself answered in safetensors, and JSON both ways.
func overheadCases(b *testing.B) []overheadCase {
	request := func(path, kind string, body []byte) []byte {
		return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", path, kind, len(body), body)
	}
	jpg := photo(b)
	inJSON := fmt.Appendf(nil, `{"output":["latents","pooled"],"inputs":[{"content":[{"type":"image","data":%q}]}]}`, base64.StdEncoding.EncodeToString(jpg))
	return []overheadCase{
		{"raw", request("/v1/encode?output=latents,pooled&format=safetensors", "image/jpeg", jpg)},
		{"json", request("/v1/encode", "application/json", inJSON)},
	}
}

// BenchmarkOverhead is what HTTP, reading the request, planning, the queue and writing the answer
// add to a model's own time for a 224×224 JPEG, as a share of that time: all of a request, as its
// client sees it, but the model's work in it. Medians, which other programs disturb least.
func BenchmarkOverhead(b *testing.B) {
	for _, name := range []string{"built-in", "vision-perceiver-conv"} {
		var m *timedModel
		for _, c := range overheadCases(b) {
			b.Run(name+"/"+c.name, func(b *testing.B) {
				if m == nil {
					m = &timedModel{Model: overheadModel(b, name)}
				}
				send := overheadClient(b, m)
				send(c.request)
				var own, rest []time.Duration
				for b.Loop() {
					begin := time.Now()
					send(c.request)
					whole := time.Since(begin)
					own, rest = append(own, m.took), append(rest, whole-m.took)
				}
				slices.Sort(own)
				slices.Sort(rest)
				model, server := own[len(own)/2], rest[len(rest)/2]
				b.ReportMetric(float64(model.Microseconds()), "model-µs")
				b.ReportMetric(float64(server.Microseconds()), "server-µs")
				b.ReportMetric(100*float64(server)/float64(model), "overhead-%")
			})
		}
	}
}

// BenchmarkRequest is a request alone: the model answers at once, as it did before.
func BenchmarkRequest(b *testing.B) {
	m := &timedModel{Model: overheadModel(b, "built-in"), again: true}
	for _, c := range overheadCases(b) {
		b.Run(c.name, func(b *testing.B) {
			send := overheadClient(b, m)
			send(c.request)
			b.ReportAllocs()
			for b.Loop() {
				send(c.request)
			}
		})
	}
}

// overheadClient starts a server of one model and returns what sends it a request over one
// connection and reads the answer.
func overheadClient(b *testing.B, m pipeline.Model) func(request []byte) {
	s := &api.Server{Store: &pipeline.Store{}}
	s.Store.Add("m", func(context.Context) (pipeline.Model, error) { return m, nil })
	hs := httptest.NewServer(s.Handler())
	b.Cleanup(hs.Close)
	conn, err := net.Dial("tcp", hs.Listener.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	answers := bufio.NewReaderSize(conn, 256<<10) // the client's own work is to be small
	return func(request []byte) {
		if _, err := conn.Write(request); err != nil {
			b.Fatal(err)
		}
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			b.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
			b.Fatalf("%d %v after %d bytes", resp.StatusCode, err, n)
		}
	}
}
