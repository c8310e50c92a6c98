//! Speaks to a running agent.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use clap::Args;
use http::{Method, Request, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{
    client::legacy::{Client as Legacy, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::admin::{TOKEN_FILE, TOKEN_HEADER};

/// How long the agent may take.
const PATIENCE: Duration = Duration::from_secs(10);

const OTHER_VERSION: &str = "the agent's answer is not of this version: is the agent another one?";

/// The longest line of a stream.
const LONGEST_LINE: usize = 1 << 16;

/// Where the running agent is.
#[derive(Debug, Args)]
// Not by the type's name, which is also a subcommand's: `enforcer revoke client`.
#[group(id = "admin-client")]
pub struct Client {
    /// The agent's admin address
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:9600",
        env = "ENFORCER_ADMIN"
    )]
    admin: String,
    /// The agent's runtime directory, which holds the token that changes take
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/run/enforcer",
        env = "ENFORCER_RUNTIME_DIR"
    )]
    runtime_dir: PathBuf,
}

impl Client {
    /// Reads something.
    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let request = Request::get(self.uri(path)).body(Full::default())?;
        let body = self.send(request)?;
        serde_json::from_slice(&body).context(OTHER_VERSION)
    }

    /// Reads a stream, line by line, until it ends.
    pub(super) fn lines(
        &self,
        path: &str,
        mut each: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let request = Request::get(self.uri(path)).body(Full::default())?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let client: Legacy<HttpConnector, Full<Bytes>> =
                Legacy::builder(TokioExecutor::new()).build_http();
            let response = tokio::time::timeout(PATIENCE, client.request(request))
                .await
                .map_err(|_| anyhow!("the agent at {} does not answer", self.admin))?
                .with_context(|| format!("no agent answers at {}: is it running (--admin)?", self.admin))?;
            let status = response.status();
            let mut body = response.into_body();
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

    /// Changes something.
    pub(super) fn change(&self, method: Method, path: &str, body: &impl Serialize) -> anyhow::Result<()> {
        self.demand(method, path, body).map(drop)
    }

    /// Changes something, and reads what has come of it.
    pub(super) fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        let answer = self.demand(method, path, body)?;
        serde_json::from_slice(&answer).context(OTHER_VERSION)
    }

    fn demand(&self, method: Method, path: &str, body: &impl Serialize) -> anyhow::Result<Bytes> {
        let file = self.runtime_dir.join(TOKEN_FILE);
        let token = fs::read_to_string(&file).with_context(|| {
            format!(
                "{} cannot be read: run this as the agent's user, or name its --runtime-dir",
                file.display()
            )
        })?;
        let request = Request::builder()
            .method(method)
            .uri(self.uri(path))
            .header(CONTENT_TYPE, "application/json")
            .header(TOKEN_HEADER, token.trim())
            .body(Full::from(serde_json::to_vec(body)?))?;
        self.send(request)
    }

    fn uri(&self, path: &str) -> String {
        format!("http://{}{path}", self.admin)
    }

    fn send(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Bytes> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let client: Legacy<HttpConnector, Full<Bytes>> =
                Legacy::builder(TokioExecutor::new()).build_http();
            let answer = async {
                let response = client.request(request).await?;
                let status = response.status();
                anyhow::Ok((status, response.into_body().collect().await?.to_bytes()))
            };
            let answer = tokio::time::timeout(PATIENCE, answer)
                .await
                .map_err(|_| anyhow!("the agent at {} does not answer", self.admin))?;
            let (status, body) = answer
                .with_context(|| format!("no agent answers at {}: is it running (--admin)?", self.admin))?;
            if !status.is_success() {
                return refused(status, &body);
            }
            Ok(body)
        })
    }
}

fn refused(status: StatusCode, body: &[u8]) -> anyhow::Result<Bytes> {
    let text = String::from_utf8_lossy(body);
    match text.trim() {
        "" => bail!("the agent refuses: {status}"),
        text => bail!("{text}"),
    }
}
