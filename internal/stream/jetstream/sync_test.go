package jetstream

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/internal/stream"
	"github.com/choria-io/prometheus-streams/internal/stream/access"
	"github.com/choria-io/prometheus-streams/internal/stream/embedded"
)

// syncAccounts are an account that may ask the system account, one that may not, and a user without the right.
const syncAccounts = `
accounts {
  SYS { users: [{user: sys, password: sys}], exports: [{service: "$SYS.REQ.SERVER.PING.JSZ", response_type: stream}] }
  ASKS {
    jetstream: enabled
    users: [{user: asks, password: p}, {user: denied, password: p, permissions: {publish: "prometheus.>"}}]
    imports: [{service: {account: SYS, subject: "$SYS.REQ.SERVER.PING.JSZ"}}]
  }
  PLAIN { jetstream: enabled, users: [{user: plain, password: p}] }
}
system_account: SYS
`

// How often a server syncs is known to an account that imports the service, and to no other.
func TestSyncInterval(t *testing.T) {
	for name, o := range map[string]embedded.Options{
		"every 90 s": {SyncInterval: 90 * time.Second},
		"always":     {SyncAlways: true},
	} {
		t.Run(name, func(t *testing.T) {
			conf := filepath.Join(t.TempDir(), "nats.conf")
			if err := os.WriteFile(conf, []byte(syncAccounts), 0o600); err != nil {
				t.Fatal(err)
			}
			o.Directory, o.Listen, o.ConfigFile = t.TempDir(), "127.0.0.1:0", conf
			server, err := embedded.Start(o)
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			for user, want := range map[string]error{"asks": nil, "plain": stream.ErrNotFound, "denied": stream.ErrPermission} {
				var log logBuffer
				c, err := Connect(t.Context(), Options{Topic: "prometheus", Server: access.Server{
					URLs: []string{server.URL()}, UserInfo: func() (string, string) { return user, "p" }, Logger: log.logger(),
				}})
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				got, err := c.SyncInterval(t.Context())
				if !errors.Is(err, want) || err == nil && got != server.SyncInterval() || o.SyncAlways && got != 0 {
					t.Errorf("%s: %v, %v; the server syncs every %v", user, got, err, server.SyncInterval())
				}
			}
		})
	}
}
