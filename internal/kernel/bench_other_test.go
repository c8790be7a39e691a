//go:build !unix

package kernel

import "time"

// cpuTime is not known here.
func cpuTime() time.Duration { return 0 }
