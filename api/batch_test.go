package api_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"image"
	"image/png"
	"math"
	"math/rand/v2"
	"mime/multipart"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/mmserve/mmserve/api"
	"github.com/mmserve/mmserve/internal/kernel"
)

// item is a part of a batch: its JSON, and what the server answers to it alone.
type item struct {
	name, json, alone string
}

func mediumItem(name, kind string, b []byte) item {
	return item{name: name, json: `{"content":[{"type":"` + kind + `","data":"` + base64.StdEncoding.EncodeToString(b) + `"}]}`}
}

// picture is a PNG of one colour.
func picture(t *testing.T, w, h int) []byte {
	t.Helper()
	img := image.NewGray(image.Rect(0, 0, w, h))
	for i := range img.Pix {
		img.Pix[i] = 100
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// floatWAV is half a second of sound in 32-bit floats; at says each sample.
func floatWAV(at func(i int) float64) []byte {
	const n = 8000
	b := []byte("RIFF\x00\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x03\x00\x01\x00\x80\x3e\x00\x00\x00\xfa\x00\x00\x04\x00\x20\x00data")
	b = binary.LittleEndian.AppendUint32(b, 4*n)
	for i := range n {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(at(i))))
	}
	binary.LittleEndian.PutUint32(b[4:], uint32(len(b)-8))
	return b
}

func sine(i int) float64 { return 0.5 * math.Sin(float64(i)/9) }

// goodItems are of every medium that the built-in model reads.
func goodItems(t *testing.T) []item {
	return []item{
		{name: "short text", json: `{"content":[{"type":"text","text":"a"}]}`},
		{name: "text", json: `{"content":[{"type":"text","text":"` + strings.Repeat("a longer text, 四. ", 9) + `"}]}`},
		mediumItem("picture", "image", readMedia(t, "image/go-video-001.rgb.jpeg")),
		mediumItem("small picture", "image", readMedia(t, "image/alpha.png")),
		mediumItem("sound", "audio", readMedia(t, "audio/fsdd-7_george_0.wav")),
		mediumItem("float sound", "audio", floatWAV(sine)),
		mediumItem("points", "pointcloud", readMedia(t, "pointcloud/pyntcloud-diamond.ply")),
	}
}

// outcomes sends items in one batch and returns what is said of each: its tensors or its error,
// without its place.
func (s *site) outcomes(items []item) []string {
	s.t.Helper()
	var list []string
	for _, it := range items {
		list = append(list, it.json)
	}
	// A batch in which every item fails is an error as a whole; the text keeps that from happening.
	a := s.want(s.post("/v1/encode", `{"output":["latents","pooled"],"inputs":[`+strings.Join(list, ",")+`,{"content":[{"type":"text","text":"keeper"}]}]}`), 200)
	var doc struct {
		Errors int
		Data   []struct {
			Status          string
			Latents, Pooled struct{ Data []byte }
			Error           *api.Problem
		}
	}
	if err := json.Unmarshal(a.body, &doc); err != nil || len(doc.Data) != len(items)+1 {
		s.t.Fatalf("%v: %.300q", err, a.body)
	}
	out := make([]string, len(items))
	failed := 0
	for i, d := range doc.Data[:len(items)] {
		if d.Status == "ok" {
			out[i] = fmt.Sprintf("%x %x", d.Latents.Data, d.Pooled.Data)
			continue
		}
		failed++
		out[i] = fmt.Sprintf("%s: %s", d.Error.Code, strings.ReplaceAll(d.Error.Detail, fmt.Sprintf("inputs[%d]", i), "it"))
		if d.Error.Item == nil || *d.Error.Item != i {
			s.t.Errorf("%s: the error names item %v, not %d", items[i].name, d.Error.Item, i)
		}
	}
	if doc.Errors != failed || doc.Data[len(items)].Status != "ok" {
		s.t.Errorf("%d errors counted, %d found; the last item is %s", doc.Errors, failed, doc.Data[len(items)].Status)
	}
	return out
}

// know sends every item alone and keeps the outcome.
func (s *site) know(items []item) []item {
	s.t.Helper()
	for i := range items {
		items[i].alone = s.outcomes(items[i : i+1])[0]
	}
	return items
}

// same fails when an item fares otherwise in a batch than alone.
func (s *site) same(when string, items []item) {
	s.t.Helper()
	for i, got := range s.outcomes(items) {
		if got != items[i].alone {
			s.t.Errorf("%s: %s at place %d of %d: %.200s; alone %.200s", when, items[i].name, i, len(items), got, items[i].alone)
		}
	}
}

// refused is what is said of the media of TestPoisonMedia alone; the others are harmless.
var refused = map[string]string{
	"a picture of 1×65535": "too_large", "a picture of 65535×1": "too_large", "a picture of 1×30000": "too_large",
	"no bytes for a picture": "bad_request", "no bytes for sound": "bad_request", "no bytes for points": "bad_request", "no bytes for text": "bad_request",
	"no samples": "empty", "65535 channels": "empty", "points that are not numbers": "empty",
	"a torn JPEG": "truncated", "a PNG that says 60000×60000": "too_large",
}

// Media that are made to do harm fail alone, or pass as they do alone, wherever in a batch they stand.
func TestPoisonMedia(t *testing.T) {
	s := newSite(t, &api.Server{Slots: 2})
	good := s.know([]item{goodItems(t)[0], goodItems(t)[3], goodItems(t)[5]})
	for _, it := range good {
		if strings.Contains(it.alone, ": ") {
			t.Fatalf("%s: %s", it.name, it.alone)
		}
	}
	nan := func(bad float64, where func(int) bool) func(int) float64 {
		return func(i int) float64 {
			if where(i) {
				return bad
			}
			return sine(i)
		}
	}
	one, all := func(i int) bool { return i == 4000 }, func(int) bool { return true }
	poison := s.know([]item{
		mediumItem("a picture of 1×1", "image", picture(t, 1, 1)),
		mediumItem("a picture of 1×65535", "image", picture(t, 1, 65535)),
		mediumItem("a picture of 65535×1", "image", picture(t, 65535, 1)),
		mediumItem("a picture of 1×30000", "image", picture(t, 1, 30000)),
		mediumItem("a JPEG of 1×1", "image", readMedia(t, "image/size_1x1.jpg")),
		mediumItem("no bytes for a picture", "image", nil),
		mediumItem("no bytes for sound", "audio", nil),
		mediumItem("no bytes for points", "pointcloud", nil),
		mediumItem("no bytes for text", "text", nil),
		mediumItem("sound that is not a number", "audio", floatWAV(nan(math.NaN(), all))),
		mediumItem("a sample that is not a number", "audio", floatWAV(nan(math.NaN(), one))),
		mediumItem("an infinite sample", "audio", floatWAV(nan(math.Inf(-1), one))),
		mediumItem("a sample of 3e38", "audio", floatWAV(nan(3e38, one))),
		mediumItem("no samples", "audio", readMedia(t, "audio/wav_no_samples.wav")),
		mediumItem("65535 channels", "audio", readMedia(t, "audio/wav_channels_65535.wav")),
		mediumItem("a point that is not a number", "pointcloud", []byte("0 0 0\n1 nan 0\n1 1 1\n")),
		mediumItem("points that are not numbers", "pointcloud", []byte("nan nan nan\nnan nan nan\n")),
		mediumItem("infinite points", "pointcloud", []byte("0 0 0\ninf 0 0\n1 1 1\n")),
		mediumItem("points 1e38 apart", "pointcloud", []byte("-1e38 0 0\n1e38 0 0\n1 1 1\n")),
		mediumItem("a torn JPEG", "image", readMedia(t, "image/jpeg_truncated_200.jpg")),
		mediumItem("a PNG that says 60000×60000", "image", readMedia(t, "image/png_header_60000x60000.png")),
		mediumItem("text that is no UTF-8", "text", []byte{0xff, 0xfe, 0xc0, 0x80}),
	})
	for _, p := range poison {
		code, _, failed := strings.Cut(p.alone, ": ")
		if want := refused[p.name]; failed != (want != "") || failed && code != want {
			t.Errorf("%s: %.90s, want %q", p.name, p.alone, want)
		}
		for at := range len(good) + 1 {
			s.same(p.name, slices.Insert(slices.Clone(good), at, p))
		}
	}
	for at := range 3 { // no bytes at all, where a part can hold none
		var b bytes.Buffer
		w := multipart.NewWriter(&b)
		for i := range 3 {
			part, _ := w.CreateFormFile("file", "a.txt")
			if i != at {
				part.Write([]byte("a text"))
			}
		}
		w.Close()
		doc := s.want(s.do("POST", "/v1/encode", b.Bytes(), "Content-Type", w.FormDataContentType()), 200).json(t)
		for i, d := range doc["data"].([]any) {
			if status := d.(map[string]any)["status"]; (status == "ok") != (i != at) || doc["errors"] != 1.0 {
				t.Errorf("0 bytes at %d: item %d is %v", at, i, status)
			}
		}
	}
	both := append(slices.Clone(poison), good...)
	for range 4 {
		rand.Shuffle(len(both), func(i, k int) { both[i], both[k] = both[k], both[i] })
		s.same("all at once", both)
	}
}

// The same item gives the same bytes alone and in any company: batches of any composition, any number
// of them at once, on any number of processors and threads.
func TestBatchInvariance(t *testing.T) {
	processors := runtime.GOMAXPROCS(0)
	defer kernel.SetThreads(kernel.Threads())
	defer runtime.GOMAXPROCS(processors)
	runtime.GOMAXPROCS(1)
	kernel.SetThreads(1)
	s := newSite(t, &api.Server{Slots: 4, Capacity: 1e15})
	items := s.know(goodItems(t))
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	for n := 1; n <= max(4, processors); n++ {
		runtime.GOMAXPROCS(n)
		kernel.SetThreads(0)
		for _, clients := range []int{1, 2, 5} {
			var wg sync.WaitGroup
			for range clients {
				batch := make([]item, 1+rng.IntN(8))
				for i := range batch {
					batch[i] = items[rng.IntN(len(items))]
				}
				wg.Go(func() { s.same(fmt.Sprintf("seed %d, %d processors, %d clients", seed, n, clients), batch) })
			}
			wg.Wait()
		}
	}
}
