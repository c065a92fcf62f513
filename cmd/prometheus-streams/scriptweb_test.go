package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// serve is the command `serve VAR DIR` of scripts: it sets a variable to the address of a server of the directory's files,
// as text. /status/N/... answers with the status N; what is sent there that is not snappy of nothing ends up in
// the file DIR/written.
func serve(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: serve VAR DIR")
	}
	dir := ts.MkAbs(args[1])
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		if err != nil || r.Method != http.MethodGet && (string(body) != "\x00" || r.Header.Get("Content-Encoding") != "snappy") {
			_ = os.WriteFile(filepath.Join(dir, "written"), []byte(r.Method+" "+r.URL.Path), 0o600)
		}
		if rest, ok := strings.CutPrefix(r.URL.Path, "/status/"); ok {
			code, _, _ := strings.Cut(rest, "/")
			n, _ := strconv.Atoi(code)
			w.WriteHeader(n)
			_, _ = io.WriteString(w, "said so")
			return
		}
		text, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(filepath.Clean(r.URL.Path))))
		if err != nil {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = w.Write(text)
	}))
	ts.Defer(server.Close)
	ts.Setenv(args[0], strings.TrimPrefix(server.URL, "http://"))
}
