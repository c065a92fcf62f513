package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/choria-io/prometheus-streams/internal/config"
)

// writeWith posts a body with the client of a remote_write block, whose other keys are given, to a server that looks at the request.
func writeWith(t *testing.T, keys string, look func(r *http.Request, body []byte)) {
	t.Helper()
	looked := false
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		looked = true
		look(r, body)
	}))
	defer server.Close()
	c, warnings, err := config.Parse(filepath.Join(t.TempDir(), "c.yaml"), []byte("remote_write: [{url: '"+server.URL+"', "+keys+"}]"))
	if err != nil || len(warnings) > 0 {
		t.Fatalf("%v %v", err, warnings)
	}
	client, err := remoteWriteClient(&c.RemoteWrite[0].Block)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequest(http.MethodPost, server.URL+"/api/v1/write?tenant=a%20b", bytes.NewReader([]byte("a body")))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Encoding", "snappy")
	res, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if !looked {
		t.Error("the request never came")
	}
}

// sharedKey makes the signature of a request as AWS' documentation of version 4 has it.
func sharedKey(r *http.Request, body []byte, secret, day, region, service, signed string) string {
	sum := func(b []byte) string { h := sha256.Sum256(b); return hex.EncodeToString(h[:]) }
	mac := func(key []byte, text string) []byte {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	var headers strings.Builder
	for _, name := range strings.Split(signed, ";") {
		v := r.Header.Get(name)
		switch name {
		case "host":
			v = r.Host
		case "content-length":
			v = fmt.Sprint(r.ContentLength)
		}
		fmt.Fprintf(&headers, "%s:%s\n", name, v)
	}
	canonical := strings.Join([]string{r.Method, r.URL.EscapedPath(), strings.ReplaceAll(r.URL.Query().Encode(), "+", "%20"), headers.String(), signed, sum(body)}, "\n")
	scope := strings.Join([]string{day, region, service, "aws4_request"}, "/")
	text := strings.Join([]string{"AWS4-HMAC-SHA256", r.Header.Get("X-Amz-Date"), scope, sum([]byte(canonical))}, "\n")
	key := mac(mac(mac(mac([]byte("AWS4"+secret), day), region), service), "aws4_request")
	return hex.EncodeToString(mac(key, text))
}

func TestSigV4(t *testing.T) {
	form := regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=AKID/(\d{8})/eu-west-1/(aps|other)/aws4_request, SignedHeaders=(\S+), Signature=(\w+)$`)
	for keys, service := range map[string]string{"": "aps", ", service_name: other": "other"} {
		writeWith(t, "sigv4: {region: eu-west-1, access_key: AKID, secret_key: geheim"+keys+"}", func(r *http.Request, body []byte) {
			m := form.FindStringSubmatch(r.Header.Get("Authorization"))
			if m == nil || m[2] != service || string(body) != "a body" || !strings.Contains(";"+m[3]+";", ";host;") {
				t.Fatalf("Authorization %q, body %q", r.Header.Get("Authorization"), body)
			}
			if want := sharedKey(r, body, "geheim", m[1], "eu-west-1", service, m[3]); m[4] != want {
				t.Errorf("signature %s, want %s", m[4], want)
			}
			if m[4] == sharedKey(r, []byte("another"), "geheim", m[1], "eu-west-1", service, m[3]) {
				t.Error("the signature does not cover the body")
			}
		})
	}
}

// tokenServer gives a token, and has the request looked at.
func tokenServer(t *testing.T, look func(r *http.Request)) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		look(r)
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{
			"access_token": "a-token", "token_type": "Bearer", "expires_in": 3600, "expires_on": time.Now().Add(time.Hour).Unix(), "resource": "r",
		})
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// hasToken looks whether a request has the token.
func hasToken(t *testing.T) func(*http.Request, []byte) {
	return func(r *http.Request, body []byte) {
		if got := r.Header.Get("Authorization"); got != "Bearer a-token" || string(body) != "a body" {
			t.Errorf("Authorization %q, body %q", got, body)
		}
	}
}

func TestOAuth2(t *testing.T) {
	url := tokenServer(t, func(r *http.Request) {
		user, password, _ := r.BasicAuth()
		if user == "" {
			user, password = r.Form.Get("client_id"), r.Form.Get("client_secret")
		}
		if user != "me" || password != "geheim" || r.Form.Get("scope") != "write" || r.Form.Get("audience") != "x" || r.Form.Get("grant_type") != "client_credentials" {
			t.Errorf("the token is asked for with %v, %s:%s", r.Form, user, password)
		}
	})
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("geheim"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"client_secret: geheim", "client_secret_file: " + file} {
		writeWith(t, "oauth2: {client_id: me, "+secret+", token_url: '"+url+"', scopes: [write], endpoint_params: {audience: x}}", hasToken(t))
	}
}

// Azure's way of an App Service: a server beside the process gives the token.
func TestAzureAD(t *testing.T) {
	t.Setenv("IDENTITY_HEADER", "ours")
	t.Setenv("IDENTITY_ENDPOINT", tokenServer(t, func(r *http.Request) {
		if r.Header.Get("X-IDENTITY-HEADER") != "ours" || r.Form.Get("resource") == "" {
			t.Errorf("the token is asked for with %v and %v", r.Form, r.Header)
		}
	}))
	writeWith(t, "azuread: {managed_identity: {client_id: 00000000-0000-0000-0000-000000000001}}", hasToken(t))
}

func TestGoogleIAM(t *testing.T) {
	url := tokenServer(t, func(r *http.Request) {
		if r.Form.Get("assertion") == "" {
			t.Errorf("the token is asked for with %v", r.Form)
		}
	})
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	account, err := json.Marshal(map[string]string{
		"type": "service_account", "client_email": "a@b", "private_key_id": "1", "token_uri": url, "project_id": "p",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "account.json")
	if err := os.WriteFile(file, account, 0o600); err != nil {
		t.Fatal(err)
	}
	writeWith(t, "google_iam: {credentials_file: "+file+"}", hasToken(t))
}

// What a cloud does not give out yet fails requests and nothing else, and is asked for again.
func TestCloudIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, away := 0, errors.New("no answer")
		c := &cloud{make: func() (http.RoundTripper, error) {
			if asked++; asked < 3 {
				return nil, away
			}
			return answering{}, nil
		}}
		for i, want := range []error{away, away, away, nil, nil} {
			res, err := c.RoundTrip(httptest.NewRequest(http.MethodPost, "http://a", strings.NewReader("b")))
			if !errors.Is(err, want) {
				t.Errorf("try %d: %v, want %v", i, err, want)
			}
			if err == nil {
				_ = res.Body.Close()
			}
			if i > 0 {
				time.Sleep(cloudAgain)
			}
		}
		if asked != 3 {
			t.Errorf("asked %d times", asked)
		}
	})
}

type answering struct{}

func (answering) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
}

func TestRoundRobinDNS(t *testing.T) {
	lc := net.ListenConfig{}
	one, err := lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = one.Close() }()
	_, port, _ := net.SplitHostPort(one.Addr().String())
	two, err := lc.Listen(context.Background(), "tcp", "127.0.0.2:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = two.Close() }()
	dial := roundRobin(func(_ context.Context, host string) ([]string, error) {
		if host != "central" {
			return nil, fmt.Errorf("asked for %q", host)
		}
		return []string{"127.0.0.1", "127.0.0.2"}, nil
	})
	seen := map[string]int{}
	for range 64 {
		c, err := dial(context.Background(), "tcp", "central:"+port)
		if err != nil {
			t.Fatal(err)
		}
		seen[c.RemoteAddr().String()]++
		_ = c.Close()
	}
	if len(seen) != 2 {
		t.Errorf("connected to %v", seen)
	}
}
