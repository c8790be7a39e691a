package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
)

// peakRSS is the most memory the process has held, in MiB.
func peakRSS() float64 { return procStatus("VmHWM:") }

// resetPeakRSS makes peakRSS start anew, where the system can (Linux).
func resetPeakRSS() {
	debug.FreeOSMemory()
	os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) // refused elsewhere: the peak is then the process's
}

// currentRSS is the memory the process holds now, in MiB.
func currentRSS() float64 { return procStatus("VmRSS:") }

// procStatus reads a line of /proc/self/status, in MiB. Elsewhere it answers with what Go has
// from the system.
func procStatus(key string) float64 {
	b, err := os.ReadFile("/proc/self/status")
	if err == nil {
		if _, rest, ok := bytes.Cut(b, []byte(key)); ok {
			var kib float64
			if _, err := fmt.Fscan(bytes.NewReader(rest), &kib); err == nil {
				return kib / 1024
			}
		}
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.Sys) / (1 << 20)
}
