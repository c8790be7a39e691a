//go:build unix

package external

import (
	"os"
	"os/exec"
	"syscall"
)

// alone gives a program a process group of its own: what it starts ends with it, and a Ctrl-C at
// the terminal reaches it only through us, after the requests that need it.
func alone(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// killAll kills a program and what it has started. It has not been waited for: its number is its.
func killAll(p *os.Process) { syscall.Kill(-p.Pid, syscall.SIGKILL) }
