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
	took time.Duration
}

func (m *timedModel) Encode(ctx context.Context, it pipeline.Item, opt pipeline.EncodeOptions) (*pipeline.Encoding, error) {
	begin := time.Now()
	defer func() { m.took = time.Since(begin) }()
	return m.Model.Encode(ctx, it, opt)
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

// BenchmarkOverhead is what HTTP, reading the request, planning, the queue and writing the answer
// add to a model's own time for a 224×224 JPEG, as a share of that time: all of a request, as its
// client sees it, but the model's work in it. Medians, which other programs disturb least.
func BenchmarkOverhead(b *testing.B) {
	jpg := photo(b)
	inJSON := fmt.Appendf(nil, `{"output":["latents","pooled"],"inputs":[{"content":[{"type":"image","data":%q}]}]}`, base64.StdEncoding.EncodeToString(jpg))
	for _, name := range []string{"built-in", "vision-perceiver-conv"} {
		var m *timedModel
		for _, c := range []struct {
			name, path, kind string
			body             []byte
		}{
			{"raw", "/v1/encode?output=latents,pooled&format=safetensors", "image/jpeg", jpg},
			{"json", "/v1/encode", "application/json", inJSON},
		} {
			b.Run(name+"/"+c.name, func(b *testing.B) {
				if m == nil {
					m = &timedModel{Model: overheadModel(b, name)}
				}
				store := &pipeline.Store{}
				store.Add(name, func(context.Context) (pipeline.Model, error) { return m, nil })
				send := overheadClient(b, &api.Server{Store: store, Default: name})
				request := fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", c.path, c.kind, len(c.body), c.body)
				send(request)
				var own, rest []time.Duration
				for b.Loop() {
					begin := time.Now()
					send(request)
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

// overheadClient starts a server and returns what sends it a request over one connection and
// reads the answer.
func overheadClient(b *testing.B, s *api.Server) func(request []byte) {
	hs := httptest.NewServer(s.Handler())
	b.Cleanup(hs.Close)
	conn, err := net.Dial("tcp", hs.Listener.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	answers := bufio.NewReader(conn)
	return func(request []byte) {
		if _, err := conn.Write(request); err != nil {
			b.Fatal(err)
		}
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			b.Fatal(err)
		}
		if answer, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
			b.Fatalf("%d %v %.200s", resp.StatusCode, err, answer)
		}
	}
}
