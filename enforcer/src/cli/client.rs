//! Speaks to a running agent.

use std::{fs, io, path::PathBuf, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use clap::Args;
use http::{
    HeaderValue, Method, Request, StatusCode,
    header::{CONTENT_TYPE, HOST},
};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

use crate::admin::{OPERATOR_HEADER, SOCKET_FILE, TOKEN_FILE, TOKEN_HEADER};

/// How long the agent may take.
const PATIENCE: Duration = Duration::from_secs(10);

const OTHER_VERSION: &str = "the agent's answer is not of this version: is the agent another one?";

/// The longest line of a stream.
const LONGEST_LINE: usize = 1 << 16;

/// The largest answer that is read at once.
const LARGEST_ANSWER: usize = 64 << 20;

/// Where the running agent is.
#[derive(Debug, Args)]
// Not by the type's name, which is also a subcommand's: `enforcer revoke client`.
#[group(id = "admin-client")]
pub struct Client {
    /// The agent's admin address, instead of the socket in its runtime directory
    #[arg(long, value_name = "ADDRESS", env = "ENFORCER_ADMIN")]
    admin: Option<String>,
    /// The agent's runtime directory: its socket, and the token that changes over `--admin` take
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/run/enforcer",
        env = "ENFORCER_RUNTIME_DIR"
    )]
    runtime_dir: PathBuf,
}

/// Who gives the order, for the audit log: `ENFORCER_OPERATOR`, else whoever became root, else the user.
fn operator() -> Option<HeaderValue> {
    ["ENFORCER_OPERATOR", "SUDO_USER", "USER", "LOGNAME"]
        .into_iter()
        .filter_map(|variable| std::env::var(variable).ok())
        .find(|name| !name.is_empty())
        .and_then(|name| HeaderValue::try_from(name).ok())
}

/// A request to the agent.
struct Ask<'a> {
    method: Method,
    path: &'a str,
    body: Bytes,
}

/// Nobody answers where the agent should.
#[derive(Debug, thiserror::Error)]
#[error("no agent answers at {place} ({source}): {hint}")]
pub(super) struct Absent {
    place: String,
    source: io::Error,
    hint: &'static str,
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Client {
    /// Reads something.
    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let body = self.send(&Ask::get(path))?;
        serde_json::from_slice(&body).context(OTHER_VERSION)
    }

    /// Reads a stream, line by line, until it ends.
    pub(super) fn lines(
        &self,
        path: &str,
        mut each: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        runtime()?.block_on(async {
            let (status, mut body) = self.begin(&Ask::get(path)).await?;
            if !status.is_success() {
                return refused(status, &body.collect().await?.to_bytes()).map(drop);
            }
            let mut rest = Vec::new();
            while let Some(frame) = body.frame().await {
                let Ok(data) = frame?.into_data() else { continue };
                rest.extend_from_slice(&data);
                while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                    each(&rest[..end])?;
                    rest.drain(..=end);
                }
                if rest.len() > LONGEST_LINE {
                    bail!("the agent sends lines above {LONGEST_LINE} bytes: is it another one?");
                }
            }
            Ok(())
        })
    }

    /// Changes something, and reads what the agent says of it.
    pub(super) fn change(&self, method: Method, path: &str, body: &impl Serialize) -> anyhow::Result<Bytes> {
        self.send(&Ask {
            method,
            path,
            body: serde_json::to_vec(body)?.into(),
        })
    }

    /// Changes something, and reads what has come of it.
    pub(super) fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        let answer = self.change(method, path, body)?;
        serde_json::from_slice(&answer).context(OTHER_VERSION)
    }

    fn send(&self, ask: &Ask<'_>) -> anyhow::Result<Bytes> {
        runtime()?.block_on(async {
            let (status, body) = self.begin(ask).await?;
            let body = http_body_util::Limited::new(body, LARGEST_ANSWER).collect();
            let body = tokio::time::timeout(PATIENCE, body)
                .await
                .map_err(|_| self.silent())?
                .map_err(|error| anyhow!(error))?
                .to_bytes();
            match status.is_success() {
                true => Ok(body),
                false => refused(status, &body),
            }
        })
    }

    /// Sends a request, with the token if the agent asks for it.
    async fn begin(&self, ask: &Ask<'_>) -> anyhow::Result<(StatusCode, Incoming)> {
        // Whoever listens where the agent should need not know the token: reading takes it beyond loopback alone.
        let changes = ask.method != Method::GET && self.admin.is_some();
        let (status, body) = self.exchange(ask, changes).await?;
        if status == StatusCode::UNAUTHORIZED && !changes && self.admin.is_some() {
            return self.exchange(ask, true).await;
        }
        Ok((status, body))
    }

    async fn exchange(&self, ask: &Ask<'_>, with_token: bool) -> anyhow::Result<(StatusCode, Incoming)> {
        let token = with_token.then(|| self.token()).transpose()?;
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(ask.path)
            .header(HOST, self.admin.as_deref().unwrap_or("localhost"))
            .header(CONTENT_TYPE, "application/json");
        if let Some(operator) = operator().filter(|_| ask.method != Method::GET) {
            request = request.header(OPERATOR_HEADER, operator);
        }
        if let Some(token) = token {
            request = request.header(TOKEN_HEADER, token.trim());
        }
        let request = request.body(Full::new(ask.body.clone()))?;
        let answer = async {
            let io = TokioIo::new(self.connect().await?);
            let (mut sender, connection) = http1::handshake(io).await?;
            tokio::spawn(connection);
            let response = sender.send_request(request).await?;
            anyhow::Ok((response.status(), response.into_body()))
        };
        tokio::time::timeout(PATIENCE, answer)
            .await
            .map_err(|_| self.silent())?
    }

    async fn connect(&self) -> anyhow::Result<Box<dyn Io>> {
        if let Some(address) = &self.admin {
            return match TcpStream::connect(address).await {
                Ok(stream) => Ok(Box::new(stream)),
                Err(source) => Err(Absent {
                    place: address.clone(),
                    source,
                    hint: "is it running, and is this its address (--admin)?",
                }
                .into()),
            };
        }
        let path = self.socket();
        match UnixStream::connect(&path).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(anyhow!(
                "{} is for root and the agent's user alone: run this as one of them. Where the agent's admin address \
                 is loopback, all may read there: --admin 127.0.0.1:9600",
                path.display()
            )),
            Err(source) => Err(Absent {
                place: path.display().to_string(),
                source,
                hint: "is it running, and is this its --runtime-dir? An agent of an earlier version has no socket: \
                       name its address (--admin)",
            }
            .into()),
        }
    }

    fn socket(&self) -> PathBuf {
        self.runtime_dir.join(SOCKET_FILE)
    }

    fn token(&self) -> anyhow::Result<String> {
        let file = self.runtime_dir.join(TOKEN_FILE);
        fs::read_to_string(&file).with_context(|| {
            format!(
                "{} cannot be read: run this as the agent's user, or name its --runtime-dir",
                file.display()
            )
        })
    }

    fn silent(&self) -> anyhow::Error {
        let socket = || self.socket().display().to_string();
        let place = self.admin.clone().unwrap_or_else(socket);
        anyhow!("the agent at {place} does not answer within {PATIENCE:?}")
    }
}

impl<'a> Ask<'a> {
    fn get(path: &'a str) -> Self {
        Self {
            method: Method::GET,
            path,
            body: Bytes::new(),
        }
    }
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

fn refused(status: StatusCode, body: &[u8]) -> anyhow::Result<Bytes> {
    let text = String::from_utf8_lossy(body);
    match text.trim() {
        "" => bail!("the agent refuses: {status}"),
        text => bail!("{text}"),
    }
}
