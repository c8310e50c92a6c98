//! Which host a request is for.
//!
//! HTTP/2 says it in `:authority`, HTTP/1.1 in `Host` or in an absolute target. Whatever says it must
//! say the same (RFC 9112 section 3.2, RFC 9113 section 8.3.1). Policies compare the name in lower
//! case, without port and without a final dot; the upstream gets it in that form, with the port.

use http::{HeaderMap, HeaderValue, Uri, header::HOST};

/// Longest host and port: a DNS name of 253 characters and a port.
const MAX_LENGTH: usize = 259;

/// The host of a request, as it is matched and forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    /// `name` or `name:port`.
    text: Box<str>,
    name_length: usize,
}

/// Why a request's host is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HostError {
    #[error("the request names no host")]
    Missing,
    #[error("the request names its host more than once")]
    Several,
    #[error("the request names two different hosts")]
    Different,
    #[error("the request's host is no name and no address")]
    Malformed,
}

impl Host {
    /// The host that `uri` and `headers` agree on.
    ///
    /// # Errors
    /// When they do not, or name none.
    pub(super) fn of(uri: &Uri, headers: &HeaderMap) -> Result<Self, HostError> {
        let mut fields = headers.get_all(HOST).iter();
        let field = fields.next();
        if fields.next().is_some() {
            return Err(HostError::Several);
        }
        let field = field.map(|value| Self::parse(value.as_bytes())).transpose()?;
        let target = uri
            .authority()
            .map(|authority| Self::parse(authority.as_str().as_bytes()))
            .transpose()?;
        match (target, field) {
            (None, None) => Err(HostError::Missing),
            (Some(host), None) | (None, Some(host)) => Ok(host),
            (Some(target), Some(field)) if target == field => Ok(field),
            (Some(_), Some(_)) => Err(HostError::Different),
        }
    }

    /// The name alone, for matching.
    #[must_use]
    pub(super) fn name(&self) -> &str {
        &self.text[..self.name_length]
    }

    /// Name and port, for forwarding.
    ///
    /// # Errors
    /// Never: only characters that a field may have are let in.
    pub(super) fn value(&self) -> Result<HeaderValue, HostError> {
        HeaderValue::from_str(&self.text).map_err(|_| HostError::Malformed)
    }

    /// Name and port, without the port if it is the scheme's.
    #[must_use]
    pub(super) fn without_default_port(&self, https: bool) -> &str {
        let (name, port) = self.text.split_at(self.name_length);
        if port == if https { ":443" } else { ":80" } {
            name
        } else {
            &self.text
        }
    }

    fn parse(text: &[u8]) -> Result<Self, HostError> {
        if text.len() > MAX_LENGTH {
            return Err(HostError::Malformed);
        }
        let text = std::str::from_utf8(text)
            .map_err(|_| HostError::Malformed)?
            .to_ascii_lowercase();
        let (name, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, port)) => {
                address
                    .parse::<std::net::Ipv6Addr>()
                    .map_err(|_| HostError::Malformed)?;
                (&text[..address.len() + 2], port)
            }
            None => {
                let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
                let name = name.strip_suffix('.').unwrap_or(name);
                let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
                // One final dot was taken off: another would make it a name that no rule is written for.
                let has_empty_label = name.starts_with('.') || name.ends_with('.') || name.contains("..");
                if name.is_empty() || has_empty_label || !name.bytes().all(fits) {
                    return Err(HostError::Malformed);
                }
                (name, port)
            }
        };
        // `name:` is allowed and means the scheme's port (RFC 3986 section 3.2.3).
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => "",
            Some("") => "",
            Some(digits)
                if digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse::<u16>().is_ok() =>
            {
                port
            }
            _ => return Err(HostError::Malformed),
        };
        Ok(Self {
            name_length: name.len(),
            text: format!("{name}{port}").into(),
        })
    }
}

/// A host that is written, as requests name it. `None`: it is none.
pub(crate) fn value(text: &str) -> Option<HeaderValue> {
    Host::parse(text.as_bytes()).and_then(|host| host.value()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(uri: &str, hosts: &[&str]) -> Result<String, HostError> {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, HeaderValue::from_bytes(host.as_bytes()).unwrap());
        }
        let host = Host::of(&uri.parse().unwrap(), &headers)?;
        Ok(format!(
            "{} {}",
            host.name(),
            host.value().unwrap().to_str().unwrap()
        ))
    }

    #[test]
    fn hosts() {
        for (uri, hosts, expected) in [
            (
                "/",
                &["api.example.com"][..],
                Ok("api.example.com api.example.com"),
            ),
            (
                "/",
                &["API.Example.com:8443"],
                Ok("api.example.com api.example.com:8443"),
            ),
            (
                "/",
                &["api.example.com.:8443"],
                Ok("api.example.com api.example.com:8443"),
            ),
            ("/", &["api.example.com:"], Ok("api.example.com api.example.com")),
            ("/", &["[2001:DB8::1]:80"], Ok("[2001:db8::1] [2001:db8::1]:80")),
            ("https://a.b/x", &[], Ok("a.b a.b")),
            ("https://A.b/x", &["a.B"], Ok("a.b a.b")),
            ("https://a.b/x", &["a.c"], Err(HostError::Different)),
            ("https://a.b:1/x", &["a.b:2"], Err(HostError::Different)),
            ("/", &[], Err(HostError::Missing)),
            ("/", &["a", "a"], Err(HostError::Several)),
            ("/", &[""], Err(HostError::Malformed)),
            ("/", &["a b"], Err(HostError::Malformed)),
            ("/", &["user@a"], Err(HostError::Malformed)),
            ("/", &["a/b"], Err(HostError::Malformed)),
            ("/", &["a:99999"], Err(HostError::Malformed)),
            ("/", &["a:8o"], Err(HostError::Malformed)),
            ("/", &["a..b"], Err(HostError::Malformed)),
            ("/", &[".a"], Err(HostError::Malformed)),
            ("/", &["a.."], Err(HostError::Malformed)),
            ("/", &["[::1"], Err(HostError::Malformed)),
            ("/", &["[::1]x"], Err(HostError::Malformed)),
            ("/", &["\u{e9}.org"], Err(HostError::Malformed)),
        ] {
            assert_eq!(
                of(uri, hosts).as_deref().map_err(|error| *error),
                expected,
                "{uri} {hosts:?}"
            );
        }
    }
}
