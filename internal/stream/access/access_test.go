package access

import (
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

func write(t testing.TB, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func newSeed(t testing.TB) (key string, seed []byte) {
	t.Helper()
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	key, err = pair.PublicKey()
	if err == nil {
		seed, err = pair.Seed()
	}
	if err != nil {
		t.Fatal(err)
	}
	return key, seed
}

// A seed that is replaced counts for the next signature.
func TestSeedAgain(t *testing.T) {
	key, seed := newSeed(t)
	path := write(t, seed)
	a, err := New(Server{NKeySeedFile: path})
	if err != nil || a.key != key {
		t.Fatalf("%s, %v", a.key, err)
	}
	next, seed := newSeed(t)
	if err := os.WriteFile(path, seed, 0o600); err != nil {
		t.Fatal(err)
	}
	signed, err := a.sign([]byte("nonce"))
	if err != nil {
		t.Fatal(err)
	}
	who, err := nkeys.FromPublicKey(next)
	if err != nil {
		t.Fatal(err)
	}
	if err := who.Verify([]byte("nonce"), signed); err != nil {
		t.Errorf("not signed by the new key: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := a.sign(nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v without a file", err)
	}
}

func TestBadOptions(t *testing.T) {
	_, seed := newSeed(t)
	user := func() (string, string) { return "a", "b" }
	for name, c := range map[string]struct {
		o    Server
		want string
	}{
		"two":          {Server{UserInfo: user, NKeySeedFile: write(t, seed)}, "more than one of"},
		"no file":      {Server{CredentialsFile: "/nowhere"}, "reading credentials /nowhere: open /nowhere"},
		"no jwt":       {Server{CredentialsFile: write(t, seed)}, "no user JWT in it"},
		"no seed":      {Server{NKeySeedFile: write(t, []byte("hello"))}, "no seed of a user"},
		"half a seed":  {Server{NKeySeedFile: write(t, seed[:20])}, "no seed of a user"},
		"a large file": {Server{NKeySeedFile: write(t, make([]byte, maxFile+1))}, "has more than 65536 bytes"},
	} {
		_, err := New(c.o)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		} else if strings.Contains(err.Error(), string(seed[:20])) {
			t.Errorf("%s: the error shows the seed: %v", name, err)
		}
	}
}

// Credentials that have expired are said to have.
func TestExpired(t *testing.T) {
	_, seed := newSeed(t)
	file := func(claims string) string {
		return write(t, []byte("-----BEGIN NATS USER JWT-----\na."+base64.RawURLEncoding.EncodeToString([]byte(claims))+".c\n------END NATS USER JWT------\n"+
			"-----BEGIN USER NKEY SEED-----\n"+string(seed)+"\n------END USER NKEY SEED------\n"))
	}
	for claims, want := range map[string]string{
		`{"exp": 1000}`: ", which have expired on 1970-01-01T00:16:40Z", `{"exp": 99999999999}`: "", `{}`: "", `{"exp": -1}`: "", `{"exp": "x"}`: "", `x`: "",
	} {
		path := file(claims)
		a, err := New(Server{CredentialsFile: path})
		if err != nil {
			t.Fatal(err)
		}
		if got := a.Failed(nats.ErrAuthorization).Error(); !strings.HasSuffix(got, "the server does not accept the credentials in "+path+want) {
			t.Errorf("%s: %s", claims, got)
		}
	}
}

func TestExplain(t *testing.T) {
	silence := &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}
	for _, c := range []struct {
		o    Server
		err  error
		want string
	}{
		{Server{}, silence, "it may want TLS first"},
		{Server{}, io.EOF, "it may want TLS first"},
		{Server{TLSFirst: true}, silence, "says nothing"},
		{Server{TLSFirst: true}, errors.New("tls: first record does not look like a TLS handshake"), "set no tls_first"},
		{Server{TLS: &tls.Config{}}, nats.ErrSecureConnWanted, "the server offers none"},
		{Server{}, nats.ErrAuthorization, "does not say who it is"},
		{Server{URLs: []string{"nats://me:secret@a"}}, nats.ErrAuthorization, "the user or the token in urls"},
		{Server{CredentialsFile: "me.creds"}, nats.ErrAuthExpired, "the rights of the credentials in me.creds have expired"},
		{Server{}, errors.New("remote error: tls: certificate required"), "the server wants a certificate, and no tls is configured here: set tls"},
		{Server{TLSMeaning: func(error) string { return "that is ours" }}, errors.New("remote error: tls: certificate required"), "certificate required: that is ours"},
		{Server{TLSMeaning: func(error) string { return "" }}, errors.New("connection refused"), ""},
		{Server{}, errors.New("connection refused"), ""},
	} {
		a := &Access{server: c.o}
		err := a.Failed(c.err)
		if !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.want) || c.want == "" && err != c.err {
			t.Errorf("%v: %v, want %q", c.err, err, c.want)
		}
		if again := a.Failed(fmt.Errorf("again: %w", err)); strings.Count(again.Error(), c.want) > 1 && c.want != "" {
			t.Errorf("explained twice: %v", again)
		}
	}
	// A connection that stood and ends says nothing of how it was made.
	if err := (&Access{}).Lost(io.EOF); err != io.EOF {
		t.Error(err)
	}
}

// FuzzFiles reads whatever a file with a seed or credentials may hold.
func FuzzFiles(f *testing.F) {
	_, seed := newSeed(f)
	f.Add(seed)
	f.Add([]byte("-----BEGIN NATS USER JWT-----\na.b.c\n------END NATS USER JWT------\n-----BEGIN USER NKEY SEED-----\n" + string(seed) + "\n------END USER NKEY SEED------\n"))
	claims := base64.RawURLEncoding.EncodeToString([]byte(`{"exp": 1000}`))
	f.Add([]byte("-----BEGIN NATS USER JWT-----\na." + claims + ".c\n------END NATS USER JWT------\n-----BEGIN USER NKEY SEED-----\n" + string(seed) + "\n------END USER NKEY SEED------\n"))
	f.Add([]byte("-----BEGIN"))
	f.Add([]byte("SU"))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := write(t, data)
		if a, err := New(Server{NKeySeedFile: path}); err == nil {
			if _, err := a.sign([]byte("x")); err != nil || !nkeys.IsValidPublicUserKey(a.key) {
				t.Errorf("the key %q cannot sign: %v", a.key, err)
			}
		}
		if a, err := New(Server{CredentialsFile: path}); err == nil {
			if who := a.who(); !strings.Contains(who, path) || len(who) > len(path)+100 {
				t.Errorf("%q", who)
			}
		}
	})
}
