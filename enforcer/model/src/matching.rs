//! What a rule looks at in a request beside its path and method.

use std::sync::Arc;

use http::HeaderName;

use super::leaf::Pattern;

/// What some part of a request must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub part: Part,
    pub test: Test,
}

/// A part of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// A header field. One that comes several times is its values joined by `, ` (RFC 9110 section 5.3), a cookie
    /// by `; ` (RFC 9113 section 8.2.3).
    Header(HeaderName),
    /// A parameter of the query, its escapes decoded and `+` read as a space. The first of that name.
    Query(Arc<str>),
}

/// What its value must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// These bytes.
    Exact(Arc<str>),
    /// These bytes, and any others behind them.
    Prefix(Arc<str>),
    /// As a whole like this.
    Regex(Pattern),
    /// Anything, or it must not be there.
    Present(bool),
}
