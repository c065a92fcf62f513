package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/alecthomas/kingpin/v2"

	"github.com/choria-io/prometheus-streams/internal/config"
	"github.com/choria-io/prometheus-streams/internal/stream"
)

// checkConfig are the flags of check config.
type checkConfig struct {
	role string
	show bool
}

func checkConfigCommand(check *kingpin.CmdClause) command {
	f := &checkConfig{}
	clause := check.Command("config", "Check the configuration file, without asking anything outside this host.")
	clause.Flag("role", "Check it for poller, receiver or standalone; otherwise for those it has blocks for.").PlaceHolder("ROLE").
		EnumVar(&f.role, string(config.PollerRole), string(config.ReceiverRole), string(config.StandaloneRole))
	clause.Flag("show", "Print the configuration as it is in effect, secrets masked.").BoolVar(&f.show)
	return command{clause, f.run}
}

// run prints problems and warnings (with --show to stderr, to leave stdout to the configuration) and says by the exit code what there was: 0 nothing, 1 problems, 3 warnings alone,
// 2 if the file cannot be read.
func (f *checkConfig) run(c *cli) int {
	whole, warnings, err := c.flags.load()
	if unreadable(err) {
		_, _ = fmt.Fprintln(c.stderr, err)
		return exitUnreadable
	}
	r := &report{w: c.stdout, seen: map[string]bool{}}
	if f.show {
		r.w = c.stderr
	}
	r.warn(warnings)
	if err != nil {
		r.problems(err)
		return r.exit()
	}
	roles := whole.Roles()
	if f.role != "" {
		roles = []config.Role{config.Role(f.role)}
	}
	for _, role := range roles {
		before := r.nProblem
		cfg, warnings, err := whole.ForRole(role)
		r.warn(warnings)
		r.problems(err)
		r.problems(whole.Files(role))
		r.problems(offline(whole, role))
		if err == nil && role.Polls() {
			more, err := cfg.DiscoveryFiles()
			r.warn(more)
			r.problems(err)
		}
		if r.nProblem == before {
			r.good(role, cfg)
		}
		if f.show && role == roles[len(roles)-1] {
			shown, err := cfg.Show()
			r.problems(err)
			_, _ = io.WriteString(c.stdout, shown)
		}
	}
	return r.exit()
}

func unreadable(err error) bool {
	var path *fs.PathError
	return errors.As(err, &path)
}

// report prints what a check finds, each thing once.
type report struct {
	w                  io.Writer
	seen               map[string]bool
	nProblem, nWarning int
}

func (r *report) problems(err error) {
	var list *config.Errors
	switch {
	case err == nil:
	case errors.As(err, &list):
		for _, one := range list.List {
			if r.once(one.Error()) {
				r.nProblem++
			}
		}
		if list.Omitted > 0 {
			_, _ = fmt.Fprintf(r.w, "and %d more problems\n", list.Omitted)
		}
	case r.once(err.Error()):
		r.nProblem++
	}
}

func (r *report) warn(warnings []config.Warning) {
	for _, w := range warnings {
		if r.once(w.Place() + ": warning: " + w.Text) {
			r.nWarning++
		}
	}
}

func (r *report) once(line string) bool {
	if r.seen[line] {
		return false
	}
	r.seen[line] = true
	_, _ = fmt.Fprintln(r.w, line)
	return true
}

// good says what a role would do with the file.
func (r *report) good(role config.Role, c *config.Config) {
	switch role {
	case config.PollerRole:
		targets := 0
		for _, j := range c.Jobs {
			targets += len(j.Targets)
		}
		subject := stream.Subjects{Topic: c.PollerStream.Topic}.Frames(c.Identity, "live")
		if c.PollerStream.ClusterID != "" {
			subject = c.PollerStream.Topic
		}
		configs, static := c.ScrapeTargets()
		found := ""
		if configs > 0 {
			found = fmt.Sprintf(", %s with %s", counted(configs, "scrape config"), counted(static, "static target"))
		}
		_, _ = fmt.Fprintf(r.w, "good for a poller: %s in %s%s, published on %s\n",
			counted(targets, "target"), counted(len(c.Jobs), "job"), found, subject)
	case config.ReceiverRole:
		first := &c.ReceiverStreams[0]
		subject := first.Filter()
		if first.ClusterID != "" {
			subject = first.Topic
		}
		_, _ = fmt.Fprintf(r.w, "good for a receiver: %s, the first on %s\n", counted(len(c.ReceiverStreams), "stream"), subject)
	default:
		_, _ = fmt.Fprintf(r.w, "good for %s\n", role)
	}
}

// counted is a number of things in words.
func counted(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

func (r *report) exit() int {
	switch {
	case r.nProblem > 0:
		return exitProblems
	case r.nWarning > 0:
		return exitLint
	}
	return exitOK
}
