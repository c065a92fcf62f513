package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// serverCmds are the commands of scripts with a process that runs in the background:
//
//	freeports NAME...            sets variables to addresses of 127.0.0.1 that are free
//	substitute FILE              puts the values of variables into a file
//	ready ADDRESS                waits until /-/ready answers 200
//	post ADDRESS PATH STATUS     sends a POST and puts the answer on stdout
//	metric ADDRESS LINE          waits until /metrics has the line
//	terminate PIDFILE            sends SIGTERM
func serverCmds() map[string]func(*testscript.TestScript, bool, []string) {
	return map[string]func(*testscript.TestScript, bool, []string){
		"freeports": freePorts, "substitute": substitute, "ready": ready, "post": post, "metric": metric, "terminate": terminate,
	}
}

func freePorts(ts *testscript.TestScript, neg bool, names []string) {
	if neg || len(names) == 0 {
		ts.Fatalf("usage: freeports NAME...")
	}
	for _, name := range names {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		ts.Check(err)
		defer func() { _ = l.Close() }()
		ts.Setenv(name, l.Addr().String())
	}
}

func substitute(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: substitute FILE")
	}
	text := os.Expand(ts.ReadFile(args[0]), ts.Getenv)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}

// until tries until it is nil, for half a minute.
func until(ts *testscript.TestScript, try func() error) {
	err := try()
	for end := time.Now().Add(30 * time.Second); err != nil && time.Now().Before(end); err = try() {
		time.Sleep(50 * time.Millisecond)
	}
	ts.Check(err)
}

func request(method, address, path string) (int, string, error) {
	r, err := http.NewRequest(method, "http://"+address+path, nil)
	if err != nil {
		return 0, "", err
	}
	client := http.Client{Timeout: 10 * time.Second}
	answer, err := client.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(body), err
}

func ready(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: ready ADDRESS")
	}
	until(ts, func() error {
		status, body, err := request(http.MethodGet, args[0], "/-/ready")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("status %d: %s", status, body)
		}
		return err
	})
}

func post(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: post ADDRESS PATH STATUS")
	}
	status, body, err := request(http.MethodPost, args[0], args[1])
	ts.Check(err)
	_, err = io.WriteString(ts.Stdout(), body)
	ts.Check(err)
	if strconv.Itoa(status) != args[2] {
		ts.Fatalf("POST %s: status %d, want %s", args[1], status, args[2])
	}
}

func metric(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: metric ADDRESS LINE")
	}
	until(ts, func() error {
		_, body, err := request(http.MethodGet, args[0], "/metrics")
		if err == nil && !strings.Contains("\n"+body, "\n"+args[1]+"\n") {
			err = fmt.Errorf("/metrics has no line %q", args[1])
		}
		return err
	})
}

func terminate(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: terminate PIDFILE")
	}
	pid, err := strconv.Atoi(strings.TrimSpace(ts.ReadFile(args[0])))
	ts.Check(err)
	ts.Check(syscall.Kill(pid, syscall.SIGTERM))
}
