//! What is recorded.

use std::{borrow::Cow, net::IpAddr};

use enforcer_common::verdict::Reason;
use ipnet::IpNet;
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// The longest path, in bytes, and the longest of other texts that clients write.
const LONGEST_PATH: usize = 1024;
const LONGEST_TEXT: usize = 256;

/// A record with its time.
#[derive(Debug, Serialize)]
pub(super) struct Timed<'a, T> {
    /// RFC 3339, UTC.
    time: String,
    #[serde(flatten)]
    record: &'a T,
}

impl<'a, T> Timed<'a, T> {
    pub(super) fn now(record: &'a T) -> Self {
        Self {
            time: OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
            record,
        }
    }
}

/// What became of a request.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase", tag = "event", rename = "request")]
pub struct RequestRecord<'a> {
    pub verdict: &'a str,
    /// What was missing, as `enforcer_denials_total` names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    /// The sentence that the client got.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<&'a str>,
    /// The verdict was counted alone.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub shadow: bool,
    pub status: u16,
    pub source: IpAddr,
    pub source_port: u16,
    pub listener: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<&'a str>,
    /// Its position in the route, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<&'a str>,
    pub method: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<Cow<'a, str>>,
    /// As the client sent it, without the query.
    pub path: Cow<'a, str>,
    /// The client certificate's identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<&'a str>,
    /// What the kernel takes the connection for: `verified` or `unverified`.
    pub class: &'a str,
    /// The token's issuer, `sub` and `client_id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<&'a str>,
    /// What the API key is called, and whose it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<&'a str>,
    /// Of a valid `traceparent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<&'a str>,
    /// What the client wrote into `x-request-id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<Cow<'a, str>>,
}

impl RequestRecord<'_> {
    /// As a line.
    #[must_use]
    pub fn line(&self) -> Vec<u8> {
        super::line(self)
    }
}

/// What became of a connection whose TLS a service ends.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase", tag = "event", rename = "passthrough")]
pub struct PassthroughRecord<'a> {
    pub verdict: &'a str,
    /// What was missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    /// The verdict was counted alone.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub shadow: bool,
    pub source: IpAddr,
    pub source_port: u16,
    pub listener: &'a str,
    pub route: &'a str,
    pub service: &'a str,
    /// Whom the client asked for (SNI).
    pub name: &'a str,
}

impl PassthroughRecord<'_> {
    /// As a line.
    #[must_use]
    pub fn line(&self) -> Vec<u8> {
        super::line(self)
    }
}

/// A connection of a client that was not made.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase", tag = "event", rename = "connection")]
pub struct ConnectionRecord<'a> {
    /// As `enforcer_handshakes_total` names it.
    pub result: &'a str,
    /// What exactly was wrong, in a word.
    pub reason: &'a str,
    /// The same in a sentence.
    pub detail: Cow<'a, str>,
    pub source: IpAddr,
    pub source_port: u16,
    /// The load balancer that has named the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<IpAddr>,
    pub listener: &'a str,
}

impl ConnectionRecord<'_> {
    /// As a line.
    #[must_use]
    pub fn line(&self) -> Vec<u8> {
        super::line(self)
    }
}

/// What the agent or its operator has done.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "camelCase", tag = "event")]
pub enum Event<'a> {
    /// The agent has begun.
    Started { version: &'a str },
    /// It ends.
    Stopping { version: &'a str },
    PoliciesApplied {
        generation: u64,
        digest: &'a str,
        packet_policies: usize,
        routes: usize,
        services: usize,
        issuers: usize,
    },
    /// The last good ones stay.
    PoliciesRefused { why: &'a str },
    /// The configuration file was read again, and these fields have new values.
    ConfigurationApplied { changed: &'a [&'static str] },
    /// It was read again and is refused.
    ConfigurationRefused { why: &'a str },
    Denied {
        prefix: IpNet,
        /// Who did: as the kernel's reason is named.
        by: &'a str,
        /// Who says to be the operator.
        #[serde(skip_serializing_if = "Option::is_none")]
        operator: Option<&'a str>,
        reason: &'a str,
        seconds: u64,
    },
    /// By the operator, before its time.
    DenialEnded {
        prefix: IpNet,
        #[serde(skip_serializing_if = "Option::is_none")]
        operator: Option<&'a str>,
    },
    /// A proof holds again: by the operator, before its time.
    RevocationEnded {
        whom: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        operator: Option<&'a str>,
    },
    /// By the operator.
    Revoked {
        whom: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        operator: Option<&'a str>,
        reason: &'a str,
        seconds: u64,
        gateway_connections: usize,
        tcp_sockets: usize,
        udp_sockets: usize,
        shortfalls: &'a [String],
    },
}

impl Event<'_> {
    /// Whether the agent has done it by itself, because of what a source did.
    pub(super) fn is_automatic(&self) -> bool {
        match self {
            Self::Denied { by, .. } => *by != Reason::DeniedByOperator.name(),
            _ => false,
        }
    }
}

/// A path, not too long.
#[must_use]
pub fn path(text: &str) -> Cow<'_, str> {
    bounded(text.as_bytes(), LONGEST_PATH)
}

/// What a client wrote into a header field, not too long.
#[must_use]
pub fn text(bytes: &[u8]) -> Cow<'_, str> {
    bounded(bytes, LONGEST_TEXT)
}

/// Cut with a mark; what is no UTF-8 is replaced.
fn bounded(bytes: &[u8], longest: usize) -> Cow<'_, str> {
    match bytes.get(..longest) {
        Some(head) if bytes.len() > longest => format!("{}…", String::from_utf8_lossy(head)).into(),
        _ => String::from_utf8_lossy(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_write_stays_in_its_place() {
        let long = format!("/\r\n{}", "x".repeat(2000));
        let record = RequestRecord {
            verdict: "no_route",
            reason: None,
            detail: None,
            shadow: false,
            status: 404,
            source: "192.0.2.7".parse().unwrap(),
            source_port: 7,
            listener: "main",
            route: None,
            rule: None,
            service: None,
            method: "GET",
            host: Some(text(b"a\"\n{\xff")),
            path: path(&long),
            certificate: None,
            class: "unverified",
            issuer: None,
            subject: None,
            client: None,
            api_key: None,
            owner: None,
            trace: None,
            request_id: None,
        };
        let line = record.line();
        assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
        assert!(line.len() < 1500, "{}", line.len());
        let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(value["event"], "request");
        assert_eq!(value["host"], "a\"\n{\u{fffd}");
        assert!(value["time"].as_str().unwrap().ends_with('Z'));
        assert_eq!(value.as_object().unwrap().len(), 11, "{value}");
    }
}
