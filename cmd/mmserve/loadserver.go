package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"time"
)

// startServer starts this program as a server on a free port of this machine.
func startServer(ctx context.Context, threads int) (url string, stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return "", nil, err
	}
	cmd := exec.CommandContext(ctx, self, "serve", "--addr", "127.0.0.1:0", "--log-level", "info", "--threads", strconv.Itoa(threads))
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	log, err := cmd.StderrPipe()
	if err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
	}
	lines := bufio.NewReader(log)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			stop()
			return "", nil, fmt.Errorf("load: the server ended before it listened: %s", line)
		}
		var said struct{ Msg, URL string }
		if json.Unmarshal(line, &said) == nil && said.Msg == "listening" {
			go io.Copy(io.Discard, lines)
			return said.URL, stop, nil
		}
	}
}
