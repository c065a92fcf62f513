//go:build puppet

package puppet

// The configuration of the CA. DIR is its folder and PORT its port. The packaged one cannot be read by everybody.
const puppetConf = `[main]
confdir = DIR/conf
ssldir = DIR/ssl
vardir = DIR/var
rundir = DIR/run
logdir = DIR/log
codedir = DIR/conf/code
server = localhost
serverport = PORT
certname = localhost
dns_alt_names = localhost,127.0.0.1
keylength = 2048
[server]
cadir = DIR/ca
autosign = DIR/conf/autosign.conf
ca_ttl = 1d
`

const serverConf = `global: { logging-config: DIR/server/logback.xml }
certificate-authority: {}
webserver: { client-auth: want, ssl-host: 127.0.0.1, ssl-port: PORT }
metrics: { server-id: localhost, registries: { puppetserver: { reporters: { jmx: { enabled: false } } } } }
jruby-puppet: {
  ruby-load-path: [/usr/lib/puppetserver/ruby/vendor_ruby]
  gem-home: DIR/var/jruby-gems
  gem-path: [${jruby-puppet.gem-home}, "/usr/lib/puppetserver/vendored-jruby-gems"]
  server-conf-dir: DIR/conf
  server-code-dir: DIR/conf/code
  server-var-dir: DIR/var
  server-run-dir: DIR/run
  server-log-dir: DIR/log
  max-active-instances: 1
}
web-router-service: {
  "puppetlabs.services.ca.certificate-authority-service/certificate-authority-service": "/puppet-ca"
  "puppetlabs.services.master.master-service/master-service": "/puppet"
  "puppetlabs.services.puppet-admin.puppet-admin-service/puppet-admin-service": "/puppet-admin-api"
  "puppetlabs.trapperkeeper.services.status.status-service/status-service": "/status"
  "puppetlabs.trapperkeeper.services.metrics.metrics-service/metrics-webservice": "/metrics"
}
`

// authConf lets everybody ask the CA what an agent asks, and the operator's commands do the rest.
const authConf = `authorization: { version: 1, rules: [
  { name: certificate, sort-order: 500, allow-unauthenticated: true
    match-request: { path: "/puppet-ca/v1/certificate/", type: path, method: get } }
  { name: lists, sort-order: 500, allow-unauthenticated: true
    match-request: { path: "/puppet-ca/v1/certificate_revocation_list/ca", type: path, method: get } }
  { name: request, sort-order: 500, allow-unauthenticated: true
    match-request: { path: "/puppet-ca/v1/certificate_request", type: path, method: [get, put] } }
  { name: status, sort-order: 500, allow: { extensions: { pp_cli_auth: "true" } }
    match-request: { path: "/puppet-ca/v1/certificate_status", type: path, method: [get, put, delete] } }
  { name: statuses, sort-order: 500, allow: { extensions: { pp_cli_auth: "true" } }
    match-request: { path: "/puppet-ca/v1/certificate_statuses", type: path, method: get } }
  { name: clean, sort-order: 500, allow: { extensions: { pp_cli_auth: "true" } }
    match-request: { path: "/puppet-ca/v1/clean", type: path, method: put } }
  { name: running, sort-order: 500, allow-unauthenticated: true
    match-request: { path: "/status/v1/simple", type: path, method: get } }
  { name: nothing more, sort-order: 999, deny: "*", match-request: { path: "/", type: path } }
] }
`

const bootstrap = `puppetlabs.services.request-handler.request-handler-service/request-handler-service
puppetlabs.services.jruby.jruby-puppet-service/jruby-puppet-pooled-service
puppetlabs.services.jruby-pool-manager.jruby-pool-manager-service/jruby-pool-manager-service
puppetlabs.services.puppet-profiler.puppet-profiler-service/puppet-profiler-service
puppetlabs.trapperkeeper.services.webserver.jetty9-service/jetty9-service
puppetlabs.trapperkeeper.services.webrouting.webrouting-service/webrouting-service
puppetlabs.services.config.puppet-server-config-service/puppet-server-config-service
puppetlabs.services.master.master-service/master-service
puppetlabs.services.puppet-admin.puppet-admin-service/puppet-admin-service
puppetlabs.trapperkeeper.services.authorization.authorization-service/authorization-service
puppetlabs.services.versioned-code-service.versioned-code-service/versioned-code-service
puppetlabs.trapperkeeper.services.scheduler.scheduler-service/scheduler-service
puppetlabs.trapperkeeper.services.status.status-service/status-service
puppetlabs.trapperkeeper.services.metrics.metrics-service/metrics-service
puppetlabs.trapperkeeper.services.metrics.metrics-service/metrics-webservice
puppetlabs.services.jruby.jruby-metrics-service/jruby-metrics-service
puppetlabs.services.ca.certificate-authority-service/certificate-authority-service
puppetlabs.trapperkeeper.services.watcher.filesystem-watch-service/filesystem-watch-service
`

const logback = `<configuration><appender name="O" class="ch.qos.logback.core.ConsoleAppender"><encoder><pattern>%d %-5p [%c{2}] %m%n</pattern></encoder></appender>
<root level="info"><appender-ref ref="O"/></root></configuration>
`
