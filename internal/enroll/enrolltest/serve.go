package enrolltest

import (
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"strings"
)

func (ca *CA) serve(w http.ResponseWriter, r *http.Request) {
	what, ok := strings.CutPrefix(r.URL.Path, "/puppet-ca/v1/")
	ca.mu.Lock()
	ca.asked = append(ca.asked, r.Method+" "+what)
	answer := ca.answer
	ca.mu.Unlock()
	if answer != nil && answer(w, r) {
		return
	}
	ca.mu.Lock()
	defer ca.mu.Unlock()
	kind, name, _ := strings.Cut(what, "/")
	w.Header().Set("Content-Type", "text/plain")
	switch {
	case !ok:
		http.Error(w, "Not Found", http.StatusNotFound)
	case r.Method == http.MethodGet && what == "certificate/ca":
		_, _ = w.Write(ca.Bundle())
	case r.Method == http.MethodGet && what == "certificate_revocation_list/ca":
		lists, err := ca.lists()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_, _ = w.Write(lists)
	case r.Method == http.MethodGet && kind == "certificate":
		if c := ca.signed[name]; c != nil {
			_, _ = w.Write(encode("CERTIFICATE", c.Raw))
			return
		}
		http.Error(w, "Could not find certificate "+name, http.StatusNotFound)
	case r.Method == http.MethodGet && kind == "certificate_request":
		if c := ca.requests[name]; c != nil {
			_, _ = w.Write(encode("CERTIFICATE REQUEST", c.Raw))
			return
		}
		http.Error(w, "Could not find certificate_request "+name, http.StatusNotFound)
	case r.Method == http.MethodPut && kind == "certificate_request":
		ca.take(w, r, name)
	default:
		http.Error(w, "Not Found", http.StatusNotFound)
	}
}

// take takes a request for a certificate.
func (ca *CA) take(w http.ResponseWriter, r *http.Request, name string) {
	data, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	block, _ := pem.Decode(data)
	if err != nil || block == nil {
		http.Error(w, "Internal Server Error: java.lang.IndexOutOfBoundsException", http.StatusInternalServerError)
		return
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	switch {
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	case ca.requests[name] != nil:
		http.Error(w, name+" already has a requested certificate; ignoring certificate request", http.StatusBadRequest)
	case ca.signed[name] != nil:
		http.Error(w, name+" already has a signed certificate; ignoring certificate request", http.StatusBadRequest)
	case request.Subject.CommonName != name:
		http.Error(w, `Instance name "`+request.Subject.CommonName+`" does not match requested key "`+name+`"`, http.StatusBadRequest)
	default:
		ca.requests[name] = request
		if ca.autosign {
			ca.sign(name)
		}
	}
}
