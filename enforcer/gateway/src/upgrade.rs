//! Connections that are switched to WebSocket (RFC 6455): over HTTP/1.1 by `Upgrade` (RFC 9110 section
//! 7.8), over HTTP/2 by Extended CONNECT (RFC 8441). Services are asked over HTTP/1.1 in either case. And CONNECT (RFC
//! 9110 section 9.3.6), which leads where its rule leads, and not wherever the client says.
//!
//! Only a rule that names the protocol lets it through, and bytes are handed on unread only after the
//! service has switched in answer to this very request: its `sec-websocket-accept` is checked, so that
//! no other response makes the gateway hand on what it would have had to look at.

use std::rc::Rc;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode, Version,
    header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, TE, UPGRADE},
    request::Parts,
};
use hyper::{ext::Protocol, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;

use super::{
    connection::{Connection, UnderWay},
    refusal::Refusal,
    signal::Verdict,
    tunnel::Tunnel,
};
use enforcer_http_rules::known_fields::Present;
use enforcer_model::{Rule, Upgrade};

const WEBSOCKET: &str = "websocket";

/// What the key is hashed with (RFC 6455 section 1.3).
const ACCEPTING: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A client's wish to switch.
#[derive(Debug)]
pub(super) struct Asked(Way);

/// How it was expressed.
#[derive(Debug)]
enum Way {
    Upgrade,
    /// Extended CONNECT, for WebSocket.
    Extended(OnUpgrade),
    /// CONNECT; over HTTP/2 with the client's stream.
    Connect(Option<OnUpgrade>),
}

/// A wish that has been told to the service.
#[derive(Debug)]
pub(super) struct Told {
    way: Way,
    /// What the service must answer.
    accept: String,
}

/// The wish in a request's head, which has the fields that are `present`. One by Extended CONNECT becomes a GET, which
/// is what it is matched as.
///
/// # Errors
/// When it asks for a protocol that is not known.
pub(super) fn asked(parts: &mut Parts, present: Present) -> Result<Option<Asked>, Refusal> {
    if parts.method == Method::CONNECT {
        let over_http2 = parts.version == Version::HTTP_2;
        let switch = parts.extensions.remove::<OnUpgrade>().filter(|_| over_http2);
        let Some(protocol) = parts.extensions.remove::<Protocol>() else {
            return Ok(Some(Asked(Way::Connect(switch))));
        };
        let (WEBSOCKET, Some(switch)) = (protocol.as_str(), switch) else {
            return Err(not_permitted());
        };
        parts.method = Method::GET;
        return Ok(Some(Asked(Way::Extended(switch))));
    }
    let wished = parts.version == Version::HTTP_11
        && parts.method == Method::GET
        && present.has(Present::UPGRADE)
        && is_websocket(&parts.headers)
        && lists_upgrade(&parts.headers);
    Ok(wished.then_some(Asked(Way::Upgrade)))
}

/// By Extended CONNECT for a protocol that is not offered (RFC 9220 section 3 has this status for it).
fn not_permitted() -> Refusal {
    let detail = "the connection cannot be switched to that protocol here";
    Refusal::new(Verdict::Invalid, StatusCode::NOT_IMPLEMENTED, detail)
}

/// Whether `upgrade` is WebSocket, and nothing else beside.
fn is_websocket(headers: &HeaderMap) -> bool {
    let mut fields = headers.get_all(UPGRADE).iter();
    let first = fields.next().map(HeaderValue::as_bytes);
    first.is_some_and(|first| first.eq_ignore_ascii_case(WEBSOCKET.as_bytes())) && fields.next().is_none()
}

fn lists_upgrade(headers: &HeaderMap) -> bool {
    headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
}

impl Asked {
    /// The wish, if `rule` grants it. An `Upgrade` that is not granted is left unheeded, as RFC 9110 allows.
    ///
    /// # Errors
    /// When there is a body, or what is asked by CONNECT is not granted.
    pub(super) fn granted(self, rule: &Rule, has_body: bool) -> Result<Option<Self>, Refusal> {
        let wanted = match self.0 {
            Way::Upgrade | Way::Extended(_) => Upgrade::WebSocket,
            Way::Connect(_) => Upgrade::Connect,
        };
        if !rule.routing.upgrade.contains(&wanted) {
            return match self.0 {
                Way::Upgrade => Ok(None),
                Way::Extended(_) | Way::Connect(_) => Err(not_permitted()),
            };
        }
        if has_body {
            return Err(Refusal::invalid("a request that switches protocols has no body"));
        }
        Ok(Some(self))
    }

    /// The wish, if the service is to be asked for what it is by a request: all but CONNECT.
    pub(super) fn is_of_http(&self) -> bool {
        !matches!(self.0, Way::Connect(_))
    }

    /// Answers CONNECT, and joins the two sides once that has been sent.
    pub(super) fn connected(self, tunnel: Tunnel, connection: &Rc<Connection>) -> http::response::Parts {
        let told = Told {
            way: self.0,
            accept: String::new(),
        };
        let (mut head, ()) = Response::new(()).into_parts();
        told.switch(&mut head, tunnel, connection);
        head
    }

    /// Writes the wish into the fields that the service gets.
    ///
    /// # Errors
    /// When the client has sent no key, or several.
    pub(super) fn tell(self, headers: &mut HeaderMap) -> Result<Told, Refusal> {
        if matches!(self.0, Way::Extended(_)) {
            // HTTP/2 has no key (RFC 8441 section 5), and the service's HTTP/1.1 needs one.
            let mut nonce = [0; 16];
            let made = aws_lc_rs::rand::fill(&mut nonce).ok();
            let key = made.and_then(|()| HeaderValue::try_from(STANDARD.encode(nonce)).ok());
            headers.insert(SEC_WEBSOCKET_KEY, key.ok_or_else(broken)?);
        }
        let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
        let (Some(key), None) = (keys.next(), keys.next()) else {
            return Err(Refusal::invalid("a WebSocket request has one sec-websocket-key"));
        };
        let accept = accept(key.as_bytes());
        headers.remove(TE);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
        Ok(Told { way: self.0, accept })
    }
}

fn accept(key: &[u8]) -> String {
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, ACCEPTING].concat());
    STANDARD.encode(hash.as_ref())
}

fn broken() -> Refusal {
    let detail = "the service gave no valid response";
    Refusal::new(Verdict::Upstream, StatusCode::BAD_GATEWAY, detail)
}

impl Told {
    /// Judges a response's head before its fields are prepared for the client: whether the service has switched.
    ///
    /// # Errors
    /// When it switched to something else, or answered what over HTTP/2 would count as having switched.
    pub(super) fn is_switched<B>(&self, response: &Response<B>) -> Result<bool, Refusal> {
        let headers = response.headers();
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let accepted = headers
                .get(SEC_WEBSOCKET_ACCEPT)
                .is_some_and(|value| value.as_bytes() == self.accept.as_bytes());
            return (accepted && is_websocket(headers))
                .then_some(true)
                .ok_or_else(broken);
        }
        if matches!(self.way, Way::Extended(_)) && response.status().is_success() {
            return Err(broken());
        }
        Ok(false)
    }

    /// Makes the head of the answer to the client, and joins the two sides once it has been sent.
    pub(super) fn switch(
        self,
        head: &mut http::response::Parts,
        tunnel: Tunnel,
        connection: &Rc<Connection>,
    ) {
        match self.way {
            Way::Upgrade => {
                head.headers
                    .insert(CONNECTION, HeaderValue::from_static("upgrade"));
                head.headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
                connection.tunnel.set(Some(Box::new(tunnel)));
            }
            Way::Extended(client) | Way::Connect(Some(client)) => {
                head.status = StatusCode::OK;
                head.headers.remove(SEC_WEBSOCKET_ACCEPT);
                let under_way = UnderWay::new(connection);
                tokio::task::spawn_local(async move {
                    // It fails when the client goes away before the answer.
                    if let Ok(client) = client.await {
                        tunnel.run(TokioIo::new(client), Bytes::new()).await;
                    }
                    drop(under_way);
                });
            }
            Way::Connect(None) => connection.tunnel.set(Some(Box::new(tunnel))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standards_own_example() {
        // RFC 6455 section 1.3.
        assert_eq!(
            accept(b"dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    #[test]
    fn only_a_whole_wish_counts() {
        let wish = |version, method: &str, upgrade: &str, connection: &str| {
            let request = http::Request::builder()
                .version(version)
                .method(method)
                .header("upgrade", upgrade)
                .header("connection", connection);
            let mut parts = request.body(()).unwrap().into_parts().0;
            let present = Present::in_request(&parts.headers);
            asked(&mut parts, present).unwrap().is_some()
        };
        assert!(wish(Version::HTTP_11, "GET", "WebSocket", "keep-alive, Upgrade"));
        assert!(!wish(Version::HTTP_10, "GET", "websocket", "upgrade"));
        assert!(!wish(Version::HTTP_11, "POST", "websocket", "upgrade"));
        assert!(!wish(Version::HTTP_11, "GET", "h2c, websocket", "upgrade"));
        assert!(!wish(Version::HTTP_11, "GET", "websocket", "keep-alive"));
    }
}
