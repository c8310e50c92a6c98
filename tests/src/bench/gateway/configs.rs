//! What each proxy is configured with: the same certificates and the same upstream, and as much of the same work as it
//! has: a client certificate is demanded, an ES256 token is verified, a limit is charged that nobody reaches.

use std::{net::SocketAddr, path::Path};

use crate::{
    demo::policies::{AUDIENCE, HOST, ISSUER, SCOPE},
    workspace::Workspace,
};

/// Requests a second that a limit lets through: more than come.
const LIMIT: u32 = 1_000_000;
/// Connections that each must take.
const CONNECTIONS: u32 = 20_000;

pub(super) fn enforcer(listen: SocketAddr) -> String {
    format!(
        r#"policies: [policies]
admin: {{address: 127.0.0.1:9600}}
runtimeDir: run
log: {{level: warn, format: json}}
kernel: {{enabled: true, pins: off}}
gateway:
  workers: 1
  maxConnections: {CONNECTIONS}
  perSource: {{connections: {CONNECTIONS}, handshakes: {{rate: 1000000/s, burst: 1000000}}}}
  listeners:
    - name: bench
      address: "{listen}"
      tls: {{certificate: server.pem, key: server-key.pem, clientCa: ca.pem, clientCertificates: required}}
      timeouts: {{idle: 10m}}
"#
    )
}

pub(super) fn enforcer_policy(origin: SocketAddr) -> String {
    format!(
        r#"apiVersion: enforcer.dev/v1
kind: Issuer
metadata: {{name: bench}}
spec:
  issuer: {ISSUER}
  jwks: {{file: ../jwks.json}}
  audiences: [{AUDIENCE}]
  algorithms: [ES256]
---
apiVersion: enforcer.dev/v1
kind: Service
metadata: {{name: origin}}
spec: {{endpoints: ["http://{origin}"]}}
---
apiVersion: enforcer.dev/v1
kind: Route
metadata: {{name: bench}}
spec:
  hosts: [{HOST}]
  rules:
    - match: {{path: {{prefix: /}}, methods: [GET, POST]}}
      require:
        mtls: {{spiffe: ["spiffe://lab.example/ns/shop/sa/*"]}}
        token: {{issuer: bench, scopes: ["{SCOPE}"]}}
      limits:
        - {{per: [token.sub], rate: {LIMIT}/s}}
      service: origin
      maxBody: 2MiB
"#
    )
}

pub(super) fn nginx(listen: SocketAddr, origin: SocketAddr, folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "daemon off;
user root;
worker_processes 1;
worker_rlimit_nofile 65536;
error_log stderr warn;
pid {folder}/nginx.pid;
events {{ worker_connections 45000; }}
http {{
  access_log off;
  keepalive_requests 100000000;
  keepalive_timeout 600s;
  client_max_body_size 2m;
  client_body_temp_path {folder}/nginx-body;
  proxy_temp_path {folder}/nginx-proxy;
  fastcgi_temp_path {folder}/nginx-fastcgi;
  uwsgi_temp_path {folder}/nginx-uwsgi;
  scgi_temp_path {folder}/nginx-scgi;
  limit_req_zone $binary_remote_addr zone=clients:10m rate={LIMIT}r/s;
  upstream origin {{ server {origin}; keepalive 128; keepalive_requests 100000000; }}
  server {{
    listen {listen} ssl http2 backlog=4096;
    server_name {HOST};
    http2_max_requests 100000000;
    ssl_certificate {folder}/server.pem;
    ssl_certificate_key {folder}/server-key.pem;
    ssl_client_certificate {folder}/ca.pem;
    ssl_verify_client on;
    ssl_protocols TLSv1.2 TLSv1.3;
    location / {{
      limit_req zone=clients burst=1000000 nodelay;
      proxy_pass http://origin;
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_request_buffering off;
    }}
  }}
}}
"
    )
}

pub(super) fn haproxy(listen: SocketAddr, origin: SocketAddr) -> String {
    format!(
        r#"global
  nbthread 1
  maxconn {CONNECTIONS}
  no strict-limits
  log stderr local0 warning
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 30s
  timeout http-keep-alive 600s
frontend edge
  bind {listen} ssl crt server-both.pem ca-file ca.pem verify required alpn h2,http/1.1 backlog 4096
  stick-table type ip size 100k expire 1m store http_req_rate(1s)
  http-request track-sc0 src
  http-request deny deny_status 429 if {{ sc_http_req_rate(0) gt {LIMIT} }}
  http-request set-var(txn.bearer) http_auth_bearer
  http-request set-var(txn.alg) var(txn.bearer),jwt_header_query('$.alg')
  http-request deny unless {{ var(txn.alg) -m str ES256 }}
  http-request deny unless {{ var(txn.bearer),jwt_payload_query('$.iss') -m str {ISSUER} }}
  http-request deny unless {{ var(txn.bearer),jwt_payload_query('$.aud') -m str {AUDIENCE} }}
  http-request deny unless {{ var(txn.bearer),jwt_verify(txn.alg,"token.pem") -m int 1 }}
  http-request set-header x-forwarded-for %[src]
  default_backend origin
backend origin
  http-reuse always
  server origin {origin}
"#
    )
}

pub(super) fn envoy(listen: SocketAddr, origin: SocketAddr, workspace: &Workspace) -> String {
    let folder = workspace.path().display();
    let (address, port) = (listen.ip(), listen.port());
    let (origin_address, origin_port) = (origin.ip(), origin.port());
    format!(
        r#"static_resources:
  listeners:
    - name: edge
      address: {{socket_address: {{address: {address}, port_value: {port}}}}}
      tcp_backlog_size: 4096
      filter_chains:
        - transport_socket:
            name: envoy.transport_sockets.tls
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
              require_client_certificate: true
              common_tls_context:
                alpn_protocols: [h2, http/1.1]
                tls_params: {{tls_minimum_protocol_version: TLSv1_2, tls_maximum_protocol_version: TLSv1_3}}
                tls_certificates:
                  - certificate_chain: {{filename: {folder}/server.pem}}
                    private_key: {{filename: {folder}/server-key.pem}}
                validation_context: {{trusted_ca: {{filename: {folder}/ca.pem}}}}
          filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: edge
                use_remote_address: true
                normalize_path: true
                merge_slashes: true
                path_with_escaped_slashes_action: REJECT_REQUEST
                request_headers_timeout: 10s
                http2_protocol_options: {{max_concurrent_streams: 100}}
                forward_client_cert_details: SANITIZE_SET
                set_current_client_cert_details: {{uri: true}}
                route_config:
                  virtual_hosts:
                    - name: edge
                      domains: ["{HOST}", "{HOST}:*"]
                      routes:
                        - match: {{prefix: /}}
                          route:
                            cluster: origin
                            retry_policy: {{retry_on: "connect-failure,refused-stream,reset", num_retries: 2}}
                http_filters:
                  - name: envoy.filters.http.jwt_authn
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication
                      providers:
                        bench:
                          issuer: {ISSUER}
                          audiences: [{AUDIENCE}]
                          local_jwks: {{filename: {folder}/jwks.json}}
                          jwt_cache_config: {{jwt_cache_size: 1000}}
                          forward: true
                          payload_in_metadata: claims
                          claim_to_headers: [{{header_name: x-subject, claim_name: sub}}]
                      rules: [{{match: {{prefix: /}}, requires: {{provider_name: bench}}}}]
                  - name: envoy.filters.http.rbac
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
                      rules:
                        policies:
                          bench:
                            permissions:
                              - and_rules:
                                  rules:
                                    - url_path: {{path: {{prefix: /}}}}
                                    - or_rules:
                                        rules:
                                          - header: {{name: ":method", string_match: {{exact: GET}}}}
                                          - header: {{name: ":method", string_match: {{exact: POST}}}}
                            principals:
                              - and_ids:
                                  ids:
                                    - authenticated: {{principal_name: {{prefix: "spiffe://lab.example/ns/shop/sa/"}}}}
                                    - metadata:
                                        filter: envoy.filters.http.jwt_authn
                                        path: [{{key: claims}}, {{key: scope}}]
                                        value: {{string_match: {{contains: "{SCOPE}"}}}}
                  - name: envoy.filters.http.local_ratelimit
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
                      stat_prefix: limit
                      token_bucket: {{max_tokens: {LIMIT}, tokens_per_fill: {LIMIT}, fill_interval: 1s}}
                      filter_enabled: {{default_value: {{numerator: 100}}}}
                      filter_enforced: {{default_value: {{numerator: 100}}}}
                      enable_x_ratelimit_headers: DRAFT_VERSION_03
                      rate_limits: [{{actions: [{{request_headers: {{header_name: x-subject, descriptor_key: subject}}}}]}}]
                      descriptors:
                        - entries: [{{key: subject}}]
                          token_bucket: {{max_tokens: {LIMIT}, tokens_per_fill: {LIMIT}, fill_interval: 1s}}
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
    - name: origin
      type: STATIC
      connect_timeout: 5s
      circuit_breakers: {{thresholds: [{{retry_budget: {{budget_percent: {{value: 20}}, min_retry_concurrency: 3}}}}]}}
      load_assignment:
        cluster_name: origin
        endpoints:
          - lb_endpoints:
              - endpoint: {{address: {{socket_address: {{address: {origin_address}, port_value: {origin_port}}}}}}}
"#
    )
}

pub(super) fn caddy(listen: SocketAddr, origin: SocketAddr) -> String {
    let (address, port) = (listen.ip(), listen.port());
    format!(
        "{{
	admin off
	auto_https off
	storage file_system caddy
	log {{
		level WARN
	}}
}}
https://{HOST}:{port} {{
	bind {address}
	tls server.pem server-key.pem {{
		client_auth {{
			mode require_and_verify
			trust_pool file ca.pem
		}}
	}}
	reverse_proxy {origin}
}}
"
    )
}
