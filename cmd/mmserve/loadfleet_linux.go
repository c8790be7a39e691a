package main

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"syscall"
	"time"
)

// fleet is a wire of one goroutine that looks at its connections once a tick. Being woken for each
// answer costs a generator more than its requests do, and takes cores from a server beside it.
// Nothing happens but in start, sleep and rest, which belong to one goroutine.
type fleet struct {
	ctx    context.Context
	to     syscall.Sockaddr
	family int
	poll   int // epoll's descriptor
	conns  map[int32]*fleetConn
	idle   []*fleetConn
	busy   int
	late   time.Time // when exchanges are looked through for late ones
	events [256]syscall.EpollEvent
}

// fleetConn is one connection.
type fleetConn struct {
	fd      int
	in      []byte // what came of the answer
	out     []byte // what is yet to be sent
	fault   error  // of sending; the server may have answered all the same
	begun   time.Time
	pending *exchange // nil while the connection is idle
}

// newFleet prepares connections to a wire's server, until ctx ends; nil where it cannot: under TLS,
// or an address that is not found.
func newFleet(ctx context.Context, w *wire) *fleet {
	at, err := net.ResolveTCPAddr("tcp", w.host)
	if w.secure || err != nil {
		return nil
	}
	f := &fleet{ctx: ctx, conns: map[int32]*fleetConn{}, late: time.Now().Add(time.Second)}
	if ip := at.IP.To4(); ip != nil {
		f.family, f.to = syscall.AF_INET, &syscall.SockaddrInet4{Port: at.Port, Addr: [4]byte(ip)}
	} else {
		f.family, f.to = syscall.AF_INET6, &syscall.SockaddrInet6{Port: at.Port, Addr: [16]byte(at.IP.To16())}
	}
	if f.poll, err = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC); err != nil {
		return nil
	}
	return f
}

// start sends the bytes of a request; done is called in sleep or rest, with an answer whose bytes
// are lent for the call.
func (f *fleet) start(request []byte, done func(status int, answer []byte, err error)) {
	f.busy++
	x := &exchange{request: request, done: done}
	if n := len(f.idle); n > 0 {
		c := f.idle[n-1]
		f.idle = f.idle[:n-1]
		f.send(c, x)
		return
	}
	f.startFresh(x)
}

// startFresh sends a request on a connection made for it.
func (f *fleet) startFresh(x *exchange) {
	x.fresh = true
	fd, err := syscall.Socket(f.family, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		f.end(x, 0, nil, err)
		return
	}
	c := &fleetConn{fd: fd}
	f.conns[int32(fd)] = c
	syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
	if err = syscall.Connect(fd, f.to); err == nil || errors.Is(err, syscall.EINPROGRESS) {
		err = syscall.EpollCtl(f.poll, syscall.EPOLL_CTL_ADD, fd, &syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)})
	}
	if err != nil {
		f.drop(c)
		f.end(x, 0, nil, err)
		return
	}
	f.send(c, x)
}

func (f *fleet) send(c *fleetConn, x *exchange) {
	c.pending, c.out, c.in, c.fault, c.begun = x, x.request, c.in[:0], nil, time.Now()
	f.flush(c)
}

// flush sends what a connection takes now, and asks to be told when it takes more.
func (f *fleet) flush(c *fleetConn) {
	waited := len(c.out) < len(c.pending.request)
	n, err := syscall.Write(c.fd, c.out)
	c.out = c.out[max(n, 0):]
	switch {
	case len(c.out) > 0 && (err == nil || errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EINTR) || errors.Is(err, syscall.ENOTCONN)):
		f.watch(c, syscall.EPOLLIN|syscall.EPOLLOUT)
	case waited || len(c.out) > 0:
		c.out, c.fault = nil, err
		f.watch(c, syscall.EPOLLIN)
	}
}

func (f *fleet) watch(c *fleetConn, events uint32) {
	syscall.EpollCtl(f.poll, syscall.EPOLL_CTL_MOD, c.fd, &syscall.EpollEvent{Events: events, Fd: int32(c.fd)})
}

// sleep looks after the connections for so long.
func (f *fleet) sleep(d time.Duration) {
	for end := time.Now().Add(d); ; {
		left := time.Until(end)
		if left <= 0 {
			return
		}
		time.Sleep(min(left, tick))
		f.look()
	}
}

// rest looks after the connections until nothing is under way.
func (f *fleet) rest() {
	for f.busy > 0 {
		f.sleep(tick)
	}
}

// look handles what has come.
func (f *fleet) look() {
	for {
		n, err := syscall.EpollWait(f.poll, f.events[:], 0)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			f.fail(err, func(*fleetConn) bool { return true })
			return
		}
		for _, e := range f.events[:max(n, 0)] {
			c := f.conns[e.Fd]
			if c == nil {
				continue // gone in this very look
			}
			if e.Events&syscall.EPOLLOUT != 0 && c.pending != nil {
				f.flush(c)
			}
			if e.Events&^syscall.EPOLLOUT != 0 {
				f.read(c)
			}
		}
		if n < len(f.events) {
			break
		}
	}
	if err := f.ctx.Err(); err != nil {
		f.fail(err, func(*fleetConn) bool { return true })
	}
	if now := time.Now(); now.After(f.late) {
		f.late = now.Add(time.Second)
		f.fail(errLate, func(c *fleetConn) bool { return now.Sub(c.begun) > answerLimit })
	}
}

var errLate = errors.New("load: no answer in " + answerLimit.String())

// fail ends the exchanges of connections that a condition holds for.
func (f *fleet) fail(err error, which func(*fleetConn) bool) {
	for _, c := range f.conns {
		if x := c.pending; x != nil && which(c) {
			f.drop(c)
			f.end(x, 0, nil, err)
		}
	}
}

// read takes what has come on a connection.
func (f *fleet) read(c *fleetConn) {
	for {
		c.in = slices.Grow(c.in, 4096)
		n, err := syscall.Read(c.fd, c.in[len(c.in):cap(c.in)])
		switch {
		case errors.Is(err, syscall.EAGAIN):
			return
		case errors.Is(err, syscall.EINTR):
			continue
		}
		c.in = c.in[:len(c.in)+max(n, 0)]
		full := len(c.in) == cap(c.in)
		x := c.pending
		if x == nil { // closed while idle, or an answer nobody asked for
			f.drop(c)
			return
		}
		a, used, bad := parseAnswer(c.in, n == 0 && err == nil)
		switch {
		case bad != nil:
			f.drop(c)
			f.end(x, 0, nil, bad)
			return
		case used > 0:
			c.pending = nil
			if a.last || used < len(c.in) || n <= 0 || len(c.out) > 0 {
				f.drop(c)
			} else {
				f.idle = append(f.idle, c)
			}
			f.end(x, a.status, a.body, nil)
			return
		case n <= 0:
			f.drop(c)
			if len(c.in) == 0 && !x.fresh {
				f.startFresh(x) // the server closed it while it lay idle
				return
			}
			f.end(x, 0, nil, cmp.Or(c.fault, err, io.ErrUnexpectedEOF))
			return
		case !full:
			return // what comes later is told again
		}
	}
}

func (f *fleet) end(x *exchange, status int, answer []byte, err error) {
	f.busy--
	x.done(status, answer, err)
}

func (f *fleet) drop(c *fleetConn) {
	delete(f.conns, int32(c.fd))
	if i := slices.Index(f.idle, c); i >= 0 {
		f.idle = slices.Delete(f.idle, i, i+1)
	}
	syscall.Close(c.fd)
}

// close ends every connection.
func (f *fleet) close() {
	for _, c := range f.conns {
		syscall.Close(c.fd)
	}
	syscall.Close(f.poll)
}
