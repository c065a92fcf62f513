// Package relay is a TCP relay that counts bytes. It stands where the WAN would be, so that the bytes of any protocol are
// counted the same way.
package relay

import (
	"context"
	"encoding/json"
	"flag"
	"net"
	"net/http"
	"sync/atomic"
)

// Stats is what a relay has counted. Up are the bytes from the side that dials.
type Stats struct{ Up, Down, Conns int64 }

type relay struct {
	to              string
	up, down, conns atomic.Int64
}

// Main runs a relay until ctx ends; its counts are at /stats of the control address.
func Main(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("relay", flag.ContinueOnError)
	listen := fs.String("listen", "127.0.0.1:18201", "address to listen on")
	to := fs.String("to", "127.0.0.1:18200", "address to dial")
	control := fs.String("control", "127.0.0.1:18997", "address of /stats")
	if err := fs.Parse(args); err != nil {
		return err
	}
	l, err := net.Listen("tcp4", *listen)
	if err != nil {
		return err
	}
	r := &relay{to: *to}
	go r.accept(l)
	mux := http.NewServeMux()
	mux.HandleFunc("/stats", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(Stats{r.up.Load(), r.down.Load(), r.conns.Load()})
	})
	server := &http.Server{Addr: *control, Handler: mux}
	go func() { <-ctx.Done(); l.Close(); server.Close() }()
	if err := server.ListenAndServe(); ctx.Err() == nil {
		return err
	}
	return nil
}

func (r *relay) accept(l net.Listener) {
	for {
		near, err := l.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp4", r.to)
		if err != nil {
			near.Close()
			continue
		}
		r.conns.Add(1)
		go pump(far, near, &r.up)
		go pump(near, far, &r.down)
	}
}

// pump copies until one side ends, then ends both. The count comes after the write: bytes that arrived.
func pump(dst, src net.Conn, count *atomic.Int64) {
	defer dst.Close()
	defer src.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
			count.Add(int64(n))
		}
		if err != nil {
			return
		}
	}
}
