package main

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// asProgram makes the test binary the program itself: a server of its own process.
const asProgram = "MMSERVE_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

// child is a server in a process of its own.
type child struct {
	url string
	cmd *exec.Cmd
	log *bufio.Reader
}

func startChild(t *testing.T, args ...string) *child {
	t.Helper()
	c := &child{cmd: exec.Command(os.Args[0], append([]string{"serve", "--addr", "127.0.0.1:0"}, args...)...)}
	c.cmd.Env = append(os.Environ(), asProgram+"=1")
	stderr, err := c.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.cmd.Process.Kill()
		c.cmd.Wait()
	})
	c.log = bufio.NewReader(stderr)
	for {
		line, err := c.log.ReadBytes('\n')
		if err != nil {
			t.Fatalf("the server ended before it listened: %s", line)
		}
		var said struct{ Msg, URL string }
		if json.Unmarshal(line, &said) == nil && said.Msg == "listening" {
			c.url = said.URL
			return c
		}
	}
}

// peak is the most memory the process has held, in MiB.
func (c *child) peak(t *testing.T) float64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	var kib float64
	fmt.Sscan(rest, &kib)
	return kib / 1024
}

// largePNG is a picture of one colour, with noise in a chunk nobody reads so that its size on the wire
// gives nothing away.
func largePNG(w, h, padding int) []byte {
	var z bytes.Buffer
	zw, _ := zlib.NewWriterLevel(&z, zlib.BestSpeed)
	row := make([]byte, 1+4*w)
	for range h {
		zw.Write(row)
	}
	zw.Close()
	out := []byte("\x89PNG\r\n\x1a\n")
	chunk := func(kind string, data []byte) {
		out = binary.BigEndian.AppendUint32(out, uint32(len(data)))
		at := len(out)
		out = append(append(out, kind...), data...)
		out = binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE(out[at:]))
	}
	head := binary.BigEndian.AppendUint32(nil, uint32(w))
	head = binary.BigEndian.AppendUint32(head, uint32(h))
	chunk("IHDR", append(head, 8, 6, 0, 0, 0))
	chunk("IDAT", z.Bytes())
	noise := make([]byte, padding)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	chunk("noIs", noise)
	chunk("IEND", nil)
	return out
}

// bomb is a request that wants more memory than its size says.
type bomb struct {
	name, path, kind string
	body             []byte
}

// bombs are every file of the media corpus (of the whole set when MMSERVE_MEDIA names it), broken and whole, pictures that are large when they
// are decoded, bodies that are large before anything is, and answers larger than both.
func bombs(t *testing.T) []bomb {
	t.Helper()
	var out []bomb
	root := filepath.Join("..", "..", "testdata", "media")
	if dir := os.Getenv("MMSERVE_MEDIA"); dir != "" {
		root = filepath.Clean(dir)
	}
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || strings.Contains(path, "LICENSES") || filepath.Dir(path) == root {
			return err
		}
		b, err := os.ReadFile(path)
		out = append(out, bomb{path, "/v1/encode?output=pooled&name=" + filepath.Base(path), "application/octet-stream", b})
		return err
	})
	if err != nil || len(out) < 100 {
		t.Fatalf("%d media files: %v", len(out), err)
	}
	large, huge := largePNG(2400, 2400, 1<<18), largePNG(4000, 3600, 1<<20)
	text := strings.Repeat("word ", 400)
	var items []string
	for range 128 {
		items = append(items, `{"content":[{"type":"text","text":"`+text+`"}]}`)
	}
	body := func(s string) []byte { return []byte(s) }
	for range 2 {
		out = append(out,
			bomb{"a large picture", "/v1/encode?output=pooled", "image/png", large},
			bomb{"a huge picture", "/v1/encode", "image/png", huge},
			bomb{"a large picture in JSON", "/v1/predict", "application/json", body(`{"inputs":[{"content":[{"type":"image","data":"` + base64.StdEncoding.EncodeToString(large) + `"}]}]}`)},
			bomb{"a large answer", "/v1/encode", "application/json", body(`{"output":"all","encoding":"float","inputs":[` + strings.Join(items, ",") + `]}`)},
			bomb{"a large body", "/v1/encode", "application/json", body(`{"user":"` + strings.Repeat("x", 3<<20) + `","inputs":[{"content":[{"type":"text","text":"a"}]}]}`)},
			bomb{"a body over the limit", "/v1/encode", "text/plain", make([]byte, 40<<20)},
		)
	}
	rand.Shuffle(len(out), func(i, k int) { out[i], out[k] = out[k], out[i] })
	return out
}

// The memory ceiling holds while many clients send what is made to break it, and afterwards the
// server answers as before.
func TestMemoryCeiling(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the peak of another process is read from /proc")
	}
	const ceiling = 256 << 20
	c := startChild(t, "--memory", fmt.Sprint(ceiling), "--slots", "4", "--queue-wait", "1h", "--deadline", "10m")
	go io.Copy(io.Discard, c.log)
	send := func(b bomb) (int, []byte, error) {
		req, _ := http.NewRequestWithContext(context.Background(), "POST", c.url+b.path, bytes.NewReader(b.body))
		req.Header.Set("Content-Type", b.kind)
		req.Header.Set("Expect", "100-continue")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, nil, err
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		return resp.StatusCode, answer, err
	}
	good := bomb{"a text", "/v1/encode?output=pooled", "text/plain", []byte("hello")}
	_, before, err := send(good)
	if err != nil {
		t.Fatal(err)
	}
	waiting := make(chan bomb)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for b := range waiting {
				status, answer, err := send(b)
				if err != nil || status >= 500 && status != 503 {
					t.Errorf("%s: %d %v %.200s", b.name, status, err, answer)
				}
			}
		})
	}
	all := bombs(t)
	for _, b := range all {
		waiting <- b
	}
	close(waiting)
	wg.Wait()
	want := map[string]int{"a large picture": 200, "a large picture in JSON": 200, "a huge picture": 413, "a large body": 200, "a large answer": 200, "a body over the limit": 413}
	for _, b := range all { // alone, each is taken or refused for what it is
		status, ok := want[b.name]
		if !ok {
			continue
		}
		delete(want, b.name)
		if got, answer, err := send(b); got != status {
			t.Errorf("%s: %d %v %.200s, want %d", b.name, got, err, answer, status)
		}
	}
	if status, after, err := send(good); status != 200 || err != nil || latentsOf(t, after) != latentsOf(t, before) {
		t.Errorf("afterwards: %d %v", status, err)
	}
	if peak := c.peak(t); peak > ceiling>>20 {
		t.Errorf("the process held %.0f MiB of %d", peak, ceiling>>20)
	} else {
		t.Logf("peak %.0f MiB of %d", peak, ceiling>>20)
	}
}

// latentsOf is the data of an answer, without its timings.
func latentsOf(t *testing.T, answer []byte) string {
	t.Helper()
	var doc struct {
		Data []struct{ Pooled struct{ Data string } }
	}
	if err := json.Unmarshal(answer, &doc); err != nil || len(doc.Data) != 1 {
		t.Fatalf("%v: %.200s", err, answer)
	}
	return doc.Data[0].Pooled.Data
}

// The machine's memory is the least of what it has and what any cgroup above the process allows.
func TestMachineMemory(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string
		want  int64
	}{
		{"nothing told", nil, 0},
		{"no cgroup", map[string]string{"proc/meminfo": "MemFree: 1 kB\nMemTotal:    2048 kB\n"}, 2 << 20},
		{"no limit", map[string]string{"proc/meminfo": "MemTotal: 2048 kB\n", "proc/self/cgroup": "0::/a/b\n", "cg/a/b/memory.max": "max\n"}, 2 << 20},
		{"its own limit", map[string]string{"proc/meminfo": "MemTotal: 2048 kB\n", "proc/self/cgroup": "0::/a/b\n", "cg/a/b/memory.max": "1000\n"}, 1000},
		{"a limit above", map[string]string{"proc/meminfo": "MemTotal: 2048 kB\n", "proc/self/cgroup": "3:cpu:/x\n0::/a/b\n", "cg/a/memory.max": "900\n", "cg/a/b/memory.max": "1000\n"}, 900},
		{"version 1", map[string]string{"proc/meminfo": "MemTotal: 2048 kB\n", "proc/self/cgroup": "9:cpu,cpuacct:/x\n4:memory:/docker/a\n1:name=systemd:/x\n",
			"cg/memory/docker/a/memory.limit_in_bytes": "800\n", "cg/memory/memory.limit_in_bytes": "9223372036854771712\n", "cg/cpu,cpuacct/x/memory.limit_in_bytes": "1\n"}, 800},
		{"version 1, a limit above", map[string]string{"proc/self/cgroup": "4:hugetlb,memory:/a/b\n", "cg/memory/a/memory.limit_in_bytes": "700", "cg/memory/a/b/memory.limit_in_bytes": "9223372036854771712"}, 700},
		{"version 1 in a container", map[string]string{"proc/self/cgroup": "4:memory:/of/the/host\n", "cg/memory/memory.limit_in_bytes": "600\n"}, 600},
		{"version 1 without a limit", map[string]string{"proc/self/cgroup": "4:memory:/\n", "cg/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 0},
		{"both versions", map[string]string{"proc/meminfo": "MemTotal: 2048 kB\n", "proc/self/cgroup": "4:memory:/a\n0::/b\n", "cg/memory/a/memory.limit_in_bytes": "500\n", "cg/b/memory.max": "max\n"}, 500},
		{"nonsense", map[string]string{"proc/meminfo": "MemTotal: 2048 kB\n", "proc/self/cgroup": "4:memory\n\nx\n", "cg/memory/memory.limit_in_bytes": "500\n"}, 2 << 20},
		{"a container's root", map[string]string{"proc/self/cgroup": "0::/\n", "cg/memory.max": "5000\n"}, 5000},
	} {
		dir := t.TempDir()
		for name, text := range c.files {
			path := filepath.Join(dir, filepath.FromSlash(name))
			os.MkdirAll(filepath.Dir(path), 0o700)
			os.WriteFile(path, []byte(text), 0o600)
		}
		if got := machineMemory(filepath.Join(dir, "proc"), filepath.Join(dir, "cg")); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}
