//! Two servers in a row, this gateway and nginx, must see the same requests: whatever comes to the first, the service
//! behind the second gets no request that the first has not sent it (RFC 9112 section 11.2).
//!
//! Each message is followed on its connection by another request. Then a request on a connection of its own, a marker,
//! must be the next that the service sees: whatever a message left on the connections between the servers would come
//! before it, or be part of it.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use enforcer_gateway::config::Timeouts;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::data_path::{
    hostile,
    hostile_messages::Message,
    support::{Plan, client, eventually, in_time, pki::HOST, policy},
};

/// What the service writes in answer to each request, and no server in front of it.
const SEEN: &[u8] = b"SEEN-BY-THE-SERVICE";

/// A service that takes nothing but what RFC 9112 leaves no doubt about.
struct Service {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Seen {
    /// Method, target and body of each whole request, in order.
    requests: Vec<(String, String, Vec<u8>)>,
    /// What came where a request should have begun, or was in doubt.
    doubtful: Vec<String>,
}

type Reader = BufReader<TcpStream>;

impl Service {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = Arc::clone(&seen);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                serving.spawn(async move { serve(BufReader::new(stream), &shared).await });
            }
        });
        Self {
            address,
            seen,
            _tasks: tasks,
        }
    }

    /// What was seen since this was asked last.
    fn take(&self) -> Seen {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

async fn serve(mut stream: Reader, seen: &Mutex<Seen>) {
    loop {
        let head = match line_by_line(&mut stream).await {
            Ok(Some(head)) => head,
            // The connection ended, before a request or within its head.
            Ok(None) => return,
            Err(doubt) => return seen.lock().unwrap().doubtful.push(doubt),
        };
        let request = match parse(&head) {
            Ok(request) => request,
            Err(doubt) => return seen.lock().unwrap().doubtful.push(doubt),
        };
        let body = match body(&mut stream, request.length).await {
            Ok(Some(body)) => body,
            // The server in front has given the request up.
            Ok(None) => return,
            Err(doubt) => return seen.lock().unwrap().doubtful.push(doubt),
        };
        let whole = (request.method, request.target, body);
        seen.lock().unwrap().requests.push(whole);
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", SEEN.len());
        let answer = [answer.as_bytes(), SEEN].concat();
        if stream.get_mut().write_all(&answer).await.is_err() || request.last {
            return;
        }
    }
}

/// A line without its CRLF; nothing at the connection's end.
async fn line(stream: &mut Reader) -> Result<Option<String>, String> {
    let mut text = Vec::new();
    while !text.ends_with(b"\n") {
        match stream.read_u8().await {
            Ok(byte) => text.push(byte),
            Err(_) => return Ok(None),
        }
    }
    let text = String::from_utf8(text).map_err(|error| format!("no text: {error}"))?;
    match text.strip_suffix("\r\n") {
        Some(text) if !text.contains(['\r', '\0']) => Ok(Some(text.to_owned())),
        _ => Err(format!("a doubtful line: {text:?}")),
    }
}

async fn line_by_line(stream: &mut Reader) -> Result<Option<Vec<String>>, String> {
    let mut lines = Vec::new();
    loop {
        match line(stream).await? {
            None => return Ok(None),
            Some(text) if text.is_empty() => return Ok(Some(lines)),
            Some(text) => lines.push(text),
        }
    }
}

struct Head {
    method: String,
    target: String,
    length: Length,
    /// Whether the connection ends after it.
    last: bool,
}

enum Length {
    Of(usize),
    Chunked,
}

fn parse(lines: &[String]) -> Result<Head, String> {
    let doubt = |what: &str| Err(format!("{what}: {lines:?}"));
    let Some((first, fields)) = lines.split_first() else {
        return doubt("no request line");
    };
    let words: Vec<&str> = first.split(' ').collect();
    let [method, target, "HTTP/1.1" | "HTTP/1.0"] = words[..] else {
        return doubt("no request line");
    };
    let named = |wanted: &str| {
        let all = fields.iter().filter_map(|field| field.split_once(':'));
        let named = all.filter(|(name, _)| name.trim().eq_ignore_ascii_case(wanted));
        named
            .map(|(_, value)| value.trim().to_owned())
            .collect::<Vec<_>>()
    };
    if fields.iter().any(|field| field.starts_with([' ', '\t'])) {
        return doubt("a folded field");
    }
    let (lengths, codings) = (named("content-length"), named("transfer-encoding"));
    let length = match (&lengths[..], &codings[..]) {
        ([], []) => Length::Of(0),
        ([length], []) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
            Length::Of(length.parse().map_err(|error| format!("{error}: {length}"))?)
        }
        ([], [coding]) if coding == "chunked" => Length::Chunked,
        _ => return doubt("a doubtful length"),
    };
    if named("host").len() != 1 {
        return doubt("not one host");
    }
    Ok(Head {
        method: method.to_owned(),
        target: target.to_owned(),
        length,
        last: named("connection").iter().any(|value| value == "close"),
    })
}

async fn body(stream: &mut Reader, length: Length) -> Result<Option<Vec<u8>>, String> {
    match length {
        Length::Of(length) => {
            let mut body = vec![0; length];
            Ok(stream.read_exact(&mut body).await.is_ok().then_some(body))
        }
        Length::Chunked => chunks(stream).await,
    }
}

async fn chunks(stream: &mut Reader) -> Result<Option<Vec<u8>>, String> {
    let mut body = Vec::new();
    loop {
        let Some(size) = line(stream).await? else {
            return Ok(None);
        };
        let size = usize::from_str_radix(&size, 16).map_err(|error| format!("{error}: {size}"))?;
        if size == 0 {
            // Trailers, if there are any.
            return Ok(line_by_line(stream).await?.map(|_| body));
        }
        let start = body.len();
        body.resize(start + size, 0);
        if stream.read_exact(&mut body[start..]).await.is_err() {
            return Ok(None);
        }
        match line(stream).await? {
            None => return Ok(None),
            Some(end) if end.is_empty() => {}
            Some(more) => return Err(format!("a chunk that is longer than its size: {more:?}")),
        }
    }
}

/// A running nginx.
struct Nginx {
    address: SocketAddr,
    process: Child,
    _folder: TempDir,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Nginx {
    /// In front of `behind`.
    async fn start(behind: SocketAddr) -> Self {
        let folder = TempDir::new().unwrap();
        // Free a moment ago; nothing else here binds to ports by number.
        let address = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap()
        };
        let file = folder.path().join("nginx.conf");
        fs::write(&file, config(address, behind, folder.path())).unwrap();
        let process = Command::new(find_nginx())
            .args(["-e", "stderr", "-p"])
            .arg(folder.path())
            .arg("-c")
            .arg(&file)
            // Many of these messages are worth an error to it.
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually("nginx listens", async || {
            TcpStream::connect(address).await.is_ok()
        })
        .await;
        Self {
            address,
            process,
            _folder: folder,
        }
    }
}

fn config(listen: SocketAddr, behind: SocketAddr, folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "daemon off;
master_process off;
pid {folder}/nginx.pid;
events {{ worker_connections 256; }}
http {{
  access_log off;
  keepalive_timeout 1s;
  client_header_timeout 1s;
  client_body_timeout 1s;
  lingering_close off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  upstream behind {{ server {behind}; keepalive 8; }}
  server {{
    listen {listen};
    location / {{
      proxy_pass http://behind;
      proxy_http_version 1.1;
      proxy_request_buffering off;
      proxy_next_upstream off;
      proxy_set_header Connection \"\";
      proxy_set_header Host $host;
    }}
  }}
}}
"
    )
}

fn find_nginx() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/bin/nginx");
    let path = env::var_os("PATH").unwrap_or_default();
    let mut candidates =
        std::iter::once(own).chain(env::split_paths(&path).map(|folder| folder.join("nginx")));
    match candidates.find(|file| file.is_file()) {
        Some(file) => file,
        None => panic!("nginx is missing: run `cargo xtask setup`"),
    }
}

/// Writes to the first server and reads until it closes.
async fn say(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, message: &[u8]) -> Vec<u8> {
    // It may close before it has read everything.
    let _sent = stream.write_all(message).await;
    let _flushed = stream.flush().await;
    let mut answer = Vec::new();
    let _read = in_time("the first server closes", stream.read_to_end(&mut answer)).await;
    answer
}

fn count(answer: &[u8], wanted: &[u8]) -> usize {
    answer
        .windows(wanted.len())
        .filter(|window| *window == wanted)
        .count()
}

/// Sends messages by `send`, and returns what is wrong and how many requests the service has seen.
async fn run(
    service: &Service,
    messages: Vec<Message>,
    send: impl AsyncFn(Vec<u8>) -> Vec<u8>,
) -> (Vec<String>, usize) {
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
    let (mut complaints, mut total) = (Vec::new(), 0);
    for (number, (what, message, _)) in messages.into_iter().enumerate() {
        let marker = format!("/marker-{number}");
        let followed = [&message[..], get("/follower").as_bytes()].concat();
        let answered = count(&send(followed).await, SEEN);
        let marked = count(&send(get(&marker).into_bytes()).await, SEEN);
        let seen = service.take();
        let targets: Vec<&str> = seen.requests.iter().map(|(_, target, _)| &**target).collect();
        let is_last = seen
            .requests
            .last()
            .is_some_and(|(method, target, body)| method == "GET" && *target == marker && body.is_empty());
        let right = is_last
            && marked == 1
            && targets.len() == answered + 1
            && seen.doubtful.is_empty()
            && !targets.iter().any(|target| target.starts_with("/smuggled"));
        if !right {
            complaints.push(format!(
                "{what}: answered {answered}, marker {marked}, seen {targets:?}, doubtful {:?}",
                seen.doubtful
            ));
        }
        total += targets.len();
    }
    (complaints, total)
}

fn timeouts() -> Timeouts {
    let short = Duration::from_secs(1);
    Timeouts {
        header: short,
        idle: short,
        ..Timeouts::default()
    }
}

/// Otherwise the other tests would say nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hands_on_what_comes_is_found_out() {
    let service = Service::start().await;
    let in_doubt = [
        "chunked and length",
        "two different lengths",
        "pipeline: a body longer than its length",
    ];
    let mut messages = hostile::all();
    messages.retain(|(what, ..)| in_doubt.contains(&&**what));
    let send =
        async |message: Vec<u8>| say(TcpStream::connect(service.address).await.unwrap(), &message).await;
    let (complaints, _) = run(&service, messages, send).await;
    assert_eq!(complaints.len(), in_doubt.len(), "{}", complaints.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_behind_sees_what_the_gateway_sent() {
    let service = Service::start().await;
    let nginx = Nginx::start(service.address).await;
    let plan = Plan {
        timeouts: timeouts(),
        ..Plan::default()
    };
    let lab = plan.start(policy::open(&[nginx.address]));
    let send = async |message: Vec<u8>| {
        let config = lab.pki.client_config(None, client::H1);
        say(client::tls(lab.address, config).await.unwrap(), &message).await
    };
    let (complaints, total) = run(&service, hostile::all(), send).await;
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    let allowed = |seen: &crate::data_path::support::Recorded| {
        seen.verdicts.iter().filter(|(_, status)| *status == 200).count()
    };
    assert_eq!(lab.recorder.look(allowed), total, "what the gateway counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_behind_nginx_sees_what_nginx_sent() {
    let service = Service::start().await;
    let plan = Plan {
        tls: false,
        timeouts: timeouts(),
        ..Plan::default()
    };
    let lab = plan.start(policy::open(&[service.address]));
    let nginx = Nginx::start(lab.address).await;
    let send = async |message: Vec<u8>| say(TcpStream::connect(nginx.address).await.unwrap(), &message).await;
    let (complaints, total) = run(&service, hostile::all(), send).await;
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    let allowed = |seen: &crate::data_path::support::Recorded| {
        seen.verdicts.iter().filter(|(_, status)| *status == 200).count()
    };
    assert_eq!(lab.recorder.look(allowed), total, "what the gateway counted");
}
