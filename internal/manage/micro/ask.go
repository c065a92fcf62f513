package micro

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/choria-io/prometheus-streams/internal/manage"
)

// ErrNobody: no process listens on the subject, or none that the asker may reach.
var ErrNobody = errors.New("nobody answers")

const (
	// quiet is for how long after an answer more are waited for.
	quiet = 750 * time.Millisecond
	// maxAnswers bounds what is gathered, maxAnswer the size of one in bytes.
	maxAnswers = 10_000
	maxAnswer  = 256 << 10
)

// Asker asks processes over a connection. The answers of a request are gathered until none came for a moment, or the
// context ends.
type Asker struct {
	Conn *nats.Conn
	// Caller is who asks, for the log of those that are asked.
	Caller string
}

// Answer is what one process says.
type Answer struct {
	manage.Status
	// Error is why it did not do, or not wholly do, what it was asked; empty if all is well.
	Error string `json:"error,omitempty"`
}

// Ask sends a request to all processes under a subject prefix (Options.Subject). The error wraps ErrNobody if there are
// no answers.
func (a *Asker) Ask(ctx context.Context, subject, verb string, q Query) ([]Answer, error) {
	data, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	m := nats.NewMsg(subject + "." + verb)
	m.Data = data
	m.Header.Set(CallerHeader, a.Caller)
	var out []Answer
	err = a.gather(ctx, m, func(m *nats.Msg) {
		out = append(out, readAnswer(m))
	})
	if err == nil && len(out) == 0 {
		err = a.nobody(m.Subject)
	}
	return out, err
}

// readAnswer is what a process answered. One that is larger than any of ours is not read.
func readAnswer(m *nats.Msg) (answer Answer) {
	if len(m.Data) > maxAnswer || json.Unmarshal(m.Data, &answer) != nil {
		answer = Answer{Error: "an answer that cannot be read"}
	}
	if why := m.Header.Get(micro.ErrorHeader); why != "" {
		answer.Error = why
	}
	return answer
}

// Found is one process that said where it is.
type Found struct {
	Identity, Mode string
	// Subject is the prefix of its subjects.
	Subject string
}

// Find asks all processes on the network where they are. They are ordered by identity and mode. The error wraps ErrNobody
// if none says so.
func (a *Asker) Find(ctx context.Context) ([]Found, error) {
	subject, err := micro.ControlSubject(micro.InfoVerb, Name, "")
	if err != nil {
		return nil, err
	}
	var out []Found
	err = a.gather(ctx, nats.NewMsg(subject), func(m *nats.Msg) {
		out = append(out, readInfo(m.Data)...)
	})
	if err == nil && len(out) == 0 {
		err = a.nobody(subject)
	}
	slices.SortFunc(out, func(a, b Found) int {
		return strings.Compare(a.Identity+"\x00"+a.Mode, b.Identity+"\x00"+b.Mode)
	})
	return out, err
}

// readInfo is where a process says that it is.
func readInfo(data []byte) (out []Found) {
	var info micro.Info
	if len(data) > maxAnswer || json.Unmarshal(data, &info) != nil {
		return nil
	}
	for _, e := range info.Endpoints {
		if prefix, ok := strings.CutSuffix(e.Subject, "."+Info); ok && e.Name == Info && validSubject(prefix) {
			out = append(out, Found{info.Metadata["identity"], info.Metadata["mode"], prefix})
		}
	}
	return out
}

// validSubject tells whether one can publish on a subject; others would have the server end the connection.
func validSubject(s string) bool {
	for token := range strings.SplitSeq(s, ".") {
		if token == "" || strings.ContainsAny(token, " \t\r\n*>") {
			return false
		}
	}
	return true
}

// nobody is the error of a request without an answer, with what the server has against it, if anything.
func (a *Asker) nobody(subject string) error {
	if err := a.Conn.LastError(); errors.Is(err, nats.ErrPermissionViolation) {
		return fmt.Errorf("%w on %s: %w", ErrNobody, subject, err)
	}
	return fmt.Errorf("%w on %s", ErrNobody, subject)
}

// gather sends a request and hands over its answers.
func (a *Asker) gather(ctx context.Context, m *nats.Msg, take func(*nats.Msg)) error {
	inbox := a.Conn.NewInbox()
	answers := make(chan *nats.Msg, maxAnswers)
	sub, err := a.Conn.ChanSubscribe(inbox, answers)
	if err != nil {
		return fmt.Errorf("ask on %s: %w", m.Subject, err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only when the connection is gone
	m.Reply = inbox
	if err = a.Conn.PublishMsg(m); err == nil {
		err = a.Conn.FlushWithContext(ctx)
	}
	if err != nil {
		return fmt.Errorf("ask on %s: %w", m.Subject, err)
	}
	var silence <-chan time.Time
	for range maxAnswers {
		select {
		case answer := <-answers:
			if len(answer.Data) == 0 && answer.Header.Get("Status") == "503" {
				return nil // the server: there is nobody
			}
			take(answer)
			silence = time.After(quiet)
		case <-silence:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}
