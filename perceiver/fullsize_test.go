package perceiver_test

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mmserve/mmserve/perceiver"
	"github.com/mmserve/mmserve/tensor"
)

// fullSize skips a test that runs published sizes unless MMSERVE_FULLSIZE is set: "1" for all of
// them, or a part of the case's name.
func fullSize(t *testing.T, name string) string {
	t.Helper()
	want := os.Getenv("MMSERVE_FULLSIZE")
	if want == "" || want != "1" && !strings.Contains(name, want) {
		t.Skip("set MMSERVE_FULLSIZE=1 (or a part of a case's name) to run published sizes")
	}
	return filepath.Join("..", "testdata", "reference", "fullsize", name)
}

var published = []string{
	"language-perceiver", "vision-perceiver-conv", "vision-perceiver-fourier", "vision-perceiver-learned",
	"multimodal-perceiver", "optical-flow-perceiver",
}

// TestFullSize compares every stage of the published sizes.
func TestFullSize(t *testing.T) {
	for _, name := range published {
		for _, w := range ways {
			t.Run(name+"/"+w.name, func(t *testing.T) {
				if w.opt.Plain && os.Getenv("MMSERVE_FULLSIZE_PLAIN") == "" {
					t.Skip("set MMSERVE_FULLSIZE_PLAIN to run published sizes the plain way as well")
				}
				checkCase(t, fullSize(t, name), w.opt)
			})
		}
	}
}

// resident returns a line of /proc/self/status in MiB: VmRSS, or VmHWM, its peak.
func resident(t *testing.T, field string) float64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("no /proc/self/status here")
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib / 1024
		}
	}
	t.Skip("no " + field + " here")
	return 0
}

// cpuSeconds is the processor time spent by this process, from /proc/self/stat in hundredths.
func cpuSeconds(t *testing.T) float64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Skip("no /proc/self/stat here")
	}
	sum := 0.0
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	for _, f := range fields[11:13] { // utime and stime
		x, err := strconv.ParseFloat(f, 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += x / 100
	}
	return sum
}

// TestMemory holds one forward pass of the published sizes to its peak of memory over the loaded
// weights, and logs the time.
func TestMemory(t *testing.T) {
	type pass = func(ctx context.Context, a *tensor.Arena, net perceiver.Network, in perceiver.CaseInput) error
	image := func(ctx context.Context, a *tensor.Arena, net perceiver.Network, in perceiver.CaseInput) error {
		_, err := net.(*perceiver.ImageClassifier).Forward(ctx, a, perceiver.Planes(in.Floats["inputs"]), nil)
		return err
	}
	run := func(ctx context.Context, a *tensor.Arena, net perceiver.Network, in perceiver.CaseInput) error {
		return net.RunCase(ctx, a, in)
	}
	flow := func(ctx context.Context, a *tensor.Arena, net perceiver.Network, in perceiver.CaseInput) error {
		_, err := net.(*perceiver.OpticalFlow).Forward(ctx, a, []perceiver.Picture{perceiver.Frames(tensor.New(368, 496, 3), tensor.New(368, 496, 3))}, nil)
		return err
	}
	everything := func(ctx context.Context, a *tensor.Arena, net perceiver.Network, in perceiver.CaseInput) error {
		m := net.(*perceiver.MultimodalAutoencoder)
		x, err := m.Encode(ctx, a, []perceiver.Clip{{Film: perceiver.Film(in.Floats["inputs.image"].At(0)), Audio: in.Floats["inputs.audio"].Data}}, nil)
		if err != nil {
			return err
		}
		_, err = m.Decode(ctx, a, x, m.AllPoints())
		return err
	}
	for _, c := range []struct {
		name string
		mib  float64
		run  pass
	}{
		{"language-perceiver", 60, run}, {"vision-perceiver-conv", 60, image}, {"vision-perceiver-fourier", 60, image},
		{"vision-perceiver-learned", 60, image}, {"optical-flow-perceiver", 250, flow}, {"multimodal-perceiver", 150, everything},
	} {
		t.Run(c.name, func(t *testing.T) {
			rc, net := loadCase(t, fullSize(t, c.name), perceiver.Options{})
			in := caseInput(t, rc)
			for range 2 {
				debug.FreeOSMemory()
			}
			if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
				t.Skip("the peak cannot be reset here")
			}
			before := resident(t, "VmRSS")
			var a tensor.Arena
			start, cpu := time.Now(), cpuSeconds(t)
			if err := c.run(t.Context(), &a, net, in); err != nil {
				t.Fatal(err)
			}
			seconds, cpu := time.Since(start).Seconds(), cpuSeconds(t)-cpu
			over := resident(t, "VmHWM") - before
			t.Logf("%.2f s (%.2f s of processor time), peak %.0f MiB over %.0f MiB with weights loaded", seconds, cpu, over, before)
			if over > c.mib {
				t.Errorf("peak of %.0f MiB over the loaded weights, want at most %.0f", over, c.mib)
			}
			runtime.KeepAlive(net)
		})
	}
}
