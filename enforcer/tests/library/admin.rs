//! The admin address, the commands' socket and the address of metrics, against the real binary.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// How long a condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(20);
/// What a probe waits for an answer.
const PROBE: Duration = Duration::from_secs(2);

/// A running agent without a kernel half. Dropping it kills it.
struct Agent {
    child: Child,
    admin: SocketAddr,
    folder: tempfile::TempDir,
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Writes a configuration; `runtimeDir` is `run` beside it.
fn configure(folder: &Path, admin: &str, more: &str) {
    fs::create_dir_all(folder.join("policies")).unwrap();
    let text = format!(
        "policies: [policies]\nruntimeDir: run\nkernel: {{enabled: false}}\nadmin: {{address: \"{admin}\"}}\n{more}"
    );
    fs::write(folder.join("enforcer.yaml"), text).unwrap();
}

fn enforcer(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_enforcer"));
    command
        .current_dir(folder)
        .env("ENFORCER_RUNTIME_DIR", folder.join("run"))
        .env_remove("ENFORCER_ADMIN")
        .stdin(Stdio::null());
    command
}

impl Agent {
    fn start(bind: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let admin = SocketAddr::new([127, 0, 0, 1].into(), free().port());
        configure(folder.path(), &format!("{bind}:{}", admin.port()), more);
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let child = enforcer(folder.path())
            .args(["run", "--config", "enforcer.yaml"])
            .stderr(log)
            .spawn()
            .unwrap();
        let agent = Self { child, admin, folder };
        agent.wait_for("ready", || {
            agent.get("/readyz").is_some_and(|(status, _)| status == 200)
        });
        agent
    }

    fn wait_for(&self, what: &str, wanted: impl Fn() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !wanted() {
            assert!(Instant::now() < end, "{what}: not in time; {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// As a probe asks the admin address.
    fn get(&self, path: &str) -> Option<(u16, String)> {
        get(self.admin, path, "127.0.0.1", "")
    }

    fn token(&self) -> String {
        fs::read_to_string(self.folder.path().join("run/admin.token"))
            .unwrap()
            .trim()
            .to_owned()
    }

    fn command(&self, arguments: &[&str]) -> Output {
        enforcer(self.folder.path()).args(arguments).output().unwrap()
    }

    fn socket(&self) -> UnixStream {
        UnixStream::connect(self.folder.path().join("run/admin.sock")).unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Status and body, if they come within a probe's time.
fn get(address: SocketAddr, path: &str, host: &str, fields: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, PROBE).ok()?;
    stream.set_read_timeout(Some(PROBE)).ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{fields}\r\n"
    )
    .ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some((text.split(' ').nth(1)?.parse().ok()?, text))
}

/// The head of an answer, from a connection that goes on.
fn head(stream: &mut impl std::io::Read) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).unwrap() == 0 {
            break;
        }
        bytes.push(byte[0]);
    }
    String::from_utf8(bytes).unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[test]
fn m3_silent_and_idle_connections_block_neither_probes_nor_commands() {
    let agent = Agent::start("127.0.0.1", "");
    let mut held = Vec::new();
    for index in 0..300 {
        let mut stream = TcpStream::connect(agent.admin).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request: &[u8] = match index % 3 {
            0 => b"",
            1 => b"GET /healthz HTTP/1.1\r\n",
            _ => b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        };
        // One that has given way already may say so.
        drop(stream.write_all(request));
        held.push(stream);
        if index % 50 == 0 {
            assert_eq!(
                agent.get("/healthz").map(|(status, _)| status),
                Some(200),
                "{index} are held"
            );
        }
    }
    assert_eq!(agent.get("/healthz").unwrap().0, 200);
    assert_eq!(agent.get("/readyz").unwrap().0, 200);
    assert_eq!(agent.get("/metrics").unwrap().0, 200);
    let output = agent.command(&["status"]);
    assert!(output.status.success(), "{}", said(&output));
    // Silent, half a head, and answered and idle: each is closed without a word from its client.
    for mut stream in held {
        let mut rest = Vec::new();
        match stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
}

#[test]
fn m3_connections_are_kept_between_requests() {
    let agent = Agent::start("127.0.0.1", "");
    let mut stream = TcpStream::connect(agent.admin).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    for _ in 0..3 {
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            .unwrap();
        let text = head(&mut stream);
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        let mut body = [0; 3];
        stream.read_exact(&mut body).unwrap();
        assert_eq!(&body, b"ok\n");
    }
}

#[test]
fn m3_event_readers_cannot_be_held_by_strangers() {
    let agent = Agent::start("127.0.0.1", "");
    let follow = b"GET /v1/events?follow=true HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
    let mut held = Vec::new();
    for index in 0..20 {
        let mut stream = TcpStream::connect(agent.admin).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(follow).unwrap();
        let text = head(&mut stream);
        assert!(text.starts_with("HTTP/1.1 200"), "reader {index}: {text}");
        held.push(stream);
    }
    let mut operators = Vec::new();
    for index in 0..15 {
        let mut stream = agent.socket();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(follow).unwrap();
        let text = head(&mut stream);
        assert!(text.starts_with("HTTP/1.1 200"), "operator {index}: {text}");
        operators.push(stream);
    }
    // All are held by who may: a stranger cannot take one away.
    assert_eq!(
        get(agent.admin, "/v1/events?follow=true", "127.0.0.1", "")
            .unwrap()
            .0,
        503
    );
    let output = agent.command(&["events"]);
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn m3_metrics_have_an_address_that_serves_nothing_else() {
    let metrics = free();
    let agent = Agent::start("127.0.0.1", &format!("metrics: {{address: \"{metrics}\"}}\n"));
    let (status, text) = get(metrics, "/metrics", "node-1.example:9601", "").unwrap();
    assert_eq!(status, 200);
    assert!(text.contains("enforcer_generation"), "{text}");
    for path in [
        "/healthz",
        "/v1/status",
        "/v1/explain?address=192.0.2.1",
        "/v1/denials",
    ] {
        assert_eq!(get(metrics, path, "127.0.0.1", "").unwrap().0, 404, "{path}");
    }
    assert_eq!(agent.get("/metrics").unwrap().0, 200);
    // Names are still for that address alone.
    assert_eq!(get(agent.admin, "/metrics", "node-1.example", "").unwrap().0, 421);
}

#[test]
fn m3_beyond_loopback_reading_takes_the_token() {
    let agent = Agent::start("0.0.0.0", "");
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(agent.get(path).unwrap().0, 200, "{path}");
    }
    let token = format!("x-enforcer-token: {}\r\n", agent.token());
    for path in [
        "/v1/status",
        "/v1/explain?address=192.0.2.1",
        "/v1/events",
        "/v1/denials",
        "/v1/revocations",
    ] {
        assert_eq!(agent.get(path).unwrap().0, 401, "{path}");
        assert_eq!(
            get(agent.admin, path, "127.0.0.1", &token).unwrap().0,
            200,
            "{path}"
        );
    }
    assert!(agent.log().contains("metrics: {address"), "{}", agent.log());
    let admin = agent.admin.to_string();
    for arguments in [&["status"][..], &["status", "--admin", &admin]] {
        let output = agent.command(arguments);
        assert!(output.status.success(), "{}", said(&output));
    }
    let output = agent.command(&["check", "enforcer.yaml"]);
    assert_eq!(output.status.code(), Some(2));
    let text = said(&output);
    assert!(text.contains("error: admin.address: 0.0.0.0:"), "{text}");
    assert!(text.contains("metrics: {address: ADDRESS:PORT}"), "{text}");
}

#[test]
fn m3_a_second_agent_does_not_share_a_runtime_directory() {
    let agent = Agent::start("127.0.0.1", "");
    let token = agent.token();
    configure(agent.folder.path(), &free().to_string(), "");
    let output = agent.command(&["run", "--config", "enforcer.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    let text = said(&output);
    let who = format!("another agent (process {})", agent.child.id());
    assert!(text.contains(&who) && text.contains("runtimeDir"), "{text}");
    assert_eq!(agent.token(), token);
    let output = agent.command(&["status"]);
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn m3_what_a_killed_agent_left_is_replaced_and_what_is_deleted_comes_back() {
    let mut agent = Agent::start("127.0.0.1", "");
    agent.child.kill().unwrap();
    agent.child.wait().unwrap();
    let output = agent.command(&["status"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("run/admin.sock (Connection refused"),
        "{}",
        said(&output)
    );
    let log = fs::File::create(agent.folder.path().join("log")).unwrap();
    agent.child = enforcer(agent.folder.path())
        .args(["run", "--config", "enforcer.yaml"])
        .stderr(log)
        .spawn()
        .unwrap();
    agent.wait_for("ready again", || agent.command(&["status"]).status.success());
    let (token, run) = (agent.token(), agent.folder.path().join("run"));
    fs::remove_file(run.join("admin.token")).unwrap();
    fs::remove_file(run.join("admin.sock")).unwrap();
    agent.wait_for("the token", || {
        fs::read_to_string(run.join("admin.token")).is_ok_and(|text| text.trim() == token)
    });
    agent.wait_for("the socket", || agent.command(&["status"]).status.success());
}

#[test]
fn m3_a_runtime_directory_that_cannot_be_written_ends_the_start() {
    let folder = tempfile::tempdir().unwrap();
    configure(folder.path(), &free().to_string(), "");
    fs::write(folder.path().join("run"), "").unwrap();
    let output = enforcer(folder.path())
        .args(["run", "--config", "enforcer.yaml"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = said(&output);
    assert!(text.contains("set `runtimeDir` to a folder"), "{text}");
}

#[test]
fn a_list_of_everybody_is_an_error_unless_it_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let check = |spec: &str| {
        let text = format!(
            "apiVersion: enforcer.dev/v1\nkind: PacketPolicy\nmetadata: {{name: feed}}\nspec:\n  interfaces: [lo]\n{spec}\n"
        );
        fs::write(folder.path().join("feed.yaml"), text).unwrap();
        let output = enforcer(folder.path())
            .args(["check", "feed.yaml"])
            .output()
            .unwrap();
        (output.status.code(), said(&output))
    };
    for spec in [
        "  deny: [0.0.0.0/0]",
        "  deny: [\"::/0\"]",
        "  deny: [0.0.0.0/1, 128.0.0.0/1]",
        "  allow: [\"2001:db8::/32\"]\n  deny: [0.0.0.0/0]",
        "  egress: {deny: [0.0.0.0/0]}",
    ] {
        let (code, text) = check(spec);
        assert_eq!(code, Some(2), "{spec}: {text}");
        assert!(text.contains("everything: true"), "{spec}: {text}");
    }
    for spec in [
        "  deny: [{cidr: 0.0.0.0/0, everything: true}]",
        "  deny: [0.0.0.0/1, {cidr: 128.0.0.0/1, everything: true}]",
        "  allow: [192.0.2.0/24]\n  deny: [0.0.0.0/0]",
        "  egress: {deny: [{cidr: 0.0.0.0/0, everything: true}]}",
        "  egress: {deny: [{cidr: 0.0.0.0/0, ports: tcp/25}]}",
        "  deny: [0.0.0.0/1]",
    ] {
        let (code, text) = check(spec);
        assert_eq!(code, Some(0), "{spec}: {text}");
    }
}

#[test]
fn check_names_management_inside_a_denied_prefix() {
    let folder = tempfile::tempdir().unwrap();
    configure(folder.path(), "127.0.0.1:9600", "");
    let configuration = folder.path().join("enforcer.yaml");
    let text = fs::read_to_string(&configuration).unwrap();
    let text = text.replace("{enabled: false}", "{enabled: false, management: [10.77.0.9/32]}");
    fs::write(&configuration, text).unwrap();
    let policy = "apiVersion: enforcer.dev/v1\nkind: PacketPolicy\nmetadata: {name: edge}\nspec:\n  \
                  interfaces: [lo]\n  deny:\n  - 192.0.2.0/24\n  - 10.77.0.0/24\n";
    fs::write(folder.path().join("policies/edge.yaml"), policy).unwrap();
    let output = enforcer(folder.path())
        .args(["check", "enforcer.yaml"])
        .output()
        .unwrap();
    let text = said(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("edge.yaml:8:1"), "{text}");
    assert!(
        text.contains("10.77.0.9/32 inside 10.77.0.0/24 still passes"),
        "{text}"
    );
}

#[test]
fn a_key_that_no_document_has_is_not_revoked_without_a_yes() {
    let gateway = format!(
        "gateway: {{workers: 1, listeners: [{{name: plain, address: \"{}\"}}]}}\n",
        free()
    );
    let agent = Agent::start("127.0.0.1", &gateway);
    let keys = format!(
        "apiVersion: enforcer.dev/v1\nkind: ApiKeys\nmetadata: {{name: partners}}\nspec:\n  keys:\n  \
         - {{id: partner-a, owner: Partner A, hash: \"sha256:{}\"}}\n",
        "ab".repeat(32)
    );
    fs::write(agent.folder.path().join("policies/keys.yaml"), keys).unwrap();
    let revoke = |id: &str, more: &[&str]| {
        let arguments = ["revoke", "api-key", id, "--for", "1h", "--reason", "leak"];
        agent.command(&[&arguments[..], more].concat())
    };
    agent.wait_for("the keys", || revoke("partner-a", &[]).status.success());
    let output = revoke("partner-b", &[]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("no document has an API key `partner-b`; did you mean `partner-a`?"),
        "{text}"
    );
    let listed = said(&agent.command(&["revoke", "list"]));
    assert!(!listed.contains("partner-b"), "{listed}");
    assert!(revoke("partner-b", &["--yes"]).status.success());
    assert!(said(&agent.command(&["revoke", "list"])).contains("partner-b"));
}

#[test]
fn denials_are_listed_and_explain_takes_a_port() {
    let agent = Agent::start("127.0.0.1", "");
    let output = agent.command(&["deny", "list"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(
        said(&output).starts_with("no source is denied"),
        "{}",
        said(&output)
    );
    let output = agent.command(&["deny", "list", "--output", "json"]);
    assert_eq!(said(&output).trim(), "[]");
    let output = agent.command(&["explain", "192.0.2.7", "--port", "443"]);
    assert!(output.status.success(), "{}", said(&output));
    let output = agent.command(&["explain", "192.0.2.7:80", "--port", "443"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
}
