package external_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/mmserve/mmserve/examples/custommodality"
	"github.com/mmserve/mmserve/modality"
	"github.com/mmserve/mmserve/modality/external"
	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/modality/modalitytest"
	"github.com/mmserve/mmserve/tensor"
)

const walk = "t,ax,ay,az,gx,gy,gz\n0,0.5,0,9.8,0,0,0\n0.01,0.25,0,9.75,0,0,-1\n"

// TestMain lets this binary be the plug-ins of the tests.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "plug-in" {
		if err := play(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// frame is one hand-made answer.
func frame(header string, data ...byte) {
	os.Stdout.Write(append(append(binary.LittleEndian.AppendUint32(nil, uint32(len(header))), header...), data...))
}

// stuck hangs whatever becomes of the input.
var stuck func() error

// play is a good plug-in, or one with a fault in everything but its info.
func play(fault string) error {
	if fault == "good" {
		return external.Serve(context.Background(), custommodality.Open, os.Stdin, os.Stdout)
	}
	if fault == "mute" {
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	}
	for asked := ""; !strings.Contains(asked, `"adapt"`); { // info first, then the fault
		if strings.Contains(asked, `"info"`) {
			frame(`{"info": {"name": "faulty", "doc": "d", "channels": 2}}`)
		}
		var n [4]byte
		if _, err := io.ReadFull(os.Stdin, n[:]); err != nil {
			return nil
		}
		b := make([]byte, binary.LittleEndian.Uint32(n[:]))
		if _, err := io.ReadFull(os.Stdin, b); err != nil {
			return err
		}
		asked = string(b)
	}
	switch fault {
	case "crash":
		return fmt.Errorf("first line\nno sensor attached")
	case "garbage":
		os.Stdout.WriteString("Traceback (most recent call last):\n")
	case "shape":
		frame(`{"rows": 3, "channels": 5, "bytes": 60}`, make([]byte, 60)...)
	case "short":
		frame(`{"rows": 3, "channels": 2, "bytes": 20}`, make([]byte, 20)...)
	case "nan":
		frame(`{"rows": 1, "channels": 2, "bytes": 8}`, 0, 0, 0, 0, 0, 0, 0xc0, 0x7f)
	case "huge":
		frame(`{"rows": 1, "channels": 2, "bytes": 99999999999}`)
	case "code":
		frame(`{"error": {"code": "oops", "detail": "d"}}`)
	case "stuck":
		return stuck()
	}
	_, err := io.Copy(io.Discard, os.Stdin) // hang until the input ends
	return err
}

func start(t *testing.T, kind string) *external.Plugin {
	t.Helper()
	p, err := external.Start(t.Context(), os.Args[0], "plug-in", kind)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func open(t *testing.T, p *external.Plugin) modality.Adapter {
	t.Helper()
	a, err := p.Open(nil)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestConformance: a program behind pipes is an adapter like any other.
func TestConformance(t *testing.T) {
	modalitytest.Run(t, open(t, start(t, "good")), modalitytest.Sample{Name: "walk.imu", Data: []byte(walk)})
}

// TestSameRows: the rows are those of the adapter inside the program.
func TestSameRows(t *testing.T) {
	direct, err := custommodality.Open(nil)
	if err != nil {
		t.Fatal(err)
	}
	var rows [2]tensor.Tensor
	for i, a := range []modality.Adapter{direct, open(t, start(t, "good"))} {
		array, err := a.Adapt(t.Context(), media.Bytes("walk.imu", []byte(walk)))
		if err != nil {
			t.Fatal(err)
		}
		rows[i] = tensor.New(array.Dims())
		if err := array.Read(rows[i], 0, rows[i].Shape[0]); err != nil {
			t.Fatal(err)
		}
	}
	for i, v := range rows[0].Data {
		if rows[1].Data[i] != v {
			t.Fatalf("value %d: %v, want %v", i, rows[1].Data[i], v)
		}
	}
}

// TestRefusal: the program's own errors come through with their codes, and it lives on.
func TestRefusal(t *testing.T) {
	a := open(t, start(t, "good"))
	for range 5 {
		if _, err := a.Adapt(t.Context(), media.Bytes("x.imu", []byte("t,ax,ay,az,gx,gy,gz\n0,0,0,0,0,0,north\n"))); media.CodeOf(err) != media.Malformed {
			t.Fatal(err)
		}
	}
	if _, err := a.Adapt(t.Context(), media.Bytes("walk.imu", []byte(walk))); err != nil {
		t.Fatal(err)
	}
}

// TestFaults: whatever a program does costs its request alone, and the error says what it was.
func TestFaults(t *testing.T) {
	for fault, want := range map[string]string{
		"crash":   "no sensor attached",
		"garbage": "frame of",
		"shape":   "5 channels; its info says 2",
		"short":   "20 bytes of rows, 3×2 float32 are 24",
		"nan":     "row 0 channel 1 is NaN",
		"huge":    "an answer of 99999999999 bytes",
		"code":    `unknown code "oops"`,
	} {
		a := open(t, start(t, fault))
		_, err := a.Adapt(t.Context(), media.Bytes("x", []byte("abc")))
		if media.CodeOf(err) != media.PluginFailed || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", fault, err, want)
		}
	}
}

// TestHang: a program that does not answer is killed when its time is up or the caller leaves.
func TestHang(t *testing.T) {
	p := start(t, "hang")
	in := media.Bytes("x", []byte("abc"))
	in.Limits.Time = 50 * time.Millisecond
	if _, err := open(t, p).Adapt(t.Context(), in); media.CodeOf(err) != media.TimedOut {
		t.Errorf("%v, want %s", err, media.TimedOut)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := open(t, start(t, "hang")).Adapt(ctx, media.Bytes("x", []byte("abc"))); media.CodeOf(err) != media.Canceled {
		t.Errorf("%v, want %s", err, media.Canceled)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := external.Start(ctx, os.Args[0], "plug-in", "mute"); err == nil {
		t.Error("a mute program is a plug-in")
	}
}

// TestCrowd: however many ask at once, few processes run; who finds all at work waits for a turn.
func TestCrowd(t *testing.T) {
	p := start(t, "hang")
	a := open(t, p)
	ctx, cancel := context.WithCancel(t.Context())
	const crowd = 64
	done := make(chan error, crowd)
	for range crowd {
		go func() {
			_, err := a.Adapt(ctx, media.Bytes("x", []byte("abc")))
			done <- err
		}()
	}
	for !external.Crowded(p) {
		runtime.Gosched()
	}
	in := media.Bytes("x", []byte("abc"))
	in.Limits.Time = 10 * time.Millisecond
	if _, err := a.Adapt(t.Context(), in); media.CodeOf(err) != media.TimedOut || !strings.Contains(err.Error(), "processes are at work") {
		t.Errorf("with all at work: %v", err)
	}
	cancel()
	for range crowd {
		if err := <-done; media.CodeOf(err) != media.Canceled {
			t.Errorf("%v, want %s", err, media.Canceled)
		}
	}
}

// TestRest: a program that fails time after time is left alone for a while, and says so.
func TestRest(t *testing.T) {
	a := open(t, start(t, "crash"))
	var err error
	for range 4 {
		_, err = a.Adapt(t.Context(), media.Bytes("x", []byte("abc")))
	}
	if err == nil || !strings.Contains(err.Error(), "in a row; tried again in") {
		t.Error(err)
	}
}

// TestRegisterDir: executables of a directory become modalities; faults leave nothing behind.
func TestRegisterDir(t *testing.T) {
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\nexec '%s' plug-in good\n", os.Args[0])
	for name, mode := range map[string]os.FileMode{"imu": 0o700, "notes.txt": 0o600} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), mode); err != nil {
			t.Fatal(err)
		}
	}
	// The name is taken by the compiled-in example.
	if _, err := external.RegisterDir(t.Context(), dir); err == nil || !strings.Contains(err.Error(), `"imu" is taken`) {
		t.Errorf("%v", err)
	}
	if _, err := external.RegisterDir(t.Context(), filepath.Join(dir, "none")); err == nil {
		t.Error("no such directory")
	}
}

// FuzzServe: whatever comes in, the loop of a plug-in ends with the input and every answer is a frame.
func FuzzServe(f *testing.F) {
	request := func(header, body string) []byte {
		return append(append(binary.LittleEndian.AppendUint32(nil, uint32(len(header))), header...), body...)
	}
	f.Add(request(`{"op":"info"}`, ""))
	f.Add(request(`{"op":"adapt","name":"walk.imu","bytes":69}`, walk))
	f.Add(request(`{"op":"plan","size":9,"bytes":-1}`, ""))
	f.Add(request(`{"op":"plan","bytes":99999999999}`, "t"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var out bytes.Buffer
		external.Serve(t.Context(), custommodality.Open, bytes.NewReader(in), &out) // its error is the input's
		for out.Len() > 0 {
			var a struct{ Bytes int }
			n := binary.LittleEndian.Uint32(out.Next(4))
			if err := json.Unmarshal(out.Next(int(n)), &a); err != nil {
				t.Fatal(err)
			}
			if out.Len() < a.Bytes {
				t.Fatalf("%d bytes announced, %d came", a.Bytes, out.Len())
			}
			out.Next(a.Bytes)
		}
	})
}
