package main_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const (
	walk = "t,ax,ay,az,gx,gy,gz\n0,0.5,0,9.8,0,0,0\n0.01,0.25,0,9.75,0,0,-1\n"
	hill = "ncols 3\nnrows 2\nxllcorner 0\n1 2 3\n4 5 600\n"
)

// build makes the server as it ships and a directory of plug-ins: the Go one, and the Python one
// where there is a Python.
func build(t *testing.T) (program, plugins string, python bool) {
	t.Helper()
	dir := t.TempDir()
	program, plugins = filepath.Join(dir, "mmserve"), filepath.Join(dir, "plugins")
	for out, pkg := range map[string]string{program: "../../cmd/mmserve", filepath.Join(plugins, "imu"): "."} {
		if msg, err := exec.Command("go", "build", "-o", out, pkg).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, msg)
		}
	}
	if _, err := exec.LookPath("python3"); err == nil {
		python = true
		b, err := os.ReadFile("grid.py")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(plugins, "elevation"), b, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return program, plugins, python
}

// TestPlugin: a server that was built without these modalities reads them on the command line and
// over HTTP.
func TestPlugin(t *testing.T) {
	program, plugins, python := build(t)
	files := map[string]string{"walk.imu": walk}
	rows := map[string]int{"walk.imu": 4} // a bound: tables do not say how long they are
	if python {
		files["hill.asc"], rows["hill.asc"] = hill, 6
	}
	for name, content := range files {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(program, "plan", "--decode", "--json", path)
		cmd.Env = append(os.Environ(), "MMSERVE_PLUGINS="+plugins)
		out, err := cmd.Output()
		var plan struct {
			Rows int `json:"rows"`
		}
		if err != nil || json.Unmarshal(out, &plan) != nil || plan.Rows != rows[name] {
			t.Errorf("%s: %v: %s, want %d rows", name, err, out, rows[name])
		}
	}

	cmd := exec.Command(program, "serve", "--addr", "127.0.0.1:0", "--plugins", plugins)
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	var said struct{ Msg, URL string }
	for r := bufio.NewReader(log); said.Msg != "listening"; {
		line, err := r.ReadBytes('\n')
		if err != nil {
			t.Fatalf("the server ended before it listened: %s", line)
		}
		if err := json.Unmarshal(line, &said); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
	}
	go io.Copy(io.Discard, log) // ends with the server
	resp, err := http.Get(said.URL + "/v1/modalities")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"imu"`, `"image"`} {
		if !bytes.Contains(body, []byte(want)) {
			t.Errorf("/v1/modalities lacks %s", want)
		}
	}
}

// TestTaken: a plug-in whose name is taken ends the program with both names said.
func TestTaken(t *testing.T) {
	program, plugins, _ := build(t)
	b, err := os.ReadFile(filepath.Join(plugins, "imu"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(plugins, "other"), b, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "modalities")
	cmd.Env = append(os.Environ(), "MMSERVE_PLUGINS="+plugins)
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), `"imu" is taken`) {
		t.Errorf("%v: %s", err, out)
	}
}
