package main

import (
	"container/list"
	"net"
	"net/http"
	"sync"
)

// conns bounds how many connections are open. One too many costs the one that has been silent the
// longest its place; where all are at work, the new one is closed.
type conns struct {
	limit int

	mu     sync.Mutex
	open   map[net.Conn]*list.Element // nil for one that is at work
	silent list.List                  // of net.Conn: new or idle, in the order they became so
}

// follow is an http.Server's ConnState.
func (c *conns) follow(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at := c.open[conn]; at != nil {
		c.silent.Remove(at)
	}
	switch state {
	case http.StateNew, http.StateIdle:
		if c.open == nil {
			c.open = map[net.Conn]*list.Element{}
		}
		c.open[conn] = c.silent.PushBack(conn)
		if len(c.open) > c.limit {
			oldest := c.silent.Remove(c.silent.Front()).(net.Conn)
			delete(c.open, oldest) // so that the next one too many does not close it again
			go oldest.Close()      // TLS says goodbye: seconds, to one who does not listen
		}
	case http.StateActive:
		c.open[conn] = nil
	default:
		delete(c.open, conn)
	}
}
