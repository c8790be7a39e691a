//go:build !unix

package external

import (
	"os"
	"os/exec"
)

func alone(*exec.Cmd) {}

func killAll(p *os.Process) { p.Kill() }
