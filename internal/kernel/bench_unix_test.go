//go:build unix

package kernel

import (
	"syscall"
	"time"
)

// cpuTime is the processor time the process has used, on which a busy neighbour counts less
// than on the clock.
func cpuTime() time.Duration {
	var r syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &r) != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
