//go:build unix

package main

import "syscall"

// ownerOnly gives a socket's file its mode before it is there: Linux takes the descriptor's.
func ownerOnly(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) { syscall.Fchmod(int(fd), 0o600) })
}
