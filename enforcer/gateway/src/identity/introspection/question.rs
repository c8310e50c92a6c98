//! One question to an issuer (RFC 7662, section 2.1), with every dimension bounded.

use std::{io, path::PathBuf};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Map, Value};
use thiserror::Error;
use tokio::{sync::OnceCell, time::timeout};

use super::super::{
    json,
    source::{self, SourceError},
};
use enforcer_model::Introspection;
use enforcer_policy::secrets;

/// The largest answer, in bytes.
const MAX_ANSWER: usize = 64 * 1024;
/// The largest file of a secret, in bytes.
const MAX_SECRET: usize = 4096;
/// How many connections to an issuer stay open without a question.
const IDLE: usize = 16;

/// Why there is no answer. Names neither token nor secret.
#[derive(Debug, Error)]
pub(super) enum QuestionError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("cannot use the client's secret of {}: {reason}", .path.display())]
    Secret { path: PathBuf, reason: String },
    #[error("it answers {0}: it must answer 200 itself, redirects are not followed")]
    Status(StatusCode),
    #[error("the answer is larger than {MAX_ANSWER} bytes, or broke off")]
    Body,
    #[error("the answer is no JSON object with unique names")]
    NotJson,
    #[error("there was no answer in time")]
    Timeout,
}

/// Asks over connections that stay open between questions.
#[derive(Debug, Default)]
pub(super) struct Questioner {
    /// Made by the first question: its authorities are those of that time.
    client: OnceCell<Client<HttpsConnector<HttpConnector>, Full<Bytes>>>,
}

impl Questioner {
    /// What the issuer says about `token`.
    ///
    /// # Errors
    /// If it cannot be had whole, in time and in size.
    pub(super) async fn ask(
        &self,
        settings: &Introspection,
        token: &str,
    ) -> Result<Map<String, Value>, QuestionError> {
        timeout(settings.timeout, self.exchange(settings, token))
            .await
            .unwrap_or(Err(QuestionError::Timeout))
    }

    async fn exchange(
        &self,
        settings: &Introspection,
        token: &str,
    ) -> Result<Map<String, Value>, QuestionError> {
        let Introspection { url, ca, .. } = settings;
        let connect = async || {
            let connector = source::connector(url, ca.as_deref()).await?;
            let client = Client::builder(TokioExecutor::new())
                .pool_max_idle_per_host(IDLE)
                .build(connector);
            Ok::<_, SourceError>(client)
        };
        let client = self.client.get_or_try_init(connect).await?;
        let secret = read_secret(settings).await?;
        let body = format!("token={}&token_type_hint=access_token", encode(token));
        let request = Request::post(url.clone())
            .header(header::AUTHORIZATION, basic(&settings.client_id, &secret))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, source::USER_AGENT)
            .body(Full::from(body))
            .map_err(|error| source::refused(url, error.to_string()))?;
        let response = client
            .request(request)
            .await
            .map_err(|error| source::refused(url, source::chain(&error)))?;
        if response.status() != StatusCode::OK {
            return Err(QuestionError::Status(response.status()));
        }
        let answer = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|_| QuestionError::Body)?;
        json::object(&answer.to_bytes()).map_err(|_| QuestionError::NotJson)
    }
}

/// Read for each question, so that a renewed secret counts at once. A line's end at its end is not part of it.
async fn read_secret(settings: &Introspection) -> Result<String, QuestionError> {
    let path = &settings.secret_file;
    let wrong = |reason: String| QuestionError::Secret {
        path: path.clone(),
        reason,
    };
    // A line's end at the end is read too.
    let (file, most) = (path.clone(), MAX_SECRET + 2);
    let text = tokio::task::spawn_blocking(move || secrets::read(&file, most))
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .and_then(|bytes| String::from_utf8(bytes).map_err(|_| io::Error::other("it is no text")))
        .map_err(|error| wrong(error.to_string()))?;
    let secret = text.trim_end_matches(['\r', '\n']);
    if secret.is_empty() || secret.len() > MAX_SECRET {
        return Err(wrong(format!("it must hold 1 to {MAX_SECRET} bytes")));
    }
    Ok(secret.to_owned())
}

/// `client_secret_basic` (RFC 6749, section 2.3.1).
fn basic(client_id: &str, secret: &str) -> String {
    let pair = format!("{}:{}", encode(client_id), encode(secret));
    format!("Basic {}", STANDARD.encode(pair))
}

/// As a form has values: all but unreserved characters escaped (RFC 6749, appendix B, where a space may be
/// `%20` too).
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'-' | b'.' | b'_' | b'~' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                encoded.push(char::from(byte));
            }
            _ => encoded += &format!("%{byte:02X}"),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_escaped() {
        assert_eq!(encode("a-b.c_d~e+f/g=="), "a-b.c_d~e%2Bf%2Fg%3D%3D");
        // `gate:way` and `p ä`.
        assert_eq!(
            basic("gate:way", "p \u{e4}"),
            format!("Basic {}", STANDARD.encode("gate%3Away:p%20%C3%A4"))
        );
    }
}
