package config

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/choria-io/prometheus-streams/internal/bounded"
)

// Where things are kept unless the file says otherwise.
const (
	defaultSpool    = "/var/lib/prometheus-streams/spool"
	defaultState    = "/var/lib/prometheus-streams/state"
	defaultEmbedded = "/var/lib/prometheus-streams/embedded"
)

// Stream is one block poller_stream or receiver_stream: where a stream is and how to get at it.
type Stream struct {
	URLs    URLs   `yaml:"urls,omitempty"`
	Context string `yaml:"context,omitempty"`
	Topic   string `yaml:"topic"`
	// ClientID names the durables of a receiver and the client on NATS Streaming. Its default has the role and the identity in it.
	ClientID string `yaml:"client_id"`
	// Name of the JetStream stream, by default made of the topic; exactly one of Name and ClusterID is set.
	Name      string `yaml:"stream,omitempty"`
	ClusterID string `yaml:"cluster_id,omitempty"`

	TLS          *TLS   `yaml:"tls,omitempty"`
	TLSFirst     bool   `yaml:"tls_first,omitempty"`
	Credentials  string `yaml:"credentials,omitempty"`
	NKeySeedFile string `yaml:"nkey_seed_file,omitempty"`
	User         string `yaml:"user,omitempty"`
	Password     Secret `yaml:"password,omitempty"`
	PasswordFile string `yaml:"password_file,omitempty"`
	Token        Secret `yaml:"token,omitempty"`
	TokenFile    string `yaml:"token_file,omitempty"`
	InboxPrefix  string `yaml:"inbox_prefix,omitempty"`
	ProxyURL     URL    `yaml:"proxy_url,omitempty"`
	Domain       string `yaml:"domain,omitempty"`

	StreamConfig StreamConfig `yaml:"stream_config"`
}

func (s *Stream) defaults() {
	s.Topic = "prometheus"
	s.StreamConfig = StreamConfig{MaxAge: Age(24 * time.Hour), Replicas: 1}
}

// ReadPassword gives the password, from its file if it is in one. A file is read each time, so that a changed one counts
// at the next connection.
func (s *Stream) ReadPassword() (string, error) {
	return readSecret("password_file", s.Password, s.PasswordFile)
}

// ReadToken gives the token, from its file if it is in one.
func (s *Stream) ReadToken() (string, error) { return readSecret("token_file", s.Token, s.TokenFile) }

// maxSecret bounds a file with a password or a token.
const maxSecret = 64 << 10

func readSecret(key string, secret Secret, file string) (string, error) {
	if file == "" {
		return string(secret), nil
	}
	data, err := bounded.ReadFile(file, maxSecret)
	if errors.As(err, new(*bounded.TooLargeError)) {
		return "", fmt.Errorf("read %s: %s is no secret: more than %d bytes", key, file, maxSecret)
	}
	if err != nil {
		return "", fmt.Errorf("read %s: %w", key, err)
	}
	text := strings.TrimSpace(string(data))
	if text == "" {
		return "", fmt.Errorf("read %s: %w", key, errors.New(file+" is empty"))
	}
	return text, nil
}

// StreamConfig says how a stream of frames is made, by those who may make one.
type StreamConfig struct {
	MaxAge Age `yaml:"max_age"`
	// MaxBytes of the stream; 0 is no limit but that of the server.
	MaxBytes Size `yaml:"max_bytes"`
	Replicas int  `yaml:"replicas"`
}

// ReceiverStream is a Stream to receive from.
type ReceiverStream struct {
	Stream `yaml:",inline"`
	// Subject is the consumer's filter; {publisher} says which token names the publisher.
	Subject string `yaml:"subject"`
	// SchemasStream is the stream with the schemas and SchemasSubject how they are addressed there; the id is the last token.
	SchemasStream  string `yaml:"schemas_stream"`
	SchemasSubject string `yaml:"schemas_subject"`
}

// ReceiverStreams are one or more blocks.
type ReceiverStreams []ReceiverStream

// TLS is 1.0's tls block: certificates of a Puppet CA, or three files.
type TLS struct {
	Identity string `yaml:"identity,omitempty"`
	SSLDir   string `yaml:"ssl_dir,omitempty"`
	// Scheme is puppet or manual; file, another name for manual, is turned into it.
	Scheme string `yaml:"scheme"`
	CA     string `yaml:"ca,omitempty"`
	Cert   string `yaml:"cert,omitempty"`
	Key    string `yaml:"key,omitempty"`
	Cache  string `yaml:"cache,omitempty"`
}

// Management is the block of the circuit breaker, in the forms of the seed and of 1.0.
type Management struct {
	Identity   string   `yaml:"identity,omitempty"`
	Collective string   `yaml:"collective,omitempty"`
	Brokers    []string `yaml:"brokers,omitempty"`
	TLS        *TLS     `yaml:"tls,omitempty"`

	Name     string          `yaml:"name,omitempty"`
	Logfile  string          `yaml:"logfile,omitempty"`
	Loglevel string          `yaml:"loglevel,omitempty"`
	Auth     *ManagementAuth `yaml:"auth,omitempty"`

	Micro      bool   `yaml:"micro,omitempty"`
	WhenPaused string `yaml:"when_paused,omitempty"`
	Remember   bool   `yaml:"remember,omitempty"`

	// LifecycleEvents tells whether Choria's events are published on the connection of the stream; nil means so.
	LifecycleEvents *bool `yaml:"lifecycle_events,omitempty"`
}

// ManagementAuth says who may do what.
type ManagementAuth struct {
	Insecure bool     `yaml:"insecure,omitempty"`
	Full     []string `yaml:"full,omitempty"`
	ReadOnly []string `yaml:"read_only,omitempty" alias:"ro"`
}

// Poller says how the poller scrapes and bundles.
type Poller struct {
	// ScrapeConcurrency bounds scrapes at the same time; 0 is no bound.
	ScrapeConcurrency int `yaml:"scrape_concurrency"`
	// SampleLimit bounds the samples of one scrape; 0 is no bound.
	SampleLimit int `yaml:"sample_limit"`
	// SeriesLimit bounds the series of all targets together; nil is as many as the memory holds, 0 is no bound.
	SeriesLimit *int `yaml:"series_limit,omitempty"`
	// BodyMemoryLimit bounds the memory of the expositions that are read at the same time; nil is a quarter of what the
	// process may use, 0 is no bound.
	BodyMemoryLimit *Size `yaml:"body_memory_limit,omitempty"`
	FlushSize       Size  `yaml:"flush_size"`
	// FlushAge is how long a bundle waits for more frames; nil is min(1s, interval/50).
	FlushAge         *Duration `yaml:"flush_age,omitempty"`
	KeyframeInterval Duration  `yaml:"keyframe_interval"`
	Format1Report    bool      `yaml:"format1_report"`
}

func (p *Poller) defaults() {
	*p = Poller{FlushSize: 32 * KiB, KeyframeInterval: Duration(5 * time.Minute), Format1Report: true}
}

// Spool says where and how long messages wait at the edge until the stream has them.
type Spool struct {
	Directory string `yaml:"directory"`
	MaxSize   Size   `yaml:"max_size"`
	// MaxAge of what waits; 0 is any.
	MaxAge Age `yaml:"max_age"`
	// WhenFull is drop_oldest or stop_scraping.
	WhenFull string `yaml:"when_full"`
	// Sync is how often the disk is told to keep what it got; 0 (in the file also "always") is each time.
	Sync Sync `yaml:"sync"`
	// ForwardLimit in bytes each second; 0 is none.
	ForwardLimit Size `yaml:"forward_limit"`
	// RetainAfterAck keeps what the stream acknowledged for this long; nil asks the stream.
	RetainAfterAck *Duration `yaml:"retain_after_ack,omitempty"`
	// Order is oldest_first or fresh_first.
	Order string `yaml:"order"`

	// DirectorySet tells that the file names another directory than the default: then it has to be writable.
	DirectorySet bool `yaml:"-"`
}

func (s *Spool) defaults() {
	*s = Spool{
		Directory: defaultSpool, MaxSize: GiB, WhenFull: "drop_oldest",
		Sync: Sync(time.Second), Order: "oldest_first",
	}
}

// Receiver says what a receiver keeps and whom it listens to.
type Receiver struct {
	StateDirectory string `yaml:"state_directory"`
	// Publishers that are expected to be heard of.
	Publishers []string `yaml:"publishers,omitempty"`
	Limits     Limits   `yaml:"limits"`

	// StateDirectorySet tells that the file names another directory than the default: then it has to be writable.
	StateDirectorySet bool `yaml:"-"`
}

// Limits bound what a receiver holds and how long it waits.
type Limits struct {
	// HoleAge and HoleBundles are how long a lane waits for a bundle that is missing.
	HoleAge     Duration `yaml:"hole_age"`
	HoleBundles int      `yaml:"hole_bundles"`
	// SchemaAge is how long a lane waits for a schema that the streams say they do not have.
	SchemaAge Duration `yaml:"schema_age"`
	// HeldBytes bounds the messages that are received and not yet done.
	HeldBytes Size `yaml:"held_bytes"`
	// Lanes bounds the lanes of all publishers that are known at a time.
	Lanes int `yaml:"lanes"`
	// StateBytes bounds the memory of what is kept of targets to decode their frames, for each sink; 0 takes it from the
	// memory limit. PublisherStateBytes bounds that of one publisher; 0 is no limit of its own.
	StateBytes          Size `yaml:"state_bytes"`
	PublisherStateBytes Size `yaml:"publisher_state_bytes"`
	// Targets, Series and PublisherSeries (those of one publisher) bound what a gateway keeps. 0 is no limit, for
	// Targets the sink's own.
	Targets         int `yaml:"targets"`
	Series          int `yaml:"series"`
	PublisherSeries int `yaml:"publisher_series"`
}

func (r *Receiver) defaults() {
	*r = Receiver{
		StateDirectory: defaultState,
		Limits: Limits{
			HoleAge: Duration(30 * time.Second), HoleBundles: 128, SchemaAge: Duration(30 * time.Second),
			HeldBytes: 256 * MiB, Lanes: 20000,
		},
	}
}

// Gateway is our own scrape endpoint for what was received.
type Gateway struct {
	// StaleAfter is when a silent target vanishes; nil is max(3 intervals + 30s, 5m).
	StaleAfter *Duration `yaml:"stale_after,omitempty"`
	// Timestamps tells whether the time of the scrape at the edge is shown.
	Timestamps     bool           `yaml:"timestamps"`
	PublisherLabel PublisherLabel `yaml:"publisher_label"`
}

// Web is the HTTP server of this process.
type Web struct {
	ListenAddress string `yaml:"listen_address,omitempty"`
	// ConfigFile is exporter-toolkit's web configuration: TLS and users.
	ConfigFile      string `yaml:"config_file,omitempty"`
	EnableLifecycle bool   `yaml:"enable_lifecycle"`
}

// Embedded is the stream inside a standalone process.
type Embedded struct {
	Directory string `yaml:"directory"`
	// Listen is where other NATS clients may connect; "" is nowhere.
	Listen string `yaml:"listen,omitempty"`
	// MaxBytes of the stream on disk.
	MaxBytes Size `yaml:"max_bytes"`
}

func (e *Embedded) defaults() {
	*e = Embedded{Directory: defaultEmbedded, MaxBytes: GiB}
}
