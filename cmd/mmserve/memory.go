package main

import (
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
)

// leastMemory is the least that --memory may ask for: less would refuse ordinary pictures.
const leastMemory = 192 << 20

// goMemLimit is GOMEMLIMIT, read before a server sets a limit of its own.
var goMemLimit = debug.SetMemoryLimit(-1)

// memoryCeiling is how many bytes the process may hold: as set, else as GOMEMLIMIT says, else four
// fifths of what the machine or its cgroup has; zero when nobody knows.
func memoryCeiling(set int64) int64 {
	if set > 0 {
		return set
	}
	if goMemLimit != math.MaxInt64 {
		return goMemLimit
	}
	return machineMemory("/proc", "/sys/fs/cgroup") / 5 * 4
}

// machineMemory is the memory of the machine, or of the cgroup this process is in where that is
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
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3) // hierarchy, controllers, path
		if len(f) != 3 {
			continue
		}
		limit := int64(0)
		switch {
		case f[0] == "0": // version 2
			limit = leastLimit(cgroup, f[2], "memory.max")
		case slices.Contains(strings.Split(f[1], ","), "memory"): // version 1
			limit = leastLimit(filepath.Join(cgroup, "memory"), f[2], "memory.limit_in_bytes")
		}
		if limit > 0 && (total == 0 || limit < total) {
			total = limit
		}
	}
	return total
}

// leastLimit is the least limit of a cgroup and of all above it, which hold for it too; zero for none.
// A container may see its own cgroup as the root, whatever path the process is said to have.
func leastLimit(root, path, file string) (least int64) {
	for dir := filepath.Clean("/" + path); ; dir = filepath.Dir(dir) {
		if b, err := os.ReadFile(filepath.Join(root, dir, file)); err == nil {
			limit, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64) // "max" is none
			if err == nil && limit < unlimited && (least == 0 || limit < least) {
				least = limit
			}
		}
		if dir == "/" {
			return least
		}
	}
}

// unlimited is more than any limit: cgroups of version 1 say so where none is set.
const unlimited = 1 << 62
