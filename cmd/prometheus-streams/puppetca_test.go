package main

import (
	"os"
	"strconv"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/choria-io/prometheus-streams/internal/enroll/enrolltest"
)

// puppetCA is the scripts' Puppet CA:
//
//	puppetca start              starts it; $PUPPETCA is its host:port, with $PUPPETCA_FINGERPRINT and the file $PUPPETCA_BUNDLE
//	puppetca proxy              starts a proxy that leads to it, as puppet:8140; $PUPPETCA_PROXY is its host:port, for me with hunter2
//	puppetca autosign           signs each request at once
//	puppetca waitfor NAME       waits until somebody waits for a signature under a name
//	puppetca sign NAME          signs it
//	puppetca requests NAME N    checks how many there were
func puppetCA(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: puppetca start|proxy|autosign|waitfor|sign|requests ...")
	}
	if args[0] == "start" {
		startPuppetCA(ts)
		return
	}
	ca, _ := ts.Value(puppetCAKey{}).(**enrolltest.CA)
	if *ca == nil {
		ts.Fatalf("puppetca start goes first")
	}
	switch {
	case args[0] == "proxy" && len(args) == 1:
		proxy, stop, err := startTestProxy("me", "hunter2", map[string]string{"puppet:8140": (*ca).Address()})
		ts.Check(err)
		ts.Defer(stop)
		ts.Setenv("PUPPETCA_PROXY", proxy.address)
	case args[0] == "autosign" && len(args) == 1:
		(*ca).Autosign(true)
	case args[0] == "waitfor" && len(args) == 2:
		waits := func() bool { return (*ca).Pending(args[1]) && (*ca).Count("GET certificate_request/"+args[1]) > 1 }
		for begin := time.Now(); !waits(); time.Sleep(10 * time.Millisecond) {
			if time.Since(begin) > 2*time.Minute {
				ts.Fatalf("nobody waits under the name %s; asked: %v", args[1], (*ca).Asked())
			}
		}
	case args[0] == "sign" && len(args) == 2:
		if !(*ca).Sign(args[1]) {
			ts.Fatalf("no request in the name %s", args[1])
		}
	case args[0] == "requests" && len(args) == 3:
		want, err := strconv.Atoi(args[2])
		ts.Check(err)
		if got := (*ca).Count("PUT certificate_request/" + args[1]); got != want {
			ts.Fatalf("%d requests in the name %s, want %d", got, args[1], want)
		}
	default:
		ts.Fatalf("puppetca %v", args)
	}
}

// puppetCAKey is where a script's CA is kept, as a **enrolltest.CA.
type puppetCAKey struct{}

func startPuppetCA(ts *testscript.TestScript) {
	ca, err := enrolltest.New()
	ts.Check(err)
	ts.Defer(ca.Close)
	kept, _ := ts.Value(puppetCAKey{}).(**enrolltest.CA)
	*kept = ca
	bundle := ts.MkAbs("puppetca.pem")
	ts.Check(os.WriteFile(bundle, ca.Bundle(), 0o600))
	ts.Setenv("PUPPETCA", ca.Address())
	ts.Setenv("PUPPETCA_FINGERPRINT", ca.Fingerprint())
	ts.Setenv("PUPPETCA_BUNDLE", bundle)
}
