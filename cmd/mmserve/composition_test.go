package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	_ "github.com/mmserve/mmserve/examples/custommodality" // the adapter of the composition's second medium
	"github.com/mmserve/mmserve/pipeline"
	"github.com/mmserve/mmserve/weights"
)

// walk is a recording of a few samples.
func walk(samples int) string {
	var b strings.Builder
	b.WriteString("t,ax,ay,az,gx,gy,gz\n")
	for i := range samples {
		fmt.Fprintf(&b, "%g,%g,0,9.8,0,%g,-1\n", float64(i)/100, float64(i%7)/4, float64(i%3))
	}
	return b.String()
}

// A composition other than the built-in one, pictures and a medium of one's own, is written as
// JSON, given random weights, and answers over HTTP and on the command line: rows, heads,
// embedding, soft tokens, captions.
func TestCompositionIsServed(t *testing.T) {
	dir := t.TempDir()
	config, err := os.ReadFile(data("native", "sensor", "model.json"))
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, config, dir, "model.json")
	d, err := pipeline.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	wanted, err := d.Wanted(t.Context(), pipeline.Options{})
	if err != nil {
		t.Fatal(err)
	}
	code, out, errs := mmserve(t, "inspect", dir)
	for _, want := range []string{"modality camera: adapter image", "head activity: classes of motion, 3 values: rest, walk, run", "no model.safetensors; it would hold:", "modalities.camera.stem.0.weight", "[8 3 3 3]"} {
		if code != 0 || !strings.Contains(out, want) {
			t.Fatalf("inspect: status %d, no %q in\n%s%s", code, want, out, errs)
		}
	}
	var b bytes.Buffer
	if err := weights.CopySafetensors(&b, weights.Seeded(wanted...), nil); err != nil {
		t.Fatal(err)
	}
	writeFile(t, b.Bytes(), dir, "model.safetensors")

	picture, err := os.ReadFile(data("samples", "emoji-1f622.png"))
	if err != nil {
		t.Fatal(err)
	}
	s := startDaemon(t, "--models", "sensor="+dir)
	post := func(t *testing.T, path, kind string, body []byte, v any) {
		t.Helper()
		resp, err := http.Post(s.url+path, kind, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err == nil && resp.StatusCode == http.StatusOK {
			err = json.Unmarshal(text, v)
		}
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s, %v: %s", path, resp.Status, err, text)
		}
	}
	until(func() bool {
		resp, err := http.Get(s.url + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})

	both, _ := json.Marshal(map[string]any{"model": "sensor", "inputs": []any{map[string]any{"content": []any{
		map[string]any{"type": "camera", "data": base64.StdEncoding.EncodeToString(picture)},
		map[string]any{"type": "motion", "data": base64.StdEncoding.EncodeToString([]byte(walk(20)))},
	}}}})
	for name, c := range map[string]struct {
		kind  string
		body  []byte
		heads []string
	}{
		"picture": {"image/png", picture, []string{"scene"}},
		"motion":  {"text/x-imu", []byte(walk(30)), []string{"activity"}},
		"both":    {"application/json", both, []string{"activity", "scene"}},
	} {
		t.Run(name, func(t *testing.T) {
			var raw map[string]any
			post(t, "/v1/predict?model=sensor", c.kind, c.body, &raw)
			text, _ := json.Marshal(raw)
			for _, h := range []string{"activity", "scene"} {
				if strings.Contains(string(text), fmt.Sprintf("%q", h)) != slices.Contains(c.heads, h) {
					t.Errorf("head %s: %s", h, text)
				}
			}
			for output, shape := range map[string]string{"latents": "[6,32]", "pooled": "[16]", "soft_tokens": "[4,32]"} {
				body, path := c.body, "/v1/encode?model=sensor&output="+output
				if name == "both" {
					body = bytes.Replace(body, []byte(`{"inputs"`), fmt.Appendf(nil, `{"output":%q,"inputs"`, output), 1)
				}
				var raw map[string]any
				post(t, path, c.kind, body, &raw)
				if text, _ := json.Marshal(raw); !strings.Contains(string(text), `"shape":`+shape) {
					t.Errorf("%s: no shape %s in %.300s", output, shape, text)
				}
			}
		})
	}

	file := filepath.Join(dir, "walk.imu")
	writeFile(t, []byte(walk(12)), file)
	for _, args := range [][]string{{"predict", file}, {"caption", file}, {"generate", "--prompt", "it ", "--image", file, "--max-tokens", "3"}, {"bench", "--seconds", "0.01"}} {
		if code, _, errs := mmserve(t, append(args, "--model", dir)...); code != 0 {
			t.Errorf("%v: status %d: %s", args, code, errs)
		}
	}
	if code, out, _ := mmserve(t, "predict", "--model", dir, file); code != 0 || !strings.Contains(out, "activity") {
		t.Errorf("status %d: %s", code, out)
	}
}
