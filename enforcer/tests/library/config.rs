//! The agent's configuration: what it means, and what is refused, all at once and at its place.

use std::{
    fs,
    net::SocketAddr,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::LazyLock,
    time::Duration,
};

use enforcer::{
    check,
    config::{
        Authority, AuthorityId, Bounds, CertificateFiles, ClientTrust, Clients, Config, Depth, Destination,
        Ends, LogFormat, OnStop, Revocation, Shedding, Unsure, XdpMode,
    },
};
use enforcer_model::Attribute;
use enforcer_policy::Problem;
use tempfile::TempDir;

const MARK: char = '▶';

const FULL: &str = r#"
policies: [policies]
admin: {address: 127.0.0.1:9601}
runtimeDir: /run/elsewhere
stateDir: /var/lib/elsewhere
log: {level: debug, format: text}
kernel:
  enabled: true
  xdp: native
  management: [10.0.0.0/24]
  sketchMemory: 1MiB
  maxFlows: 1000
  pins: /sys/fs/bpf/edge
  onStop: detach
  deadMan: 10s
  deadManKeepsDenials: false
  deadManKeepsCookies: true
gateway:
  workers: 2
  drain: 20s
  maxConnections: 500
  zone: eu-1a
  perSource: {connections: 100, handshakes: {rate: 20/s, burst: 60}}
  shedding: {low: 50ms, normal: 1s}
  listeners:
    - name: edge
      address: "0.0.0.0:8443"
      tls:
        certificate: server.pem
        key: server.key
        certificates: [{certificate: server.pem, key: server.key}]
        clientCa: ca.pem
        clientCertificates: optional
        crls: {files: crl.pem, unknown: allow, depth: leaf}
      handshakes: {concurrent: 64, perSource: {rate: 5/s}}
      timeouts: {handshake: 1s, header: 2s, idle: 3s}
    - {name: local, address: "[::1]:8080", proxyProtocol: {from: [10.0.0.0/24, "fd00::/64"]}}
  authFailures: {rate: 10/m, denyFor: 5m}
adapt: {interval: 500ms, latency: 100ms}
"#;

/// A certificate and its key.
static PAIR: LazyLock<(String, String)> = LazyLock::new(pair);
static OTHER: LazyLock<(String, String)> = LazyLock::new(pair);

fn pair() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["api.example.com".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

/// A directory with everything that [`FULL`] names, and the text as its configuration.
fn directory(text: &str) -> TempDir {
    let directory = TempDir::new().unwrap();
    fs::create_dir(directory.path().join("policies")).unwrap();
    for (name, content) in [
        ("server.pem", &PAIR.0),
        ("server.key", &PAIR.1),
        ("other.key", &OTHER.1),
        ("ca.pem", &String::new()),
        ("crl.pem", &String::new()),
    ] {
        fs::write(directory.path().join(name), content).unwrap();
    }
    fs::write(directory.path().join("agent.yaml"), text).unwrap();
    directory
}

/// The problems of a configuration, warnings included.
fn problems(text: &str) -> Vec<Problem> {
    let directory = directory(text);
    match Config::load(&directory.path().join("agent.yaml")) {
        Ok(config) => config.warnings,
        Err(problems) => problems.into_vec(),
    }
}

#[test]
fn everything_that_is_written_is_meant() {
    let directory = directory(FULL);
    let path = |name: &str| directory.path().join(name);
    let config = Config::load(&path("agent.yaml")).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    assert_eq!(config.policies, [path("policies")]);
    assert_eq!(
        config.admin.address,
        "127.0.0.1:9601".parse::<SocketAddr>().unwrap()
    );
    assert_eq!(config.runtime_dir.to_str(), Some("/run/elsewhere"));
    assert_eq!(config.state_dir.to_str(), Some("/var/lib/elsewhere"));
    assert_eq!(
        (config.log.level, config.log.format),
        (tracing::Level::DEBUG, LogFormat::Text)
    );
    assert_eq!(
        (config.kernel.xdp, config.kernel.max_flows),
        (XdpMode::Native, 1000)
    );
    assert_eq!(config.kernel.sketch_memory.bytes(), 1 << 20);
    assert_eq!(config.kernel.pins.as_deref(), Some(Path::new("/sys/fs/bpf/edge")));
    assert_eq!(
        (
            config.kernel.on_stop,
            config.kernel.dead_man,
            config.kernel.dead_man_keeps_denials,
            config.kernel.dead_man_keeps_cookies
        ),
        (OnStop::Detach, Some(Duration::from_secs(10)), false, true)
    );
    assert_eq!(config.kernel.management, ["10.0.0.0/24".parse().unwrap()]);
    assert_eq!(config.gateway.workers.map(usize::from), Some(2));
    assert_eq!(config.gateway.zone.as_deref(), Some("eu-1a"));
    assert_eq!(
        (config.gateway.drain, config.gateway.max_connections),
        (Duration::from_secs(20), 500)
    );
    let [edge, local] = &config.gateway.listeners[..] else {
        panic!("{:?}", config.gateway.listeners);
    };
    let tls = edge.tls.as_ref().unwrap();
    assert_eq!(
        tls.certificates,
        vec![
            CertificateFiles {
                certificate: path("server.pem"),
                key: path("server.key")
            };
            2
        ]
    );
    let revocation = Revocation {
        lists: vec![path("crl.pem")],
        unknown: Unsure::Allow,
        expired: Unsure::Deny,
        depth: Depth::Leaf,
    };
    assert_eq!(
        tls.clients,
        Clients::Optional(ClientTrust {
            authorities: vec![Authority {
                id: None,
                file: path("ca.pem"),
                bounds: None,
            }],
            revocation: Some(revocation)
        })
    );
    assert_eq!(edge.handshakes.concurrent, NonZeroUsize::new(64));
    let own = edge.handshakes.per_source.unwrap();
    assert_eq!((own.rate.to_string(), own.burst.get()), ("5/s".to_owned(), 5));
    let per_source = config.gateway.per_source;
    assert_eq!(per_source.connections.get(), 100);
    let handshakes = per_source.handshakes.unwrap();
    assert_eq!(
        (handshakes.rate.to_string(), handshakes.burst.get()),
        ("20/s".to_owned(), 60)
    );
    assert_eq!(
        config.gateway.shedding,
        Shedding {
            low: Some(Duration::from_millis(50)),
            normal: Some(Duration::from_secs(1)),
        }
    );
    assert_eq!(edge.timeouts.header, Duration::from_secs(2));
    assert!(local.tls.is_none() && local.address.ip().is_loopback());
    let failures = config.gateway.auth_failures.unwrap();
    assert_eq!(
        (failures.rate.to_string(), failures.deny_for),
        ("10/m".to_owned(), Duration::from_secs(300))
    );
    assert_eq!(
        (failures.ends, failures.attempts.to_string().as_str()),
        (Ends::Gateway, "600/m")
    );
    assert_eq!(per_source.attempts, Some(failures.attempts));
    assert_eq!(config.adapt.interval, Duration::from_millis(500));
}

#[test]
fn little_is_enough() {
    let directory = directory("policies: policies\n");
    let config =
        Config::load(&directory.path().join("agent.yaml")).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(
        config.admin.address,
        "127.0.0.1:9600".parse::<SocketAddr>().unwrap()
    );
    assert_eq!(config.runtime_dir.to_str(), Some("/run/enforcer"));
    assert_eq!(config.state_dir, config.runtime_dir);
    assert!(config.kernel.enabled && config.gateway.listeners.is_empty());
    let per_source = config.gateway.per_source;
    assert_eq!(per_source.connections.get(), 5_000);
    let handshakes = per_source.handshakes.unwrap();
    assert_eq!(
        (handshakes.rate.to_string().as_str(), handshakes.burst.get()),
        ("200/s", 1_000),
        "m7_handshakes_have_a_budget_by_default"
    );
    assert_eq!(config.kernel.sketch_memory.bytes(), 4 << 20);
    assert_eq!(
        config.kernel.pins.as_deref(),
        Some(Path::new("/sys/fs/bpf/enforcer"))
    );
    assert_eq!(
        (
            config.kernel.on_stop,
            config.kernel.dead_man,
            config.kernel.dead_man_keeps_denials,
            config.kernel.dead_man_keeps_cookies
        ),
        (OnStop::Keep, Some(Duration::from_secs(30)), true, false)
    );
    assert_eq!(
        (config.gateway.workers, config.gateway.max_connections),
        (None, 10_000)
    );
    assert_eq!(config.adapt.latency, Duration::from_millis(250));
}

#[test]
fn pins_and_the_dead_man_can_be_off() {
    let directory = directory("policies: [policies]\nkernel: {pins: off, deadMan: off}\n");
    let config =
        Config::load(&directory.path().join("agent.yaml")).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!((config.kernel.pins, config.kernel.dead_man), (None, None));
}

#[test]
fn the_dead_man_waits_for_several_beats() {
    let directory = directory("policies: [policies]\nadapt: {interval: 20s}\n");
    let config =
        Config::load(&directory.path().join("agent.yaml")).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.kernel.dead_man, Some(Duration::from_secs(60)));
}

#[test]
fn the_audit_log_is_off_unless_it_is_written_down() {
    let audit = |text: &str| {
        let directory = directory(&format!("policies: [policies]\n{text}\n"));
        let path = directory.path().join("agent.yaml");
        let config = Config::load(&path).unwrap_or_else(|problems| panic!("{problems}"));
        (config.audit, directory)
    };
    assert_eq!(audit("").0, None);
    let (config, directory) = audit("audit: {file: audit.log}");
    let to = Destination::File {
        path: directory.path().join("audit.log"),
        max_size: 64 << 20,
        keep: 4,
    };
    let config = config.unwrap();
    assert_eq!((config.to, config.sample, config.per_second.get()), (to, 0, 1000));
    let (config, _) = audit("audit: {stdout: true, sample: 100, perSecond: 5}");
    let config = config.unwrap();
    assert_eq!(
        (config.to, config.sample, config.per_second.get()),
        (Destination::Stdout, 100, 5)
    );
}

#[test]
fn an_authority_without_more_means_that_certificates_are_required() {
    let directory = directory(&FULL.replace("        clientCertificates: optional\n", ""));
    let config =
        Config::load(&directory.path().join("agent.yaml")).unwrap_or_else(|problems| panic!("{problems}"));
    let tls = config.gateway.listeners[0].tls.as_ref().unwrap();
    assert!(matches!(tls.clients, Clients::Required(_)));
}

#[test]
fn each_mistake_is_said_at_its_place() {
    let tls = "tls: {certificate: server.pem, key: server.key";
    let listener = |fields: &str| format!("policies: policies\ngateway:\n  listeners:\n    - {fields}\n");
    let top = |fields: &str| format!("policies: policies\n{fields}\n");
    let cases = [
        ("▶admin: {}\n".to_owned(), "policies", "`policies` is missing"),
        (
            "policies: [▶nowhere]\n".to_owned(),
            "policies[0]",
            "nowhere does not exist",
        ),
        ("policies: ▶[]\n".to_owned(), "policies", "the list is empty"),
        (top("▶gatewya: {}"), "gatewya", "did you mean `gateway`?"),
        (
            listener("{name: a, address: '127.0.0.1:1', proxyProtocol: ▶{}}"),
            "gateway.listeners[0].proxyProtocol.from",
            "`from` is missing",
        ),
        (
            listener("{name: a, address: '127.0.0.1:1', proxyProtocol: {from: ▶[]}}"),
            "gateway.listeners[0].proxyProtocol.from",
            "the list is empty",
        ),
        (
            listener("{name: a, address: '127.0.0.1:1', proxyProtocol: {from: ▶'::/0'}}"),
            "gateway.listeners[0].proxyProtocol.from",
            "every client could say",
        ),
        (
            top("admin: {address: ▶localhost}"),
            "admin.address",
            "is no socket address",
        ),
        (
            top("log: {level: ▶verbose}"),
            "log.level",
            "trace, debug, info, warn or error",
        ),
        (top("log: {format: ▶jsn}"), "log.format", "did you mean `json`?"),
        (
            top("kernel: {enabled: ▶yes please}"),
            "kernel.enabled",
            "expected true or false",
        ),
        (
            top("kernel: {sketchMemory: ▶3MiB}"),
            "kernel.sketchMemory",
            "the next is 4096KiB",
        ),
        (
            top("kernel: {sketchMemory: ▶1GiB}"),
            "kernel.sketchMemory",
            "the next is 65536KiB",
        ),
        (
            top("kernel: {management: [▶10.0.0.1/8]}"),
            "kernel.management[0]",
            "write 10.0.0.0/8",
        ),
        (
            top("kernel: {management: [▶0.0.0.0/0]}"),
            "kernel.management[0]",
            "every source",
        ),
        (top("kernel: {maxFlows: ▶0}"), "kernel.maxFlows", "out of range"),
        (
            top("kernel: {pins: ▶/sys/fs/bpf/my.pins}"),
            "kernel.pins",
            "write a path like",
        ),
        (top("kernel: {onStop: ▶stay}"), "kernel.onStop", "keep"),
        (
            top("adapt: {interval: 2s}\nkernel: {deadMan: ▶5s}"),
            "kernel.deadMan",
            "3 times that",
        ),
        (top("kernel: {deadMan: ▶0s}"), "kernel.deadMan", "out of range"),
        (
            top("gateway: {workers: ▶0}"),
            "gateway.workers",
            "write 1 to 1024",
        ),
        (
            top("gateway: {authFailures: ▶{rate: 10/m}}"),
            "gateway.authFailures.denyFor",
            "`denyFor` is missing",
        ),
        (
            top("gateway: {authFailures: {rate: ▶10MB/m, denyFor: 5m}}"),
            "gateway.authFailures.rate",
            "a rate of bytes",
        ),
        (
            top("kernel: {enabled: false}\ngateway: {authFailures: ▶{rate: 10/m, denyFor: 5m}}"),
            "gateway.authFailures",
            "`kernel.enabled` is false",
        ),
        (
            top("audit: ▶{sample: 1}"),
            "audit",
            "it says not where records go",
        ),
        (
            top("audit: ▶{file: audit.log, stdout: true}"),
            "audit",
            "leave one out",
        ),
        (
            top("audit: {file: ▶nowhere/audit.log}"),
            "audit.file",
            "in a folder that exists",
        ),
        (
            top("audit: {file: a.log, maxSize: ▶1KiB}"),
            "audit.maxSize",
            "write 64KiB to 1024GiB",
        ),
        (
            top("audit: {file: a.log, keep: ▶0}"),
            "audit.keep",
            "write 1 to 100",
        ),
        (
            top("audit: {stdout: true, keep: ▶2}"),
            "audit.keep",
            "is about a file",
        ),
        (
            top("audit: {stdout: true, perSecond: ▶0}"),
            "audit.perSecond",
            "write 1 to 1000000",
        ),
        (
            top("adapt: {interval: ▶1ms}"),
            "adapt.interval",
            "write 100ms to 1m",
        ),
        (
            listener("{name: a, address: ▶'0.0.0.0:80'}"),
            "gateway.listeners[0].address",
            "has no `tls`",
        ),
        (
            listener(&format!(
                "{{name: a, address: '[::]:1', {}}}}}",
                tls.replace("server.key", "▶absent.key")
            )),
            "gateway.listeners[0].tls.key",
            "absent.key does not exist",
        ),
        (
            listener(&format!(
                "{{name: a, address: '[::]:1', {}}}}}",
                tls.replace("server.pem", "▶policies")
            )),
            "gateway.listeners[0].tls.certificate",
            "is no file",
        ),
        (
            listener(&format!(
                "{{name: a, address: '[::]:1', {tls}, clientCertificates: ▶required}}}}"
            )),
            "gateway.listeners[0].tls.clientCertificates",
            "add `clientCa: ca.pem`",
        ),
        (
            listener(&format!(
                "{{name: a, address: '[::]:1', {tls}, clientCa: ▶ca.pem, clientCertificates: off}}}}"
            )),
            "gateway.listeners[0].tls.clientCa",
            "is never asked",
        ),
        (
            listener("{name: a, address: '[::]:1', tls: {certificate: ▶server.pem, key: other.key}}"),
            "gateway.listeners[0].tls.certificate",
            "do not make a server",
        ),
        (
            listener(&format!(
                "{{name: a, address: '[::]:1', {tls}, certificates: [{{certificate: ▶ca.pem, key: server.key}}]}}}}"
            )),
            "gateway.listeners[0].tls.certificates[0].certificate",
            "ca.pem holds no certificate",
        ),
        (
            listener(&format!(
                "{{name: a, address: '[::]:1', {tls}, crls: ▶{{files: crl.pem}}}}}}"
            )),
            "gateway.listeners[0].tls.crls",
            "none can be revoked",
        ),
        (
            listener(&format!(
                "{{name: a, address: '[::]:1', {tls}, clientCa: ca.pem, crls: ▶{{unknown: allow}}}}}}"
            )),
            "gateway.listeners[0].tls.crls.files",
            "`files` is missing",
        ),
        (
            top("gateway: {maxConnections: 10, perSource: {connections: ▶11}}"),
            "gateway.perSource.connections",
            "only 10 connections",
        ),
        (
            top("gateway: {shedding: {low: 1s, normal: ▶50ms}}"),
            "gateway.shedding.normal",
            "not shorter than that of `low`",
        ),
        (
            top("gateway: {perSource: {handshakes: {rate: ▶10MB/s}}}"),
            "gateway.perSource.handshakes.rate",
            "a rate of bytes",
        ),
        (
            listener("{name: a, address: '[::1]:1', handshakes: ▶{concurrent: 8}}"),
            "gateway.listeners[0].handshakes",
            "the listener has no `tls`",
        ),
        (
            listener(
                "{name: a, address: '[::1]:1', tls: {certificate: server.pem, key: server.key}, handshakes: {concurrent: ▶0}}",
            ),
            "gateway.listeners[0].handshakes.concurrent",
            "write 1 to 1000000",
        ),
        (
            listener("{name: a, address: '[::1]:1'}\n    - ▶{name: a, address: '[::1]:2'}"),
            "gateway.listeners[1]",
            "is named `a` too",
        ),
        (
            listener("{name: a, address: '[::1]:1'}\n    - {name: b, address: ▶'[::1]:1'}"),
            "gateway.listeners[1].address",
            "already",
        ),
        (top("---\n▶a: 1"), "", "the configuration is one document"),
    ];
    for (yaml, path, fragment) in cases {
        let before = &yaml[..yaml.find(MARK).unwrap()];
        let line = before.matches('\n').count() as u64 + 1;
        let column = before.rsplit('\n').next().unwrap().chars().count() as u64 + 1;
        let found = problems(&yaml.replace(MARK, ""));
        let shown: Vec<String> = found.iter().map(ToString::to_string).collect();
        let shown = shown.join("\n");
        assert_eq!(found.len(), 1, "\n{yaml}\n{shown}");
        assert_eq!(
            (found[0].line, found[0].column),
            (line, column),
            "\n{yaml}\n{shown}"
        );
        assert_eq!(found[0].path, path, "\n{yaml}\n{shown}");
        assert!(shown.contains(fragment), "no `{fragment}` in\n{shown}");
    }
}

#[test]
fn an_empty_or_missing_file_is_said() {
    let empty = problems("# nothing\n");
    assert!(empty[0].message.contains("empty"), "{empty:?}");
    let missing = Config::load(&TempDir::new().unwrap().path().join("agent.yaml")).unwrap_err();
    assert!(missing.to_string().contains("does not exist"), "{missing}");
}

#[test]
fn check_reads_standard_input_as_a_file() {
    let dash = || [PathBuf::from("-")];
    let service = "apiVersion: enforcer.dev/v1\nkind: Service\nmetadata: {name: a}\nspec: {endpoints: ['http://a:1']}\n";
    let report = check::check_with(&dash(), service.as_bytes(), None);
    assert!(report.is_ok() && report.files == 1, "{report:?}");
    let report = check::check_with(&dash(), service.replace("a:1", "a").as_bytes(), None);
    assert_eq!(report.problems.len(), 1, "{report:?}");
    assert!(
        report.problems[0].to_string().starts_with("<stdin>:4:"),
        "{report:?}"
    );
    let report = check::check_with(&dash(), &b"admin: {adress: 127.0.0.1:1}\n"[..], None);
    let is_told = |problem: &Problem| problem.to_string().contains("did you mean `address`?");
    assert!(report.problems.iter().any(is_told), "{report:?}");
    let report = check::check_with(&dash(), &b"\xff"[..], None);
    assert!(report.problems[0].message.contains("UTF-8"), "{report:?}");
}

#[test]
fn check_warns_of_tries_that_take_longer_than_a_rule_and_of_ports_that_collide() {
    let policies = "apiVersion: enforcer.dev/v1\nkind: Service\nmetadata: {name: a}\n\
                    spec: {endpoints: ['http://a:1'], retries: {attempts: 2, perTry: 30s}}\n---\n\
                    apiVersion: enforcer.dev/v1\nkind: Route\nmetadata: {name: r}\n\
                    spec: {hosts: [a.example.com], rules: [{service: a, timeout: 10s, require: {anonymous: true}}]}\n";
    let dash = || [PathBuf::from("-")];
    let report = check::check_with(&dash(), policies.as_bytes(), None);
    let said: Vec<_> = report.problems.iter().map(ToString::to_string).collect();
    assert!(report.is_ok() && said.len() == 1, "{said:?}");
    assert!(
        said[0].contains("may take 30s") && said[0].contains("the rule ends after 10s"),
        "{said:?}"
    );
    for (admin, listener) in [
        ("127.0.0.1:9600", "0.0.0.0:9600"),
        ("127.0.0.1:9600", "[::]:9600"),
    ] {
        let config = format!(
            "policies: [/etc/enforcer/policies]\nadmin: {{address: '{admin}'}}\n\
             gateway: {{listeners: [{{name: a, address: '{listener}', tls: {{certificate: a.pem, key: a.key}}}}]}}\n"
        );
        let report = check::check_with(&dash(), config.as_bytes(), None);
        let said: Vec<_> = report.problems.iter().map(ToString::to_string).collect();
        assert!(
            said.iter().any(|said| said.contains("are the same port")),
            "{said:?}"
        );
    }
}

#[test]
fn check_on_the_node_warns_of_interfaces_that_are_not_there() {
    let policy = "apiVersion: enforcer.dev/v1\nkind: PacketPolicy\nmetadata: {name: a}\n\
                  spec: {interfaces: [eth0, eth7, 'eth*'], ports: [tcp/80]}\n";
    let dash = || [PathBuf::from("-")];
    let present = ["lo".to_owned(), "eth0".to_owned()];
    let report = check::check_with(&dash(), policy.as_bytes(), Some(&present));
    assert!(report.is_ok());
    let [warning] = &report.problems[..] else {
        panic!("{report:?}")
    };
    let said = warning.to_string();
    assert!(said.contains("this node has no interface `eth7`"), "{said}");
    assert!(said.contains("this node has lo, eth0"), "{said}");
    assert!(
        check::check_with(&dash(), policy.as_bytes(), None)
            .problems
            .is_empty()
    );
}

#[test]
fn check_judges_configuration_and_the_policies_that_it_names() {
    let directory = directory(&FULL.replace("xdp: native", "xdp: navite"));
    let path = |name: &str| directory.path().join(name);
    let service = "apiVersion: enforcer.dev/v1\nkind: Service\nmetadata: {name: s}\nspec: {endpoints: ['http://a:1']}\n";
    fs::write(path("policies/good.yaml"), service).unwrap();
    let report = check::check(&[path("agent.yaml")]);
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
    assert_eq!(report.problems[0].path, "kernel.xdp");

    fs::write(path("agent.yaml"), FULL).unwrap();
    let report = check::check(&[path("agent.yaml"), path("policies"), path("policies/good.yaml")]);
    assert!(report.is_ok(), "{:?}", report.problems);
    assert_eq!(report.files, 2);

    fs::write(path("policies/bad.yaml"), service.replace("http:", "ftp:")).unwrap();
    let report = check::check(&[path("agent.yaml")]);
    let paths: Vec<&str> = report.problems.iter().map(|problem| &*problem.path).collect();
    // The other document of the same name is named too.
    assert_eq!(
        paths,
        ["spec.endpoints[0]", "metadata.name"],
        "{:?}",
        report.problems
    );
    assert!(!report.is_ok());
}

#[test]
fn a_report_is_for_people_and_for_programs() {
    let directory = directory("policies: policies\nlog: {level: loud}\n");
    let report = check::check(&[directory.path().join("agent.yaml")]);
    let mut plain = Vec::new();
    report.print(&mut plain, false).unwrap();
    let plain = String::from_utf8(plain).unwrap();
    assert!(
        plain.contains("agent.yaml:2:14: error: log.level: `loud` is not known here"),
        "{plain}"
    );
    assert!(plain.ends_with("1 file: 1 error, 1 warning\n"), "{plain}");
    assert!(!plain.contains('\x1b'));
    let mut colored = Vec::new();
    report.print(&mut colored, true).unwrap();
    assert!(String::from_utf8(colored).unwrap().contains("\x1b[1;31m"));
    let mut json = Vec::new();
    report.print_json(&mut json).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["files"], 1);
    assert_eq!(json["problems"][0]["column"], 14);
    assert_eq!(json["problems"][0]["source"], "log: {level: loud}");
}

#[test]
fn a_folder_without_documents_is_a_warning() {
    let directory = directory("policies: policies\n");
    fs::write(directory.path().join("policies/edge.yaml.txt"), "kind: Service\n").unwrap();
    for path in ["policies", "agent.yaml"] {
        let report = check::check(&[directory.path().join(path)]);
        assert!(report.is_ok(), "{:?}", report.problems);
        assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
        assert!(report.problems[0].message.contains("must end in .yaml or .yml"));
        assert!(report.problems[0].file.ends_with("policies"));
    }
}

/// A configuration whose listeners have these `clientCa`.
fn vouching(authorities: &[&str]) -> String {
    let listener = |(index, authorities): (usize, &&str)| {
        format!(
            "    - {{name: l{index}, address: '127.0.0.1:{}', tls: {{certificate: server.pem, key: server.key, clientCa: {authorities}}}}}\n",
            8443 + index
        )
    };
    let listeners: String = authorities.iter().enumerate().map(listener).collect();
    format!("policies: [policies]\ngateway:\n  listeners:\n{listeners}")
}

#[test]
fn m5_authorities_are_bound_as_they_are_written() {
    let text = vouching(&[
        "[{name: corp, file: ca.pem, trustDomains: example.com, names: ['*.example.com']}, {name: partners, file: crl.pem, subject: {o: [Partner], cn: '*'}}]",
        "{name: corp, file: ca.pem, trustDomains: [example.com], names: '*.example.com'}",
    ]);
    let directory = directory(&text);
    let config =
        Config::load(&directory.path().join("agent.yaml")).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.warnings.len(), 0, "{:?}", config.warnings);
    let name = |name: &str| Some(AuthorityId::Name(name.parse().unwrap()));
    let corp = Authority {
        id: name("corp"),
        file: directory.path().join("ca.pem"),
        bounds: Some(Bounds {
            trust_domains: vec!["example.com".parse().unwrap()],
            names: vec!["*.example.com".parse().unwrap()],
            subject: Vec::new(),
        }),
    };
    let partners = Authority {
        id: name("partners"),
        file: directory.path().join("crl.pem"),
        bounds: Some(Bounds {
            subject: vec![
                (Attribute::CommonName, None),
                (Attribute::Organization, Some(vec!["Partner".into()])),
            ],
            ..Bounds::default()
        }),
    };
    let [first, second] = &config.gateway.listeners[..] else {
        panic!("{config:?}");
    };
    assert_eq!(first.authorities(), [corp.clone(), partners]);
    assert_eq!(second.authorities(), [corp]);
}

#[test]
fn m5_authorities_that_may_vouch_for_anybody_are_told_apart_and_warned_of() {
    let directory = directory(&vouching(&["ca.pem", "crl.pem", "ca.pem"]));
    let config = Config::load(&directory.path().join("agent.yaml")).unwrap();
    assert_eq!(config.warnings.len(), 3, "{:?}", config.warnings);
    let ids: Vec<_> = config
        .gateway
        .listeners
        .iter()
        .map(|each| &each.authorities()[0].id)
        .collect();
    let file = |name: &str| Some(AuthorityId::File(directory.path().join(name)));
    assert_eq!(ids, [&file("ca.pem"), &file("crl.pem"), &file("ca.pem")]);
    // One authority at all listeners is told from nobody.
    let one = self::directory(&vouching(&["ca.pem", "ca.pem"]));
    let config = Config::load(&one.path().join("agent.yaml")).unwrap();
    assert_eq!(config.warnings.len(), 0, "{:?}", config.warnings);
    assert_eq!(config.gateway.listeners[0].authorities()[0].id, None);
}

#[test]
fn m5_mistakes_about_authorities_are_told() {
    for (authorities, message) in [
        (&["[]"][..], "the list is empty"),
        (
            &["[ca.pem, {name: a, file: crl.pem, names: a.example.com}]"],
            "this one may vouch for anybody",
        ),
        (&["two.pem"], "authorities with different names in this file"),
        (&["{name: a}"], "`file` is missing"),
        (&["{name: A, file: ca.pem}"], "is no name"),
        (
            &["{name: a, file: ca.pem, trustDomains: 'spiffe://a'}"],
            "is no trust domain",
        ),
        (
            &["{name: a, file: ca.pem, trustDomains: []}"],
            "the list is empty",
        ),
        (&["{name: a, file: ca.pem, names: '*'}"], "is no DNS name"),
        (
            &["{name: a, file: ca.pem, subject: {}}"],
            "says nothing of the subject",
        ),
        (
            &["{name: a, file: ca.pem, subject: {o: '*'}}"],
            "any subject that has these attributes",
        ),
        (&["{name: a, file: ca.pem, domains: [a]}"], "domains"),
        (
            &["[{name: a, file: ca.pem, names: a.b}, {name: a, file: crl.pem, names: a.c}]"],
            "is named `a` too",
        ),
        (
            &[
                "{name: a, file: ca.pem, names: a.b}",
                "{name: a, file: ca.pem, names: a.c}",
            ],
            "is another authority at",
        ),
    ] {
        let directory = directory(&vouching(authorities));
        let two: String = ["one", "two"].map(root).concat();
        fs::write(directory.path().join("two.pem"), two).unwrap();
        let problems = match Config::load(&directory.path().join("agent.yaml")) {
            Ok(config) => config.warnings,
            Err(problems) => problems.into_vec(),
        };
        let told = |problem: &Problem| problem.message.contains(message);
        assert!(problems.iter().any(told), "{authorities:?}: {problems:?}");
    }
}

/// An authority's certificate.
fn root(name: &str) -> String {
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params
        .self_signed(&rcgen::KeyPair::generate().unwrap())
        .unwrap()
        .pem()
}

#[test]
fn m5_check_knows_which_listeners_and_authorities_there_are() {
    let route = |listener: &str, authority: &str| {
        format!(
            "apiVersion: enforcer.dev/v1\nkind: Service\nmetadata: {{name: s}}\nspec: {{endpoints: ['http://10.0.0.1:80']}}\n---\n\
             apiVersion: enforcer.dev/v1\nkind: Route\nmetadata: {{name: r}}\nspec:\n  hosts: [a.example.com]\n  listeners: {listener}\n  \
             rules: [{{require: {{mtls: {{authority: {authority}}}}}, service: s}}]\n"
        )
    };
    let text = vouching(&["{name: corp, file: ca.pem, trustDomains: example.com}"]);
    for (listener, authority, messages) in [
        ("l0", "corp", &[][..]),
        ("l1", "corp", &["names the listener `l1`"]),
        (
            "l0",
            "[corp, core]",
            &["names the authority in `clientCa` `core`"],
        ),
    ] {
        let directory = directory(&text);
        fs::write(
            directory.path().join("policies/r.yaml"),
            route(listener, authority),
        )
        .unwrap();
        let report = check::check(&[directory.path().join("agent.yaml")]);
        let told: Vec<_> = report.problems.iter().map(|problem| &problem.message).collect();
        assert_eq!(told.len(), messages.len(), "{told:?}");
        assert!(
            told.iter()
                .zip(messages)
                .all(|(told, message)| told.contains(message)),
            "{told:?}"
        );
        assert!(
            report
                .problems
                .iter()
                .all(|problem| problem.line == 8 && problem.hint.is_some())
        );
    }
}
