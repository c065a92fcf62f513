package harness

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
)

// Operator is who signs for a nats-server with accounts in JWTs: one account with JetStream and one without rights there.
type Operator struct {
	key, account, system nkeys.KeyPair
	config               string
}

// NewOperator makes an operator with its accounts.
func NewOperator(t testing.TB) *Operator {
	t.Helper()
	o := &Operator{key: newKey(t, nkeys.CreateOperator), account: newKey(t, nkeys.CreateAccount), system: newKey(t, nkeys.CreateAccount)}
	claims := jwt.NewOperatorClaims(public(t, o.key))
	claims.SystemAccount = public(t, o.system)
	operator, err := claims.Encode(o.key)
	if err != nil {
		t.Fatal(err)
	}
	account := func(key nkeys.KeyPair, streams bool) string {
		c := jwt.NewAccountClaims(public(t, key))
		if streams {
			c.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}
		}
		text, err := c.Encode(o.key)
		if err != nil {
			t.Fatal(err)
		}
		return public(t, key) + ": " + text
	}
	o.config = fmt.Sprintf("operator: %s\nsystem_account: %s\nresolver: MEMORY\nresolver_preload {\n%s\n%s\n}\n",
		operator, claims.SystemAccount, account(o.account, true), account(o.system, false))
	return o
}

// Config is what a nats-server of this operator has in its configuration file.
func (o *Operator) Config() string { return o.config }

// Credentials makes a user of the account and gives its .creds file. A user that is forever has an until of zero.
func (o *Operator) Credentials(t testing.TB, name string, until time.Time) []byte {
	t.Helper()
	user := newKey(t, nkeys.CreateUser)
	c := jwt.NewUserClaims(public(t, user))
	c.Name = name
	if !until.IsZero() {
		c.Expires = until.Unix()
	}
	text, err := c.Encode(o.account)
	if err != nil {
		t.Fatal(err)
	}
	creds, err := jwt.FormatUserConfig(text, seed(t, user))
	if err != nil {
		t.Fatal(err)
	}
	return creds
}

// NKey makes a user of its own: the public key for the server, and the file with the seed for the client.
func NKey(t testing.TB) (key string, file []byte) {
	t.Helper()
	user := newKey(t, nkeys.CreateUser)
	return public(t, user), seed(t, user)
}

func newKey(t testing.TB, create func() (nkeys.KeyPair, error)) nkeys.KeyPair {
	t.Helper()
	key, err := create()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func public(t testing.TB, key nkeys.KeyPair) string {
	t.Helper()
	text, err := key.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func seed(t testing.TB, key nkeys.KeyPair) []byte {
	t.Helper()
	text, err := key.Seed()
	if err != nil {
		t.Fatal(err)
	}
	return text
}
