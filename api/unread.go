package api

import (
	"net/http"
	"time"
)

// How long a client may keep an answer waiting: an answer that nobody reads would hold its memory,
// its model and, while text is generated, its turn in the queue for ever.
const (
	answerStall = 30 * time.Second // for one piece, and in all besides what the least rate takes
	answerRate  = 32 << 10         // least bytes a second, on average
	answerPiece = 64 << 10         // bytes written under one deadline
)

// read cuts off clients that do not read what its handler answers. Time that the handler takes does
// not count.
type read struct{ http.Handler }

func (h read) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p := &pacedWriter{ResponseWriter: w, control: http.NewResponseController(w), multiplexed: r.ProtoMajor > 1}
	if !p.multiplexed {
		p.arm() // the deadline of the connection's last answer may have passed
	}
	h.Handler.ServeHTTP(p, r)
	p.arm() // for what is sent once the handler has returned
}

// pacedWriter is an answer that must be read.
type pacedWriter struct {
	http.ResponseWriter
	control     *http.ResponseController
	multiplexed bool // a deadline cuts the stream off whether something is written or not
	written     int64
	waited      time.Duration // for the client
}

// arm sets the deadline of what is written next.
func (p *pacedWriter) arm() {
	left := answerStall + time.Duration(p.written)*time.Second/answerRate - p.waited
	p.control.SetWriteDeadline(time.Now().Add(min(left, answerStall))) // tests' recorders have none
}

// send does one write under a deadline.
func (p *pacedWriter) send(write func() error) error {
	begin := time.Now()
	p.arm()
	err := write()
	if p.multiplexed {
		p.control.SetWriteDeadline(time.Time{})
	}
	p.waited += time.Since(begin)
	return err
}

// Write sends b piece by piece.
func (p *pacedWriter) Write(b []byte) (n int, err error) {
	for first := true; first || n < len(b) && err == nil; first = false {
		err = p.send(func() error {
			k, err := p.ResponseWriter.Write(b[n:min(n+answerPiece, len(b))])
			n += k
			p.written += int64(k)
			return err
		})
	}
	return n, err
}

// FlushError sends what was written so far.
func (p *pacedWriter) FlushError() error { return p.send(p.control.Flush) }

// Unwrap lets http.ResponseController reach the connection.
func (p *pacedWriter) Unwrap() http.ResponseWriter { return p.ResponseWriter }
