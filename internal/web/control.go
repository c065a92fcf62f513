package web

import (
	"encoding/json"
	"net"
	"net/http"
)

// control is the handler of one action that changes what the process does.
func (s *Server) control(action string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.opts.EnableLifecycle || s.opts.Control == nil {
			say(w, http.StatusForbidden, "To %s over HTTP is not enabled: see --web.enable-lifecycle.", action)
			return
		}
		answer, err := s.opts.Control(action, caller(r))
		if err != nil {
			say(w, http.StatusInternalServerError, "%s: %s", action, err)
			return
		}
		body, err := json.Marshal(answer)
		if err != nil {
			say(w, http.StatusInternalServerError, "%s: %s", action, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		// A client that went away needs no answer.
		_, _ = w.Write(append(body, '\n'))
	})
}

// caller names who sent a request: the user, who was let in by a password if the web configuration has users, and where
// it came from.
func caller(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	if user, _, ok := r.BasicAuth(); ok && user != "" {
		return user + "@" + host
	}
	return host
}
