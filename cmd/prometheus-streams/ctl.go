package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"github.com/choria-io/prometheus-streams/internal/config"
	"github.com/choria-io/prometheus-streams/internal/manage/micro"
	"github.com/choria-io/prometheus-streams/internal/stream"
)

// ctlAtOnce bounds the publishers that are asked at the same time.
const ctlAtOnce = 16

// ctl is what its commands have in common.
type ctl struct {
	verb      string
	publisher string
	all       bool
	mode      string
	json      bool
	timeout   time.Duration
}

// ctlCommands are ctl info, switch, pause and resume.
func ctlCommands(app *kingpin.Application) []command {
	clause := app.Command("ctl", "Ask running processes over NATS, and pause or resume them.")
	var out []command
	for _, verb := range []struct{ name, help string }{
		{micro.Info, "Show mode, version and whether they are paused."},
		{micro.Switch, "Pause those that are not paused, and resume those that are."},
		{micro.Pause, "Pause them: pollers scrape nothing, receivers deliver nothing."},
		{micro.Resume, "Let them go on."},
	} {
		f := &ctl{verb: verb.name}
		one := clause.Command(verb.name, verb.help)
		one.Flag("publisher", "Processes of this publisher; that of the configuration if neither this nor --all is given.").PlaceHolder("NAME").StringVar(&f.publisher)
		one.Flag("all", "All processes that can be found on the network.").BoolVar(&f.all)
		one.Flag("mode", "Only a poller, receiver or standalone.").PlaceHolder("MODE").EnumVar(&f.mode,
			string(config.PollerRole), string(config.ReceiverRole), string(config.StandaloneRole))
		one.Flag("json", "Print the answers as JSON.").BoolVar(&f.json)
		one.Flag("timeout", "How long to wait for a connection and for answers.").Default("5s").DurationVar(&f.timeout)
		out = append(out, command{one, f.run})
	}
	return out
}

// run exits with 0 if all that answered did what they were asked, 1 if one did not or none answered, 2 if nobody could be
// asked for a wrong command line or configuration.
func (f *ctl) run(c *cli) int {
	if f.all && f.publisher != "" {
		_, _ = fmt.Fprintln(c.stderr, "prometheus-streams: ctl takes --publisher or --all, not both")
		return exitUsage
	}
	cfg, _, err := c.flags.load()
	var s *config.ReceiverStream
	if err == nil {
		s, err = controlStream(cfg)
	}
	if err != nil {
		_, _ = fmt.Fprintln(c.stderr, err)
		return exitUsage
	}
	quiet := *cfg
	quiet.Logfile = "" // what a person asks for is answered on the terminal
	env, err := newEnvironment(c, "", &quiet)
	if err != nil {
		_, _ = fmt.Fprintln(c.stderr, err)
		return exitUsage
	}
	defer env.log.close()
	if c.flags.LogLevel == "" && !c.flags.Debug {
		_ = env.log.setLevel("error") // it is a level that there is
	}
	ctx, stop := handleSignals(context.Background(), env, func() {})
	defer stop()

	answers, err := f.ask(ctx, env, s)
	if err != nil && !errors.Is(err, micro.ErrNobody) {
		_, _ = fmt.Fprintln(c.stderr, err)
		return exitFailed
	}
	if err != nil {
		_, _ = fmt.Fprintf(c.stderr, "%v\n%s", err, f.advice(cfg, s))
	}
	if err := f.print(c.stdout, answers); err != nil {
		_, _ = fmt.Fprintln(c.stderr, err)
		return exitFailed
	}
	if len(answers) == 0 || slices.ContainsFunc(answers, func(a micro.Answer) bool { return a.Error != "" }) {
		return exitFailed
	}
	return exitOK
}

// controlStream is the connection over which processes are asked: that on which one of this configuration offers it.
func controlStream(c *config.Config) (*config.ReceiverStream, error) {
	switch {
	case len(c.ReceiverStreams) > 0:
		return &c.ReceiverStreams[0], nil
	case c.PollerStream != nil:
		return published(c.PollerStream), nil
	case c.Embedded != nil && c.Embedded.Listen != "":
		s := standaloneStream(c)
		s.URLs = config.URLs{config.URL("nats://" + reachable(c.Embedded.Listen))}
		return s, nil
	}
	return nil, fmt.Errorf("%s: no receiver_stream, poller_stream or embedded.listen: no NATS to ask over", c.File)
}

// ask gathers the answers, ordered by publisher and mode. With an error that wraps micro.ErrNobody there are none.
func (f *ctl) ask(ctx context.Context, env *environment, s *config.ReceiverStream) ([]micro.Answer, error) {
	h := &house{env: env, cfg: env.Config}
	defer h.close()
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	conn, err := h.connect(ctx, s, "ctl", nil)
	if err == nil {
		err = connected(ctx, conn)
	}
	if err != nil {
		return nil, err
	}
	asker := &micro.Asker{Conn: conn.NATS(), Caller: caller()}
	q := micro.Query{Mode: f.mode}
	if !f.all {
		answers, err := asker.Ask(ctx, f.subject(env.Config, s), f.verb, q)
		return sorted(answers), err
	}
	found, err := asker.Find(ctx)
	if err != nil {
		return nil, err
	}
	var subjects []string
	for _, one := range found {
		if f.mode == "" || f.mode == one.Mode {
			subjects = append(subjects, one.Subject)
		}
	}
	subjects = slices.Compact(slices.Sorted(slices.Values(subjects)))
	if len(subjects) == 0 {
		return nil, fmt.Errorf("%w: none of the %d processes found is a %s", micro.ErrNobody, len(found), f.mode)
	}
	return f.askEach(ctx, asker, subjects, q)
}

// askEach asks many. One that is silent after it was found is an answer with an error.
func (f *ctl) askEach(ctx context.Context, asker *micro.Asker, subjects []string, q micro.Query) ([]micro.Answer, error) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var all []micro.Answer
	slots := make(chan struct{}, ctlAtOnce)
	for _, subject := range subjects {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.timeout)
			defer cancel()
			answers, err := asker.Ask(limited, subject, f.verb, q)
			if err != nil {
				silent := micro.Answer{Error: err.Error()}
				silent.Identity, silent.Mode = subject, cmp.Or(f.mode, "?")
				answers = []micro.Answer{silent}
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, answers...)
		})
	}
	wg.Wait()
	return sorted(all), nil
}

func sorted(answers []micro.Answer) []micro.Answer {
	slices.SortStableFunc(answers, func(a, b micro.Answer) int {
		return cmp.Or(cmp.Compare(a.Identity, b.Identity), cmp.Compare(a.Mode, b.Mode))
	})
	return answers
}

// subject is the prefix of those of the one publisher that is asked.
func (f *ctl) subject(c *config.Config, s *config.ReceiverStream) string {
	return stream.Subjects{Topic: s.Topic}.Control(cmp.Or(f.publisher, c.Identity))
}

// advice says what it takes to be answered.
func (f *ctl) advice(c *config.Config, s *config.ReceiverStream) string {
	subject, found := f.subject(c, s)+".*", ""
	if f.all {
		subject = s.Topic + ".control.*.*"
		found = fmt.Sprintf(" and to $SRV.INFO.%s", micro.Name)
	}
	inbox := cmp.Or(s.InboxPrefix, "_INBOX")
	return fmt.Sprintf(`A process answers if its configuration has
    management: {micro: true}
and its NATS user may subscribe to %s%s and has allow_responses.
The user of ctl has to be allowed to publish to %s%s and to subscribe to %s.>.
`, subject, found, subject, found, inbox)
}

// caller says who asks, for the log of those who are asked.
func caller() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	host, err := os.Hostname()
	if err != nil {
		return name
	}
	return name + "@" + host
}

// print writes the answers, as a table or as a list in JSON.
func (f *ctl) print(w io.Writer, answers []micro.Answer) error {
	if f.json {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		if answers == nil {
			answers = []micro.Answer{} // a list all the same
		}
		return enc.Encode(answers)
	}
	if len(answers) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	_, _ = fmt.Fprintln(t, "PUBLISHER\tMODE\tPAUSED\tVERSION")
	for _, a := range answers {
		paused := fmt.Sprint(a.Paused)
		if a.Version == "" {
			paused = "?" // nothing is known of it but the error
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s", a.Identity, a.Mode, paused, a.Version)
		if a.Error != "" {
			_, _ = fmt.Fprintf(t, "\t%s", a.Error)
		}
		_, _ = fmt.Fprintln(t)
	}
	return t.Flush()
}
