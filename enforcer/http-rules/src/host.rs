//! Which host a request is for.
//!
//! HTTP/2 says it in `:authority`, HTTP/1.1 in `Host` or in an absolute target. Whatever says it must
//! say the same (RFC 9112 section 3.2, RFC 9113 section 8.3.1). Policies compare the name in lower
//! case, without port and without a final dot; the upstream gets it in that form, with the port.

use http::{HeaderMap, HeaderValue, Uri, header::HOST};

/// Longest host and port: a DNS name of 253 characters and a port.
const MAX_LENGTH: usize = 259;

/// The host of a request, as it is matched and forwarded.
#[derive(Clone, Debug)]
pub struct Host {
    /// `name` or `name:port`: the request's own value, if it reads so.
    value: HeaderValue,
    name_length: usize,
    as_written: bool,
}

/// Why a request's host is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
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
    pub fn of(uri: &Uri, headers: &HeaderMap) -> Result<Self, HostError> {
        let mut fields = headers.get_all(HOST).iter();
        let field = fields.next();
        if fields.next().is_some() {
            return Err(HostError::Several);
        }
        let field = field.map(Self::of_field).transpose()?;
        let target = uri
            .authority()
            .map(|authority| Self::parse(authority.as_str()))
            .transpose()?;
        match (target, field) {
            (None, None) => Err(HostError::Missing),
            (Some(host), None) | (None, Some(host)) => Ok(host),
            (Some(target), Some(field)) if target.value == field.value => Ok(field),
            (Some(_), Some(_)) => Err(HostError::Different),
        }
    }

    /// The name alone, for matching.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.text()[..self.name_length]
    }

    /// Name and port, for forwarding.
    #[must_use]
    pub fn value(&self) -> &HeaderValue {
        &self.value
    }

    /// The same.
    #[must_use]
    pub fn into_value(self) -> HeaderValue {
        self.value
    }

    /// Whether [`Self::value`] is what the request's field has.
    #[must_use]
    pub fn is_as_written(&self) -> bool {
        self.as_written
    }

    fn text(&self) -> &str {
        // It was read from text, and has ASCII only.
        str::from_utf8(self.value.as_bytes()).unwrap_or_default()
    }

    /// Name and port, without the port if it is the scheme's.
    #[must_use]
    pub fn without_default_port(&self, https: bool) -> &str {
        let (name, port) = self.text().split_at(self.name_length);
        if port == if https { ":443" } else { ":80" } {
            name
        } else {
            self.text()
        }
    }

    fn of_field(field: &HeaderValue) -> Result<Self, HostError> {
        let text = str::from_utf8(field.as_bytes()).map_err(|_| HostError::Malformed)?;
        let (name, port) = split(text)?;
        if !is_normal(text, name, port) {
            return Self::normal(name, port);
        }
        Ok(Self {
            name_length: name.len(),
            value: field.clone(),
            as_written: true,
        })
    }

    fn parse(text: &str) -> Result<Self, HostError> {
        let (name, port) = split(text)?;
        if !is_normal(text, name, port) {
            return Self::normal(name, port);
        }
        Ok(Self {
            name_length: name.len(),
            value: HeaderValue::from_str(text).map_err(|_| HostError::Malformed)?,
            as_written: false,
        })
    }

    /// In lower case. Only characters that a field may have are let in, so it is never malformed.
    fn normal(name: &str, port: &str) -> Result<Self, HostError> {
        let text = format!("{name}{port}").to_ascii_lowercase();
        Ok(Self {
            name_length: name.len(),
            value: HeaderValue::try_from(text).map_err(|_| HostError::Malformed)?,
            as_written: false,
        })
    }
}

/// Whether `text` has nothing beside `name` and `port`, and both have their normal form.
fn is_normal(text: &str, name: &str, port: &str) -> bool {
    name.len() + port.len() == text.len() && !name.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// The name without a final dot, and the port with its colon, or nothing if there is none.
fn split(text: &str) -> Result<(&str, &str), HostError> {
    if text.len() > MAX_LENGTH {
        return Err(HostError::Malformed);
    }
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
            if !is_name(name) {
                return Err(HostError::Malformed);
            }
            (name, port)
        }
    };
    // `name:` is allowed and means the scheme's port (RFC 3986 section 3.2.3).
    match port.strip_prefix(':') {
        None if port.is_empty() => Ok((name, "")),
        Some("") => Ok((name, "")),
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse::<u16>().is_ok() => {
            Ok((name, port))
        }
        _ => Err(HostError::Malformed),
    }
}

/// Whether it has at least one label and no empty one. One final dot was taken off: another would make it a name that
/// no rule is written for.
fn is_name(text: &str) -> bool {
    let mut before = b'.';
    for byte in text.bytes() {
        let fits = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        if !fits || (byte == b'.' && before == b'.') {
            return false;
        }
        before = byte;
    }
    before != b'.'
}

/// A host that is written, as requests name it. `None`: it is none.
pub fn value(text: &str) -> Option<HeaderValue> {
    Host::parse(text).map(Host::into_value).ok()
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
        Ok(format!("{} {}", host.name(), host.value().to_str().unwrap()))
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

    #[test]
    fn what_is_written_in_its_normal_form_is_kept() {
        for (uri, host, as_written) in [
            ("/", "api.example.com", true),
            ("/", "a_b-c.1:8443", true),
            ("/", "[2001:db8::1]", true),
            ("/", "[2001:db8::1]:80", true),
            ("http://a.b/", "a.b", true),
            ("http://A.b./", "a.b", true),
            ("http://a.b/", "A.b", false),
            ("/", "api.Example.com", false),
            ("/", "api.example.com.", false),
            ("/", "api.example.com:", false),
            ("/", "[2001:DB8::1]", false),
            ("/", "[2001:db8::1]:", false),
        ] {
            let value = HeaderValue::from_static(host);
            let headers = HeaderMap::from_iter([(HOST, value.clone())]);
            let of = Host::of(&uri.parse().unwrap(), &headers).unwrap();
            assert_eq!(of.is_as_written(), as_written, "{uri} {host}");
            assert_eq!(of.value() == value, as_written, "{uri} {host}");
        }
        let target = Host::of(&Uri::from_static("https://a.b/"), &HeaderMap::new()).unwrap();
        assert!(!target.is_as_written(), "there is no field");
    }
}
