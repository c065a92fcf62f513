// Package floor gets every target once per interval and drops the bytes: what scraping costs before anything is done
// with what was scraped.
package floor

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/klauspost/compress/gzip"
)

type client struct {
	http *http.Client
	mode string
}

// Main runs until ctx ends.
func Main(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("floor", flag.ContinueOnError)
	n := fs.Int("n", 200, "targets")
	base := fs.Int("base-port", 21000, "first target port")
	interval := fs.Duration("interval", 5*time.Second, "scrape interval")
	mode := fs.String("mode", "identity", "identity, gzip (ask for it, do not unpack) or gunzip (ask for it and unpack)")
	if err := fs.Parse(args); err != nil {
		return err
	}
	c := &client{mode: *mode, http: &http.Client{
		Transport: &http.Transport{DisableCompression: true, MaxIdleConns: 2 * *n, MaxIdleConnsPerHost: 2},
		Timeout:   10 * time.Second,
	}}
	for i := range *n {
		offset := time.Duration(i) * *interval / time.Duration(*n)
		go c.poll(ctx, fmt.Sprintf("http://127.0.0.1:%d/metrics", *base+i), offset, *interval)
	}
	<-ctx.Done()
	return nil
}

func (c *client) poll(ctx context.Context, url string, offset, interval time.Duration) {
	time.Sleep(offset)
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	var unzip gzip.Reader
	for {
		if err := c.get(ctx, url, &unzip); err != nil && ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (c *client) get(ctx context.Context, url string, unzip *gzip.Reader) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	if c.mode != "identity" {
		req.Header.Set("Accept-Encoding", "gzip")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if c.mode == "gunzip" && resp.Header.Get("Content-Encoding") == "gzip" {
		if err := unzip.Reset(resp.Body); err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, unzip); err != nil {
			return err
		}
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}
