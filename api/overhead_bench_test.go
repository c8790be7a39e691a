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
	"testing"
	"time"

	"github.com/mmserve/mmserve/api"
	"github.com/mmserve/mmserve/modality/media"
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

// BenchmarkOverhead is what HTTP, reading the request and writing the answer add to the default
// model's own time for a 224×224 JPEG, as a share of that time.
func BenchmarkOverhead(b *testing.B) {
	m, err := pipeline.OpenFS(context.Background(), models.Default(), pipeline.Options{})
	if err != nil {
		b.Fatal(err)
	}
	store := &pipeline.Store{}
	store.Add("default", func(context.Context) (pipeline.Model, error) { return m, nil })
	s := &api.Server{Store: store}
	hs := httptest.NewServer(s.Handler())
	defer hs.Close()
	jpg := photo(b)
	inJSON := fmt.Appendf(nil, `{"output":["latents","pooled"],"inputs":[{"content":[{"type":"image","data":%q}]}]}`, base64.StdEncoding.EncodeToString(jpg))
	conn, err := net.Dial("tcp", hs.Listener.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	answers := bufio.NewReader(conn)
	send := func(request []byte) {
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
	direct := func() {
		it := pipeline.Item{Parts: []pipeline.Part{{Input: media.Bytes("", jpg)}}}
		if _, err := m.Encode(b.Context(), it, pipeline.EncodeOptions{Outputs: []string{"latents", "pooled"}}); err != nil {
			b.Fatal(err)
		}
	}
	for _, c := range []struct {
		name, path, kind string
		body             []byte
	}{
		{"raw", "/v1/encode?output=latents,pooled&format=safetensors", "image/jpeg", jpg},
		{"json", "/v1/encode", "application/json", inJSON},
	} {
		b.Run(c.name, func(b *testing.B) {
			direct()
			request := fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", c.path, c.kind, len(c.body), c.body)
			send(request)
			var own, whole time.Duration
			for b.Loop() { // by turns, so that both see the same machine
				begin := time.Now()
				direct()
				own += time.Since(begin)
				begin = time.Now()
				send(request)
				whole += time.Since(begin)
			}
			b.ReportMetric(float64(own.Microseconds())/float64(b.N), "model-µs")
			b.ReportMetric(float64((whole-own).Microseconds())/float64(b.N), "server-µs")
			b.ReportMetric(100*float64(whole-own)/float64(own), "overhead-%")
		})
	}
}
