package main

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/alecthomas/kingpin/v2"

	"github.com/choria-io/prometheus-streams/internal/config"
	"github.com/choria-io/prometheus-streams/internal/redact"
)

// defaultConfig is where the packages put the configuration.
const defaultConfig = "/etc/prometheus-streams/prometheus-streams.yaml"

// Flags are the flags that all commands know, before or after the command.
type Flags struct {
	config, configFile string

	// PrometheusConfig is a Prometheus file whose scrape configs a poller takes over, or empty.
	PrometheusConfig string

	PIDFile   string
	Debug     bool
	LogLevel  string // debug, info, warn, error or ""
	LogFormat string // logfmt, json or ""
	Web       WebFlags

	// values of all flags by name, as they were given, for people to see.
	values map[string]string
}

// WebFlags say how the HTTP server listens and under which address people reach it.
type WebFlags struct {
	ListenAddress   string
	ConfigFile      string
	EnableLifecycle bool
	EnablePprof     bool
	ExternalURL     string
	// RoutePrefix of all paths; check sets it to the path of ExternalURL if it is not given. Without a trailing slash; "" is the root.
	RoutePrefix string
}

// application declares the flags and the commands.
func application(f *Flags) (*kingpin.Application, []command) {
	app := kingpin.New("prometheus-streams", "Prometheus metrics through NATS streams.")
	app.HelpFlag.Short('h')
	app.Flag("config", "The configuration file ("+defaultConfig+").").PlaceHolder("FILE").StringVar(&f.config)
	app.Flag("config.file", "The same as --config.").PlaceHolder("FILE").StringVar(&f.configFile)
	app.Flag("prometheus.config", "A Prometheus file whose scrape configs and external labels a poller takes over.").PlaceHolder("FILE").StringVar(&f.PrometheusConfig)
	app.Flag("pid", "File to write the process id to while running.").PlaceHolder("FILE").StringVar(&f.PIDFile)
	app.Flag("debug", "Log with the level debug.").BoolVar(&f.Debug)
	app.Flag("log.level", "Log level: debug, info, warn or error; stronger than --debug and the file.").PlaceHolder("LEVEL").StringVar(&f.LogLevel)
	app.Flag("log.format", "Log format: logfmt or json.").PlaceHolder("FORMAT").StringVar(&f.LogFormat)
	app.Flag("web.listen-address", "Address to listen on for HTTP; stronger than monitor_port and web.listen_address.").PlaceHolder("HOST:PORT").StringVar(&f.Web.ListenAddress)
	app.Flag("web.config.file", "File with TLS and users for HTTP, as for other Prometheus exporters.").PlaceHolder("FILE").StringVar(&f.Web.ConfigFile)
	app.Flag("web.enable-lifecycle", "Allow POST /-/reload, /-/pause, /-/resume and /-/switch.").BoolVar(&f.Web.EnableLifecycle)
	app.Flag("web.enable-pprof", "Serve profiles under /debug/pprof/.").BoolVar(&f.Web.EnablePprof)
	app.Flag("web.external-url", "URL under which the HTTP server is reached from outside.").PlaceHolder("URL").StringVar(&f.Web.ExternalURL)
	app.Flag("web.route-prefix", "Prefix of all HTTP paths; the path of --web.external-url if not given.").PlaceHolder("PATH").StringVar(&f.Web.RoutePrefix)

	check := app.Command("check", "Check a configuration or what it points to.")
	return app, append([]command{
		pollerCommand(app),
		receiverCommand(app),
		standaloneCommand(app),
		checkConfigCommand(check),
		checkTargetsCommand(check),
		checkScrapeCommand(check),
		checkStreamCommand(check),
		checkSinksCommand(check),
		inspectCommand(app),
		enrollCommand(app),
		versionCommand(app),
	}, ctlCommands(app)...)
}

// parse gives the command that args name; ended tells that they were answered already, by --help or --version. kingpin
// takes for granted that its terminate does not come back, so here it is a panic that does not leave this function.
func parse(app *kingpin.Application, args []string) (name string, ended bool, err error) {
	type end struct{}
	defer func() {
		switch r := recover().(type) {
		case nil:
		case end:
			ended = true
		default:
			panic(r)
		}
	}()
	app.Terminate(func(int) { panic(end{}) })
	name, err = app.Parse(args)
	return name, false, err
}

// check refuses values that no command could use.
func (f *Flags) check() error {
	if f.config != "" && f.configFile != "" && f.config != f.configFile {
		return errors.New("--config and --config.file name two files")
	}
	if f.LogLevel = strings.ToLower(f.LogLevel); !slices.Contains([]string{"", "debug", "info", "warn", "error"}, f.LogLevel) {
		return fmt.Errorf("--log.level %q is not debug, info, warn or error", f.LogLevel)
	}
	if !slices.Contains([]string{"", "logfmt", "json"}, f.LogFormat) {
		return fmt.Errorf("--log.format %q is not logfmt or json", f.LogFormat)
	}
	if f.Web.ExternalURL != "" {
		u, err := url.Parse(f.Web.ExternalURL)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return fmt.Errorf("--web.external-url %q is not an http:// or https:// URL", redact.Text(f.Web.ExternalURL))
		}
		if f.Web.RoutePrefix == "" {
			f.Web.RoutePrefix = u.Path
		}
	}
	if f.Web.RoutePrefix = strings.Trim(f.Web.RoutePrefix, "/"); f.Web.RoutePrefix != "" {
		f.Web.RoutePrefix = "/" + f.Web.RoutePrefix
	}
	return nil
}

// ConfigPath is the configuration file that the flags name, or the default one.
func (f *Flags) ConfigPath() string {
	switch {
	case f.config != "":
		return f.config
	case f.configFile != "":
		return f.configFile
	}
	return defaultConfig
}

// load reads the configuration; what the flags say goes before what the file says.
func (f *Flags) load() (*config.Config, []config.Warning, error) {
	c, warnings, err := config.Load(f.ConfigPath())
	if err != nil {
		return nil, warnings, err
	}
	if f.PrometheusConfig != "" {
		more, err := c.AddPrometheus(f.PrometheusConfig)
		warnings = append(warnings, more...)
		if err != nil {
			return nil, warnings, err
		}
	}
	if f.Web.ListenAddress != "" {
		c.Web.ListenAddress = f.Web.ListenAddress
	}
	if f.Web.ConfigFile != "" {
		c.Web.ConfigFile = f.Web.ConfigFile
	}
	c.Web.EnableLifecycle = c.Web.EnableLifecycle || f.Web.EnableLifecycle
	return c, warnings, nil
}

// loadRole reads the configuration as one role uses it.
func (f *Flags) loadRole(role config.Role) (*config.Config, []config.Warning, error) {
	whole, warnings, err := f.load()
	if err != nil {
		return nil, warnings, err
	}
	c, more, err := whole.ForRole(role)
	return c, append(warnings, more...), err
}
