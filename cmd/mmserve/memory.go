package main

import (
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
)

// leastMemory is the least that --memory may ask for: less would refuse ordinary pictures.
const leastMemory = 192 << 20

// memoryCeiling is how many bytes the process may hold: as set, else as GOMEMLIMIT says, else four
// fifths of what the machine or its cgroup has; zero when nobody knows.
func memoryCeiling(set int64) int64 {
	if set > 0 {
		return set
	}
	if limit := debug.SetMemoryLimit(-1); limit != math.MaxInt64 {
		return limit
	}
	return machineMemory("/proc", "/sys/fs/cgroup") / 5 * 4
}

// machineMemory is the memory of the machine, or of the cgroup v2 this process is in where that is
// less; zero when neither is told.
func machineMemory(proc, cgroup string) int64 {
	var total int64
	if b, err := os.ReadFile(filepath.Join(proc, "meminfo")); err == nil {
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) >= 2 && f[0] == "MemTotal:" {
				kib, _ := strconv.ParseInt(f[1], 10, 64)
				total = kib << 10
			}
		}
	}
	b, err := os.ReadFile(filepath.Join(proc, "self", "cgroup"))
	if err != nil {
		return total
	}
	at := "/"
	for line := range strings.Lines(string(b)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			at = path
		}
	}
	for dir := filepath.Clean("/" + at); ; dir = filepath.Dir(dir) { // a limit holds for all below it
		if b, err := os.ReadFile(filepath.Join(cgroup, dir, "memory.max")); err == nil {
			if limit, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil && (total == 0 || limit < total) {
				total = limit
			}
		}
		if dir == "/" {
			return total
		}
	}
}
