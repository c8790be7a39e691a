package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// gcPercent is how much garbage may gather over the live heap before it is collected. Live is
// mostly weights: the usual 100 would let garbage grow as large as they are, for nothing.
const gcPercent = 30

// gcRoom is the garbage, in bytes, that a server lets gather whatever is live: with a small
// model, 30 % would be a few requests' worth, and a tenth of the time would go into collecting.
const gcRoom = 64 << 20

// gcFor is the garbage allowed over so many live bytes, in per cent of them.
func gcFor(live uint64) int {
	return int(min(max(100*gcRoom/max(live, 1), gcPercent), 800))
}

// keepGCRoom sets the collector's pace to what is live, now and then until ctx ends. A GOGC in
// the environment wins.
func keepGCRoom(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	for tick := time.NewTicker(2 * time.Second); ; {
		metrics.Read(live)
		debug.SetGCPercent(gcFor(live[0].Value.Uint64()))
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C:
		}
	}
}
