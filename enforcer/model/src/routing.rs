//! Which requests a rule is about, beside their paths and methods, and what may become of them.

use std::time::Duration;

use super::{
    destination::{FieldChanges, Mirror, Rewrite},
    matching::Condition,
};

/// Which requests a rule is about, beside their paths and methods, and how they are handled.
#[derive(Clone, Debug, Default)]
pub struct Routing {
    /// All must hold. Empty: nothing more is looked at.
    pub conditions: Vec<Condition>,
    pub rewrite: Rewrite,
    pub request_fields: FieldChanges,
    /// Of the service's responses, and of redirects.
    pub response_fields: FieldChanges,
    pub priority: Priority,
    pub mirror: Option<Mirror>,
    /// What connections may be switched to. Empty: nothing.
    pub upgrade: Vec<Upgrade>,
    /// How long a response or a switched connection may be silent. `None`: as long as the listener lets
    /// connections be idle.
    pub idle: Option<Duration>,
}

/// What a service's endpoints speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    #[default]
    Http1,
    /// Agreed on in TLS (ALPN, RFC 9113 section 3.2), and without TLS by prior knowledge (section 3.3).
    Http2,
}

/// Whose requests are refused first where not all can be served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    Low,
    #[default]
    Normal,
    High,
}

/// What a connection may be switched to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Upgrade {
    /// RFC 6455, over HTTP/2 by RFC 8441.
    WebSocket,
    /// Whatever the client and an endpoint speak (CONNECT, RFC 9110 section 9.3.6). Alone in its rule, whose method it is.
    Connect,
}
