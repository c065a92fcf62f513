module github.com/choria-io/prometheus-streams/e2e/servers/nats-streaming-server-oldest

go 1.26.0

tool github.com/nats-io/nats-streaming-server

require (
	github.com/armon/go-metrics v0.4.1 // indirect
	github.com/boltdb/bolt v1.3.1 // indirect
	github.com/go-sql-driver/mysql v1.4.0 // indirect
	github.com/gogo/protobuf v1.1.1 // indirect
	github.com/golang/protobuf v1.5.3 // indirect
	github.com/hashicorp/go-immutable-radix v1.3.1 // indirect
	github.com/hashicorp/go-msgpack v0.5.3 // indirect
	github.com/hashicorp/golang-lru v1.0.2 // indirect
	github.com/hashicorp/raft v1.0.0 // indirect
	github.com/lib/pq v1.0.0 // indirect
	github.com/nats-io/gnatsd v1.1.0 // indirect
	github.com/nats-io/go-nats v1.5.0 // indirect
	github.com/nats-io/go-nats-streaming v0.4.0 // indirect
	github.com/nats-io/nats-streaming-server v0.10.0 // indirect
	github.com/nats-io/nuid v1.0.0 // indirect
	golang.org/x/crypto v0.15.0 // indirect
	golang.org/x/sys v0.14.0 // indirect
	google.golang.org/appengine v1.6.1 // indirect
)
