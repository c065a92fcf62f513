// Package micro lets people reach the circuit breaker of a process with nothing but NATS: it is a service of the NATS
// micro protocol, which the nats command lists and asks, on the connection that the process has anyway.
//
//	<topic>.control.<publisher>.<verb>     info ping health pause resume switch loglevel
//
// There is no queue group: every process of that publisher answers, so that two of them, or its poller and its receiver,
// are both asked. An answer is a Status as JSON. A request is empty or a Query as JSON; with a mode in it only processes
// of that mode act and answer.
//
// NATS does not say who sent a request. Who may send one is a matter of the server's permissions for the subject, and
// the caller that the log shows is what the request says of itself.
package micro

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/choria-io/prometheus-streams/internal/manage"
)

// Name is that of the service, as nats micro ls shows it.
const Name = "prometheus-streams"

// CallerHeader is the header in which a request says who sends it.
const CallerHeader = "Prometheus-Streams-Caller"

// via is how requests that come this way are counted.
const via = "micro"

// The verbs, each the last token of a subject.
const (
	Info     = "info"
	Ping     = "ping"
	Health   = "health"
	Pause    = "pause"
	Resume   = "resume"
	Switch   = "switch"
	LogLevel = "loglevel"
)

// Codes of refused requests, as the micro protocol has them in a header.
const (
	badRequest = "400"
	failed     = "500"
)

const (
	// maxRequest bounds a request in bytes.
	maxRequest = 16 << 10
)

// Options say where a service is.
type Options struct {
	Conn *nats.Conn
	// Subject is what the subjects of the verbs begin with, without a dot at its end.
	Subject string
	Breaker *manage.Breaker
	Logger  *slog.Logger
}

// Service answers for one breaker on one connection.
type Service struct {
	o      Options
	log    *slog.Logger
	denied chan denial

	mu      sync.Mutex
	said    string
	replies [repliesKept]string // where the last answers went
	count   int                 // of all answers
}

// New makes a service; Run starts it.
func New(o Options) *Service {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Service{o: o, log: o.Logger, denied: make(chan denial, 64)}
}

// Run answers until ctx ends; then it returns nil. That there is no connection, or that the server does not permit the
// subjects, is no error: it says so in the log and answers once it can.
func (s *Service) Run(ctx context.Context) error {
	defer s.listen()()
	for ctx.Err() == nil {
		service, err := s.add()
		if err != nil {
			s.say("management over NATS does not work, trying again", err.Error())
			sleep(ctx, retryDenied)
			continue
		}
		again := s.watch(ctx)
		// It fails only when the connection is gone.
		_ = service.Stop()
		if !again {
			return nil
		}
	}
	return nil
}

// add puts the service and its endpoints on the connection.
func (s *Service) add() (micro.Service, error) {
	status := s.o.Breaker.Status()
	service, err := micro.AddService(s.o.Conn, micro.Config{
		Name: Name, Version: semantic(status.Version), Description: "prometheus-streams " + status.Mode + " " + status.Identity,
		Metadata:           map[string]string{"identity": status.Identity, "mode": status.Mode, "version": status.Version},
		QueueGroupDisabled: true,
		StatsHandler:       func(*micro.Endpoint) any { return s.o.Breaker.Status() },
	})
	if err != nil {
		return nil, fmt.Errorf("service %s: %w", Name, err)
	}
	group := service.AddGroup(s.o.Subject, micro.WithGroupQueueGroupDisabled())
	for _, verb := range []string{Info, Ping, Health, Pause, Resume, Switch, LogLevel} {
		if err := group.AddEndpoint(verb, micro.HandlerFunc(func(r micro.Request) { s.answer(verb, r) })); err != nil {
			_ = service.Stop()
			return nil, fmt.Errorf("service %s, %s: %w", Name, verb, err)
		}
	}
	return service, nil
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// Query is what a request may hold.
type Query struct {
	// Mode, if not empty, is the one mode whose processes are meant.
	Mode string `json:"mode,omitempty"`
	// Level is that of loglevel.
	Level string `json:"level,omitempty"`
}

// parseQuery reads a request. Nothing at all is an empty Query.
func parseQuery(data []byte) (q Query, err error) {
	if len(data) > maxRequest {
		return q, fmt.Errorf("a request of %d bytes, the limit is %d", len(data), maxRequest)
	}
	text := strings.TrimSpace(string(data))
	if text == "" {
		return q, nil
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&q); err != nil {
		return Query{}, fmt.Errorf("a request is empty or JSON with mode, and level for loglevel: %w", err)
	}
	if d.More() {
		return Query{}, errors.New("a request is one JSON object")
	}
	return q, nil
}

// answer does what a request asks for. One that is meant for processes of another mode gets no answer from this one.
func (s *Service) answer(verb string, r micro.Request) {
	s.note(r.Reply())
	q, err := parseQuery(r.Data())
	if err != nil {
		s.refuse(r, badRequest, err, s.o.Breaker.Status())
		return
	}
	if q.Mode != "" && q.Mode != s.o.Breaker.Status().Mode {
		return
	}
	from := manage.Request{Caller: r.Headers().Get(CallerHeader), Via: via}
	var status manage.Status
	switch verb {
	case Pause:
		status, err = s.o.Breaker.Pause(from)
	case Resume:
		status, err = s.o.Breaker.Resume(from)
	case Switch:
		status, err = s.o.Breaker.Switch(from)
	case LogLevel:
		status, err = s.o.Breaker.SetLevel(from, q.Level)
	case Health:
		s.respond(r, s.o.Breaker.Health())
		return
	default: // Info, Ping
		status = s.o.Breaker.Status()
	}
	switch {
	case errors.Is(err, manage.ErrLevel):
		s.refuse(r, badRequest, err, status)
	case err != nil:
		s.refuse(r, failed, err, status)
	default:
		s.respond(r, status)
	}
}

func (s *Service) respond(r micro.Request, v any) {
	if err := r.RespondJSON(v); err != nil {
		s.log.Debug("answer to a request for management", "subject", r.Subject(), "error", err)
	}
}

// refuse answers with an error and, as far as it is known, the state all the same.
func (s *Service) refuse(r micro.Request, code string, why error, status manage.Status) {
	data, err := json.Marshal(status)
	if err == nil {
		err = r.Error(code, why.Error(), data)
	}
	if err != nil {
		s.log.Debug("answer to a request for management", "subject", r.Subject(), "error", err)
	}
}

// semantic is a version as the micro protocol takes it.
func semantic(version string) string {
	version = strings.TrimPrefix(version, "v")
	if regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$`).MatchString(version) {
		return version
	}
	return "0.0.0"
}
