//go:build choria

package choria

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"time"

	"github.com/nats-io/nats.go"
)

// attacks come from one who has a certificate of the authority, as every host has, and may not call. All but the last are ones
// that go-choria alone would fall for.
func (s *site) attacks() {
	n := s.network
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	ecCert := n.issue("ec.mcollective", ec).CertPEM
	own, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		s.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "me.mcollective"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, own.Public(), own)
	if err != nil {
		s.t.Fatal(err)
	}
	me, err := os.ReadFile(n.file("me.mcollective"))
	if err != nil {
		s.t.Fatal(err)
	}
	conn, err := nats.Connect(fmt.Sprintf("nats://localhost:%d", n.port), nats.RootCAs(n.file("ca")), nats.ClientCert(n.file("stranger.example.net"), n.file("stranger.example.net-key")),
		nats.Timeout(patience))
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	for name, a := range map[string]struct {
		id   string
		cert []byte
	}{
		"an ECDSA certificate":                   {"choria=ec.mcollective", ecCert},
		"a self-signed one in an odd block":      {"choria=me.mcollective", pem.EncodeToMemory(&pem.Block{Type: "TRUSTED CERTIFICATE", Bytes: der})},
		"a self-signed one":                      {"choria=me.mcollective", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})},
		"another's certificate, without his key": {"choria=me.mcollective", me},
	} {
		body, _ := json.Marshal(map[string]any{"agent": "prometheus_streams", "action": "pause", "data": map[string]any{}})
		id := make([]byte, 16)
		_, _ = rand.Read(id)
		request, _ := json.Marshal(map[string]any{"protocol": "choria:request:1", "message": base64.StdEncoding.EncodeToString(body), "envelope": map[string]any{
			"requestid": hex.EncodeToString(id), "senderid": "x", "callerid": a.id, "collective": "prometheus", "agent": "prometheus_streams", "ttl": 60, "time": time.Now().Unix(),
			"filter": map[string]any{"fact": []any{}, "cf_class": []any{}, "agent": []any{}, "identity": []any{}, "compound": []any{}}}})
		sum := sha256.Sum256(request)
		signature, err := own.Sign(rand.Reader, sum[:], crypto.SHA256)
		if err != nil {
			s.t.Fatal(err)
		}
		secure, _ := json.Marshal(map[string]any{"protocol": "choria:secure:request:1", "message": string(request), "signature": base64.StdEncoding.EncodeToString(signature), "pubcert": string(a.cert)})
		message, _ := json.Marshal(map[string]any{"protocol": "choria:transport:1", "data": base64.StdEncoding.EncodeToString(secure),
			"headers": map[string]any{"reply-to": "prometheus.reply.x", "mc_sender": "x"}})
		if err := conn.Publish("prometheus.broadcast.agent.prometheus_streams", message); err != nil {
			s.t.Fatal(err)
		}
		if err := conn.Flush(); err != nil {
			s.t.Fatal(name, err)
		}
	}
	s.poller.WaitOutput(patience, "only RSA can sign requests")
	s.poller.WaitOutput(patience, "something else than certificates")
	s.poller.WaitOutput(patience, "signed by unknown authority")
	s.poller.WaitOutput(patience, "did not pass security validation|Signature in request did not pass")
	s.state("info", map[string]bool{pollerName: false, receiverName: false})
}
