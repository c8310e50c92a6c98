//! Who may change what: the token, and no requests that a web page made a browser send.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header::HOST},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::AdminError;

/// The token's file in the runtime directory. A new one at each start.
pub const TOKEN_FILE: &str = "admin.token";
/// The header that carries it.
pub const TOKEN_HEADER: &str = "x-enforcer-token";

/// Where a request has come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// The admin address, on loopback.
    Loopback,
    /// The admin address, where others than this machine reach it.
    Open,
    /// The socket in the runtime directory.
    Socket,
}

/// Who has connected.
#[derive(Clone, Copy, Debug, Default)]
pub struct Caller {
    /// By the kernel's word; over a socket of this machine alone.
    uid: Option<u32>,
}

impl Caller {
    /// A process of that user.
    pub fn of(uid: u32) -> Self {
        Self { uid: Some(uid) }
    }
}

/// Whether whoever asks has shown that changes are theirs to make.
#[derive(Clone, Copy, Debug)]
pub struct Trusted(pub bool);

/// The token of this run, and who needs none.
#[derive(Debug)]
pub struct Guard {
    token: String,
    path: PathBuf,
    /// The agent's user.
    owner: Option<u32>,
}

impl Guard {
    /// Draws a token and writes it where the agent's own user alone can read it.
    pub fn new(runtime_dir: &Path, owner: Option<u32>) -> Result<Self, AdminError> {
        let mut secret = [0; 32];
        aws_lc_rs::rand::fill(&mut secret).map_err(|_| AdminError::Randomness)?;
        let guard = Self {
            token: URL_SAFE_NO_PAD.encode(secret),
            path: runtime_dir.join(TOKEN_FILE),
            owner,
        };
        guard.write().map_err(|source| AdminError::Token {
            path: guard.path.display().to_string(),
            source,
        })?;
        Ok(guard)
    }

    /// Writes the token again if its file has gone or says something else.
    pub fn keep(&self) -> io::Result<bool> {
        if fs::read_to_string(&self.path).is_ok_and(|text| text.trim() == self.token) {
            return Ok(false);
        }
        self.write().map(|()| true)
    }

    fn write(&self) -> io::Result<()> {
        // A file that was there may have another mode, or be a link to somewhere else.
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&self.path)?;
        writeln!(file, "{}", self.token)
    }

    fn knows(&self, headers: &HeaderMap) -> bool {
        let offered = headers.get(TOKEN_HEADER).map(http::HeaderValue::as_bytes);
        offered.is_some_and(|offered| {
            aws_lc_rs::constant_time::verify_slices_are_equal(offered, self.token.as_bytes()).is_ok()
        })
    }

    /// Root, or the agent's own user.
    fn is_own(&self, caller: Caller) -> bool {
        caller.uid.is_some_and(|uid| uid == 0 || Some(uid) == self.owner)
    }
}

/// Lets a request through or answers it.
pub async fn check(
    State((guard, surface)): State<(Arc<Guard>, Surface)>,
    mut request: Request,
    next: Next,
) -> Response {
    if surface != Surface::Socket && !is_direct(request.headers()) {
        let text = "the admin address is to be named by its IP address or as localhost; `metrics.address` \
                    also answers to names\n";
        return (StatusCode::MISDIRECTED_REQUEST, text).into_response();
    }
    let caller = request.extensions().get::<Caller>().copied().unwrap_or_default();
    let trusted = guard.is_own(caller) || guard.knows(request.headers());
    if !trusted && needs_trust(surface, request.method(), request.uri().path()) {
        let what = match surface {
            Surface::Loopback => "changes take",
            Surface::Open => "beyond loopback, all but health and metrics takes",
            Surface::Socket => "users other than root and the agent's own need",
        };
        let text = format!("{what} the token of {TOKEN_FILE} in the runtime directory, as {TOKEN_HEADER}\n");
        return (StatusCode::UNAUTHORIZED, text).into_response();
    }
    request.extensions_mut().insert(Trusted(trusted));
    next.run(request).await
}

/// Reading is free on loopback. Elsewhere what names subjects and addresses is not.
fn needs_trust(surface: Surface, method: &Method, path: &str) -> bool {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    match surface {
        Surface::Loopback => !reads,
        Surface::Open => !reads || !matches!(path, "/healthz" | "/readyz" | "/metrics"),
        Surface::Socket => true,
    }
}

/// Whether the host is an address or localhost: a name that an attacker makes resolve to loopback (DNS
/// rebinding) is neither.
fn is_direct(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST).and_then(|host| host.to_str().ok()) else {
        return false;
    };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn host(name: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(HOST, name.parse().unwrap())])
    }

    #[test]
    fn only_addresses_and_localhost_are_direct() {
        for name in [
            "127.0.0.1:9600",
            "127.0.0.1",
            "[::1]:9600",
            "localhost:9600",
            "LOCALHOST",
        ] {
            assert!(is_direct(&host(name)), "{name}");
        }
        for name in ["evil.example:9600", "localhost.evil.example", ""] {
            assert!(!is_direct(&host(name)), "{name}");
        }
        assert!(!is_direct(&HeaderMap::new()));
    }

    #[test]
    fn the_token_is_for_its_owner_alone_and_new_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = Guard::new(folder.path(), None).unwrap();
        let second = Guard::new(folder.path(), None).unwrap();
        assert_ne!(first.token, second.token);
        let path = folder.path().join(TOKEN_FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(&path).unwrap().trim(), second.token);
        let headers = |token: &str| {
            HeaderMap::from_iter([(
                http::HeaderName::from_static(TOKEN_HEADER),
                token.parse().unwrap(),
            )])
        };
        assert!(second.knows(&headers(&second.token)));
        assert!(!second.knows(&headers(&first.token)));
        assert!(!second.knows(&HeaderMap::new()));
    }

    #[test]
    fn m3_a_token_that_was_deleted_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let guard = Guard::new(folder.path(), None).unwrap();
        let path = folder.path().join(TOKEN_FILE);
        assert!(!guard.keep().unwrap());
        fs::remove_file(&path).unwrap();
        assert!(guard.keep().unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap().trim(), guard.token);
        fs::write(&path, "another agent's").unwrap();
        assert!(guard.keep().unwrap());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn m3_root_and_the_agents_user_need_no_token_over_the_socket() {
        let folder = tempfile::tempdir().unwrap();
        let guard = Guard::new(folder.path(), Some(998)).unwrap();
        assert!(guard.is_own(Caller::of(0)));
        assert!(guard.is_own(Caller::of(998)));
        assert!(!guard.is_own(Caller::of(65534)));
        assert!(!guard.is_own(Caller::default()));
    }

    #[test]
    fn m3_beyond_loopback_only_health_and_metrics_are_free() {
        for path in ["/healthz", "/readyz", "/metrics"] {
            assert!(!needs_trust(Surface::Open, &Method::GET, path), "{path}");
            assert!(needs_trust(Surface::Open, &Method::POST, path), "{path}");
        }
        for path in [
            "/v1/status",
            "/v1/explain",
            "/v1/events",
            "/v1/denials",
            "/v1/revocations",
        ] {
            assert!(needs_trust(Surface::Open, &Method::GET, path), "{path}");
            assert!(!needs_trust(Surface::Loopback, &Method::GET, path), "{path}");
            assert!(needs_trust(Surface::Loopback, &Method::DELETE, path), "{path}");
        }
        assert!(needs_trust(Surface::Socket, &Method::GET, "/v1/status"));
    }
}
