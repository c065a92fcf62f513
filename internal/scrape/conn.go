package scrape

import (
	"fmt"
	"io"
	"net"
	"syscall"
	"time"
)

// conn is a connection of direct's. What is read from it is the answer to the request that was given to it.
type conn struct {
	net.Conn
	address string
	since   time.Time // when it began to wait for a request
	// prepared is the last request.
	prepared *prepared
	// request is what is to be sent before anything is read.
	request []byte
	// left is how many bytes of the head may still be read.
	left int64
	// ended tells that the server sends nothing more.
	ended bool
	// used tells that it did a request before.
	used bool
	asking
}

func newConn(c net.Conn, address string) *conn {
	made := &conn{Conn: c, address: address}
	if s, ok := c.(syscall.Conn); ok {
		made.raw, _ = s.SyscallConn()
	}
	return made
}

// interrupt ends what the connection waits for, and all that it will wait for.
func (c *conn) interrupt() { _ = c.SetDeadline(time.Unix(1, 0)) }

// Read sends the request, if it is not sent yet, and reads.
func (c *conn) Read(p []byte) (n int, err error) {
	if c.left <= 0 {
		return 0, fmt.Errorf("read limit of %d bytes exhausted", maxHead)
	}
	p = p[:min(int64(len(p)), c.left)]
	if c.request == nil {
		n, err = c.Conn.Read(p)
	} else {
		n, err = c.ask(p)
	}
	c.left -= int64(n)
	if err == io.EOF {
		c.ended = true
	}
	return n, err
}

// ask sends the request and reads the first of the answer.
func (c *conn) ask(p []byte) (n int, err error) {
	request := c.request
	c.request = nil
	if c.used {
		var sent int
		if sent, n, err = c.askUsed(request, p); err != nil || n > 0 {
			return n, err
		}
		request = request[sent:]
	}
	c.used = true
	if len(request) > 0 {
		if _, err := c.Write(request); err != nil {
			return 0, err
		}
	}
	return c.Conn.Read(p)
}
