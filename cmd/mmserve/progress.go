package main

import (
	"fmt"
	"io"
	"time"
)

// progressLine rewrites one line of a terminal, once work has taken a second.
type progressLine struct {
	out   io.Writer
	start time.Time
	last  time.Time
}

func (p *progressLine) show(unit string, done, total int) {
	now := time.Now()
	if now.Sub(p.start) < time.Second || now.Sub(p.last) < 100*time.Millisecond && done < total {
		return
	}
	p.last = now
	fmt.Fprintf(p.out, "\r\x1b[K%d of %d %s, %.0f s", done, total, unit, now.Sub(p.start).Seconds())
	if done >= total {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}
