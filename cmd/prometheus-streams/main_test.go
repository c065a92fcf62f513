package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/choria-io/prometheus-streams/internal/config"
	"github.com/choria-io/prometheus-streams/internal/enroll/enrolltest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"prometheus-streams": main,
		// stubborn is a command that has no rooms: it says when it runs and when it is asked to stop, and does not stop.
		"stubborn": func() { os.Exit(stubborn(os.Args[1:])) },
	})
}

// TestScripts runs testdata/script, one promise to the user each. In a script, `exits N ARGS` runs the program and checks
// its exit code; `waitfor FILE` waits until the file is there.
func TestScripts(t *testing.T) {
	scripts, err := filepath.Glob(filepath.Join("testdata", "script", "*.txtar"))
	if err != nil || len(scripts) < 10 {
		t.Fatalf("%d scripts found, %v", len(scripts), err)
	}
	cmds := serverCmds()
	cmds["exits"], cmds["waitfor"], cmds["puppetca"], cmds["serve"] = exits, waitFor, puppetCA, serve
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Values[puppetCAKey{}] = new(*enrolltest.CA)
			dir := filepath.Join(env.WorkDir, "golden")
			if err := os.Mkdir(dir, 0o700); err != nil {
				return err
			}
			return writeGolden(dir)
		},
		Cmds: cmds,
	})
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: exits CODE ARGS...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec("prometheus-streams", args[1:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func waitFor(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: waitfor FILE")
	}
	for range 1000 {
		if _, err := os.Stat(ts.MkAbs(args[0])); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	ts.Fatalf("%s does not appear", args[0])
}

func stubborn(args []string) int {
	c := &cli{flags: &Flags{}, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	app, _ := application(c.flags)
	if _, _, err := parse(app, append(args, "poller")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitUsage
	}
	return c.runRole(config.PollerRole, func(ctx context.Context, _ *environment) error {
		fmt.Println("running")
		if err := os.WriteFile("running", nil, 0o600); err != nil {
			return err
		}
		<-ctx.Done()
		if err := os.WriteFile("asked", nil, 0o600); err != nil {
			return err
		}
		select {}
	})
}
