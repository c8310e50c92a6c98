//! Who may change what: the token, and no requests that a web page made a browser send.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
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

/// The token of this run.
pub struct Guard {
    token: String,
}

impl Guard {
    /// Draws a token and writes it where the agent's own user alone can read it.
    pub fn new(runtime_dir: &Path) -> Result<Self, AdminError> {
        let mut secret = [0; 32];
        aws_lc_rs::rand::fill(&mut secret).map_err(|_| AdminError::Randomness)?;
        let token = URL_SAFE_NO_PAD.encode(secret);
        let path = runtime_dir.join(TOKEN_FILE);
        write(runtime_dir, &path, &token).map_err(|source| AdminError::Token {
            path: path.display().to_string(),
            source,
        })?;
        Ok(Self { token })
    }

    fn knows(&self, headers: &HeaderMap) -> bool {
        let offered = headers.get(TOKEN_HEADER).map(http::HeaderValue::as_bytes);
        offered.is_some_and(|offered| {
            aws_lc_rs::constant_time::verify_slices_are_equal(offered, self.token.as_bytes()).is_ok()
        })
    }
}

fn write(folder: &Path, path: &Path, token: &str) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    // A file that was there may have another mode, or be a link to somewhere else.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    writeln!(file, "{token}")
}

/// Lets a request through or answers it.
pub async fn check(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    if !is_direct(request.headers()) {
        let text = "the admin address is to be named by its IP address or as localhost\n";
        return (StatusCode::MISDIRECTED_REQUEST, text).into_response();
    }
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
    if changes && !guard.knows(request.headers()) {
        let text =
            format!("changes take the token of {TOKEN_FILE} in the runtime directory, as {TOKEN_HEADER}\n");
        return (StatusCode::UNAUTHORIZED, text).into_response();
    }
    next.run(request).await
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
        let first = Guard::new(folder.path()).unwrap();
        let second = Guard::new(folder.path()).unwrap();
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
}
