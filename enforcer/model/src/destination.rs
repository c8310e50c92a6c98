//! Where the requests of a rule go, and what is changed on the way.

use std::{num::NonZeroU16, sync::Arc};

use http::{HeaderName, HeaderValue, StatusCode, uri::Scheme};

use super::leaf::{Name, Pattern, Template};

/// Where a rule's requests go.
#[derive(Clone, Debug)]
pub enum Destination {
    /// At least one, and one of a weight other than zero. Each request goes to one of them, at random.
    Services(Vec<Weighted>),
    /// To no service: the client is told to ask elsewhere.
    Redirect(Redirect),
}

/// A service, and its part of the requests.
#[derive(Clone, Debug)]
pub struct Weighted {
    pub service: Name,
    /// Of the sum of all.
    pub weight: u32,
}

/// Who gets copies of a rule's requests.
#[derive(Clone, Debug)]
pub struct Mirror {
    pub service: Name,
    /// How many of a hundred requests are copied, chosen at random: 1 to 100.
    pub percent: u8,
}

/// Where else a client is to ask.
#[derive(Clone, Debug)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// `None`: as the client has come.
    pub scheme: Option<Scheme>,
    /// `None`: that of the request.
    pub host: Option<Arc<str>>,
    /// `None`: the scheme's own.
    pub port: Option<NonZeroU16>,
    /// `None`: that of the request.
    pub path: Option<PathChange>,
}

/// What a service gets in place of what the client has written.
#[derive(Clone, Debug, Default)]
pub struct Rewrite {
    pub path: Option<PathChange>,
    /// Name, and port where there is one.
    pub host: Option<HeaderValue>,
}

/// A path in place of another. The query stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// The beginning of the path, both without a slash at their ends.
    Prefix { from: Arc<str>, to: Arc<str> },
    /// The whole path.
    Whole(Arc<str>),
    /// The whole path, if it is like the pattern; else it stays.
    Regex { pattern: Pattern, with: Template },
}

/// What becomes of header fields: removed, then set, then added.
#[derive(Clone, Debug, Default)]
pub struct FieldChanges {
    pub remove: Vec<HeaderName>,
    /// In place of what there was.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Beside what there is.
    pub add: Vec<(HeaderName, HeaderValue)>,
}

impl Destination {
    /// All requests to one service.
    #[must_use]
    pub fn to(service: Name) -> Self {
        Self::Services(vec![Weighted { service, weight: 1 }])
    }

    /// The services, none where requests are redirected.
    #[must_use]
    pub fn services(&self) -> &[Weighted] {
        match self {
            Self::Services(services) => services,
            Self::Redirect(_) => &[],
        }
    }
}
