package modalitytest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/modality/media"
)

// Run runs the suite on an adapter. Each sample must be a sane input that becomes at least two
// rows.
func Run(t *testing.T, a modality.Adapter, samples ...Sample) {
	t.Helper()
	if len(samples) == 0 {
		t.Fatal("modalitytest: no samples")
	}
	t.Run("info", func(t *testing.T) { info(t, a) })
	t.Run("empty", func(t *testing.T) { empty(t, a) })
	for i, s := range samples {
		name := s.Name
		if name == "" {
			name = fmt.Sprint(i)
		}
		t.Run(name, func(t *testing.T) {
			c := &suite{a: a, s: s, kind: a.Info().Name}
			t.Run("shape", c.shape)
			t.Run("blocks", c.blocks)
			t.Run("stream", c.stream)
			t.Run("cancel", c.cancel)
			t.Run("limits", c.limits)
			t.Run("race", c.race)
			t.Run("garbage", c.garbage)
		})
	}
}

// suite is an adapter with one sample.
type suite struct {
	a    modality.Adapter
	s    Sample
	kind string
	want uint64 // digest of all rows, from shape
}

func (c *suite) input() media.Input { return c.s.input(c.kind, media.Limits{}) }

// info: an adapter says what it is, and its options are a schema.
func info(t *testing.T, a modality.Adapter) {
	i := a.Info()
	if i.Name == "" || i.Doc == "" || i.Position == "" {
		t.Errorf("name %q, doc %q, position %q: none may be empty", i.Name, i.Doc, i.Position)
	}
	var schema map[string]any
	if err := json.Unmarshal(i.Options, &schema); err != nil || schema["type"] != "object" {
		t.Errorf("options are no JSON Schema of an object: %v: %s", err, i.Options)
	}
	if len(i.MediaTypes) == 0 {
		t.Error("no media types")
	}
	for _, m := range i.Magic {
		if len(m.Bytes) == 0 || m.MediaType == "" {
			t.Errorf("magic %+v is incomplete", m)
		}
	}
	if _, err := json.Marshal(i); err != nil {
		t.Error(err)
	}
}

// empty: no bytes are an error, in the plan's place and in the array's.
func empty(t *testing.T, a modality.Adapter) {
	in := media.Bytes("", nil)
	if _, err := in.Header(); media.CodeOf(err) != media.Empty {
		t.Errorf("header of nothing: %v", err)
	}
	if array, err := a.Adapt(t.Context(), in); err == nil {
		array.Close()
		t.Error("nothing was adapted")
	} else if media.CodeOf(err) == "" {
		t.Errorf("error without a code: %v", err)
	}
}

// shape: the array is what the plan said, and it is deterministic.
func (c *suite) shape(t *testing.T) {
	in := c.input()
	h, err := in.Header()
	if err != nil {
		t.Fatal(err)
	}
	cost, err := c.a.Plan(t.Context(), h)
	if err != nil {
		t.Fatalf("plan: %v", err)
	}
	array, err := c.a.Adapt(t.Context(), in)
	if err != nil {
		t.Fatalf("adapt: %v", err)
	}
	defer array.Close()
	m, n := array.Dims()
	if m != cost.Rows && !(cost.Estimated && m < cost.Rows) || n != cost.RowChannels {
		t.Errorf("array of %d×%d, planned %d×%d (estimated: %v)", m, n, cost.Rows, cost.RowChannels, cost.Estimated)
	}
	if m < 2 {
		t.Errorf("the sample becomes %d rows: use a larger one", m)
	}
	if want := c.a.Info().Channels; want != 0 && n != want {
		t.Errorf("%d channels, Info says %d", n, want)
	}
	if cost.Modality == "" || cost.DecodedBytes <= 0 {
		t.Errorf("plan leaves out modality %q or decoded bytes %d", cost.Modality, cost.DecodedBytes)
	}
	if _, err := json.Marshal(cost); err != nil {
		t.Error(err)
	}
	if c.want, err = digest(array, 512, 0); err != nil {
		t.Fatal(err)
	}
	again, err := adapt(t.Context(), c.a, c.input(), 512, 0)
	if err != nil || again != c.want {
		t.Errorf("a second array differs: %v", err)
	}
}

// blocks: rows do not depend on how they are asked for, and can be asked for again.
func (c *suite) blocks(t *testing.T) {
	array, err := c.a.Adapt(t.Context(), c.input())
	if err != nil {
		t.Fatal(err)
	}
	defer array.Close()
	sizes := []int{7, 1 << 30}
	if m, n := array.Dims(); m*n < block {
		sizes = append(sizes, 1)
	}
	for _, n := range sizes {
		if array.Forward {
			got, err := adapt(t.Context(), c.a, c.input(), n, 0)
			if err != nil || got != c.want {
				t.Errorf("blocks of %d rows differ: %v", n, err)
			}
			continue
		}
		got, err := digest(array, n, 0) // a further pass over the same array
		if err != nil || got != c.want {
			t.Errorf("blocks of %d rows differ: %v", n, err)
		}
	}
}

// stream: a forward-only input gives the same rows, or says by code that it cannot be read so.
func (c *suite) stream(t *testing.T) {
	if c.s.Parts != nil {
		t.Skip("a composite is no stream")
	}
	in := media.Stream(c.s.Name, iotest.HalfReader(bytes.NewReader(c.s.Data)))
	in.MediaType, in.Kind = c.s.MediaType, c.kind
	h, err := in.Header()
	if err != nil {
		t.Fatal(err)
	}
	if cost, err := c.a.Plan(t.Context(), h); err == nil && cost.RowChannels == 0 {
		t.Error("the plan of a stream leaves out the channels")
	} else if err != nil && media.CodeOf(err) == "" {
		t.Errorf("plan: error without a code: %v", err)
	}
	got, err := adapt(t.Context(), c.a, in, 100, 0)
	switch {
	case err != nil && media.CodeOf(err) == "":
		t.Errorf("error without a code: %v", err)
	case err != nil && c.a.Info().Streams:
		t.Errorf("Info says streams are read: %v", err)
	case err == nil && got != c.want:
		t.Error("rows differ from those of the same bytes in a file")
	}
}

// cancel: a cancelled context stops the work.
func (c *suite) cancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := adapt(ctx, c.a, c.input(), 64, 0)
	if media.CodeOf(err) != media.Canceled && !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled context gave %v", err)
	}
}

// limits: with every limit at its least, the sample is too large.
func (c *suite) limits(t *testing.T) {
	tiny := media.Limits{Bytes: 1 << 30, Decoded: 1, Pixels: 1, Side: 1, Aspect: 1, Frames: 1, Scans: 1, Seconds: 1e-9,
		Samples: 1, Rate: 1, Channels: 1, Points: 1, Columns: 1, Text: 1, Parts: 1 << 20, Rows: 1}
	in := c.s.input(c.kind, tiny)
	h, err := in.Header()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.a.Plan(t.Context(), h); media.CodeOf(err) != media.TooLarge {
		t.Errorf("plan under the least limits: %v", err)
	}
	if _, err := adapt(t.Context(), c.a, in, 64, 0); media.CodeOf(err) != media.TooLarge {
		t.Errorf("adapt under the least limits: %v", err)
	}
	few := media.Limits{Bytes: 1}
	if _, err := c.s.input(c.kind, few).Header(); c.s.Parts == nil && media.CodeOf(err) != media.TooLarge {
		t.Errorf("header under a limit of one byte: %v", err)
	}
}

// race: one adapter serves many goroutines.
func (c *suite) race(t *testing.T) {
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if got, err := adapt(t.Context(), c.a, c.input(), 333, 0); err != nil || got != c.want {
				t.Errorf("beside others the rows differ: %v", err)
			}
		})
	}
	wg.Wait()
}

// mutants is how many damaged copies of a sample are tried, at most; slow decoders get through
// what fits in mutantTime.
const (
	mutants    = 120
	mutantTime = 1500 * time.Millisecond
)

// garbage: damaged samples are refused with a code or become finite rows. The damage is the
// same on every run.
func (c *suite) garbage(t *testing.T) {
	if c.s.Parts != nil {
		t.Skip("its parts are tested by themselves")
	}
	rng := rand.New(rand.NewPCG(1, uint64(len(c.s.Data))))
	start := time.Now()
	for i := range mutants {
		if time.Since(start) > mutantTime {
			break
		}
		try(t, c.a, c.kind, c.s, mutate(rng, c.s.Data, i))
	}
}

// mutate damages a copy of data: cut short, bits turned, bytes overwritten by extremes, a piece
// doubled or removed. The first bytes, where headers are, are hit more often.
func mutate(rng *rand.Rand, data []byte, i int) []byte {
	out := append([]byte(nil), data...)
	if len(out) < 2 {
		return out
	}
	at := func() int {
		if rng.IntN(2) == 0 {
			return rng.IntN(min(len(out), 64))
		}
		return rng.IntN(len(out))
	}
	switch i % 6 {
	case 0:
		return out[:at()]
	case 1:
		for range 1 + rng.IntN(8) {
			out[at()] ^= 1 << rng.IntN(8)
		}
	case 2:
		for range 1 + rng.IntN(4) {
			out[at()] = []byte{0, 0xFF, 0x7F, 0x80, '-', '9'}[rng.IntN(6)]
		}
	case 3:
		p := at()
		n := min(1+rng.IntN(8), len(out)-p)
		for j := range n {
			out[p+j] = 0xFF
		}
	case 4:
		p := at()
		n := rng.IntN(min(len(out)-p, 256) + 1)
		out = append(out[:p], append(append([]byte(nil), out[p:p+n]...), out[p:]...)...)
	case 5:
		p := at()
		out = append(out[:p], out[min(p+1+rng.IntN(64), len(out)):]...)
	}
	return out
}

// Bounds of one damaged input: generous for slow machines and the race detector, and far from
// what a lying header asks for.
const (
	tryTime   = 20 * time.Second
	tryMemory = 768 << 20
)

// try plans and adapts bytes that may be anything.
func try(t testing.TB, a modality.Adapter, kind string, s Sample, data []byte) {
	t.Helper()
	limits := media.Limits{Pixels: 4 << 20, Samples: 4 << 20, Points: 1 << 20, Text: 4 << 20, Decoded: 128 << 20, Frames: 256, Time: tryTime}
	in := Sample{Name: s.Name, MediaType: s.MediaType, Data: data}.input(kind, limits)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	if h, err := in.Header(); err == nil {
		if _, err := a.Plan(t.Context(), h); err != nil && media.CodeOf(err) == "" {
			t.Errorf("plan: error without a code: %v", err)
		}
	}
	if _, err := adapt(t.Context(), a, in, 64, 256); err != nil && media.CodeOf(err) == "" {
		t.Errorf("error without a code: %v", err)
	}
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; took > tryTime || n > tryMemory {
		t.Errorf("%d bytes cost %v and %d MiB", len(data), took, n>>20)
	}
}

// Fuzz is the body of a fuzz target for an adapter: samples are the seeds.
func Fuzz(f *testing.F, a modality.Adapter, samples ...Sample) {
	for _, s := range samples {
		f.Add(s.Data)
	}
	kind, s := a.Info().Name, Sample{}
	f.Fuzz(func(t *testing.T, data []byte) { try(t, a, kind, s, data) })
}
