//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package scrape

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// canLook tells that a connection can be looked at before it is used again.
const canLook = true

// asking is what a connection needs for askUsed.
type asking struct {
	raw       syscall.RawConn
	out, into []byte
	begun     bool
	sent, n   int
	err       error
}

// errSpoke is that of a connection which is not as it was left: its end came, or bytes that are nobody's answer.
var errSpoke = errors.New("the connection was not silent before the request")

// askUsed sends a request over a connection that waited, and reads the first of the answer. A connection that did not
// stay silent is of no use: the server has closed it, or it sent what is not the answer to this request. To know that
// is a call into the kernel for each request. It is saved again where conn.Read would ask for the answer that cannot
// be there yet: this waits for it at once. So it is of a piece: what arrives after the first look wakes the wait.
//
// Fewer bytes sent than there are, without an error, are left to the caller: the kernel had no room for them.
func (c *conn) askUsed(request, p []byte) (sent, n int, err error) {
	if c.raw == nil {
		return 0, 0, nil
	}
	a := &c.asking
	a.out, a.into, a.begun, a.sent, a.n, a.err = request, p, false, 0, 0, nil
	err = c.raw.Read(a.step)
	if a.err != nil {
		err = a.err
	}
	a.out, a.into = nil, nil
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		op := "read"
		if a.sent == 0 {
			op = "write"
		}
		err = &net.OpError{Op: op, Net: c.LocalAddr().Network(), Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: os.NewSyscallError(op, errno)}
	}
	return a.sent, a.n, err
}

// step is called with the socket, and again when it can be read from, until it says true.
func (a *asking) step(fd uintptr) bool {
	if !a.begun {
		a.begun = true
		if _, err := again(syscall.Read, fd, a.into[:1]); err != syscall.EAGAIN {
			a.err = errSpoke
			return true
		}
		a.sent, a.err = again(syscall.Write, fd, a.out)
		if a.err == syscall.EAGAIN {
			a.sent, a.err = 0, nil
		}
		return a.sent < len(a.out)
	}
	a.n, a.err = again(syscall.Read, fd, a.into)
	switch {
	case a.err == syscall.EAGAIN:
		a.err = nil
		return false
	case a.err == nil && a.n == 0:
		a.err = io.EOF
	}
	return true
}

// again does what a signal interrupts again. The count is never negative.
func again(do func(int, []byte) (int, error), fd uintptr, p []byte) (int, error) {
	for {
		n, err := do(int(fd), p)
		if err != syscall.EINTR {
			return max(n, 0), err
		}
	}
}
