package micro

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// retryDenied is after how long a service that the server did not let subscribe tries again.
	retryDenied = 5 * time.Minute
	// gather is how long denials are waited for, to tell of them in one line.
	gather = time.Second
	// repliesKept is how many answers are remembered, to tell ours from what else the connection may not publish.
	repliesKept = 64
)

// denial is something that the server does not permit the service.
type denial struct {
	subject string
	answer  bool // to publish there, rather than to subscribe
}

// listen hears what the server has against the service; all else goes to who listened before. The function that it
// returns ends that. The services of nats.go do so in the same way, and only between the two.
func (s *Service) listen() (end func()) {
	before := s.o.Conn.ErrorHandler()
	s.o.Conn.SetErrorHandler(func(nc *nats.Conn, sub *nats.Subscription, err error) {
		if d, ours := s.ours(err); ours {
			select {
			case s.denied <- d:
			default: // it is known that there are some
			}
			return
		}
		if before != nil {
			before(nc, sub, err)
		}
	})
	return func() { s.o.Conn.SetErrorHandler(before) }
}

// ours tells whether an error is a denial of something that the service did.
func (s *Service) ours(err error) (denial, bool) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return denial{}, false
	}
	m := regexp.MustCompile(`(?i)permissions violation for (publish|subscription) to "([^"]*)"`).FindStringSubmatch(err.Error())
	if m == nil {
		return denial{}, false
	}
	d := denial{subject: m[2], answer: strings.EqualFold(m[1], "publish")}
	if d.answer {
		s.mu.Lock()
		defer s.mu.Unlock()
		return d, slices.Contains(s.replies[:], d.subject)
	}
	return d, strings.HasPrefix(d.subject, s.o.Subject+".") || strings.HasPrefix(d.subject, "$SRV.")
}

// note remembers where an answer goes.
func (s *Service) note(reply string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.replies[s.count%repliesKept] = reply
	s.count++
}

// watch waits for ctx or, since the server may be told to let us, for the time to subscribe anew; true tells to.
func (s *Service) watch(ctx context.Context) bool {
	var retry <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return false
		case <-retry:
			return true
		case d := <-s.denied:
			sleep(ctx, gather)
			if s.tell(d) {
				retry = time.After(retryDenied)
			}
		}
	}
}

// tell says what the server denies. It tells whether requests cannot arrive at all: then it is worth to try again.
func (s *Service) tell(d denial) bool {
	control, found := false, false
	for {
		switch {
		case d.answer:
			s.say("the server denies the answer to a request for management: give this user allow_responses", d.subject)
		case strings.HasPrefix(d.subject, s.o.Subject+"."):
			control = true
		default:
			found = true
		}
		select {
		case d = <-s.denied:
			continue
		default:
		}
		break
	}
	switch {
	case control:
		s.say("the server denies the subscription for management: let this user subscribe to the subject", s.o.Subject+".*")
	case found:
		s.say("the server denies the subscriptions by which management is found (nats micro, ctl --all): let this user subscribe to "+
			"$SRV.*, $SRV.*."+Name+" and $SRV.*."+Name+".*", "$SRV.>")
	}
	return control
}

// say logs something that goes on for long once.
func (s *Service) say(what, subject string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.said == what {
		return
	}
	s.said = what
	s.log.Warn(what, "subject", subject)
}
