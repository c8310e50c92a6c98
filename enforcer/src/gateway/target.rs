//! The request's target, brought into one form before anything looks at it (RFC 3986 section 6.2.2).
//!
//! What is matched is what is forwarded: the upstream gets the normalised path, so it cannot read
//! another path out of the request than the one that the policy admitted.
//! - Escapes of unreserved characters are decoded; all other escapes stay, in upper case.
//! - Dot segments are resolved. One that climbs above the root is refused.
//! - A run of slashes becomes one.
//! - Refused: escaped slashes, backslashes (escaped or not), control characters, bytes outside
//!   ASCII, broken escapes, and `;` (escaped or not): some servers take it and what follows out of the
//!   segment (RFC 3986 section 3.3), so that they read `/admin` where the policy has seen `/admin;x`.
//!
//! The query is forwarded as it came. Rules that look at it read it as forms are read: see
//! [`crate::policy::model::Part::Query`].

use std::borrow::Cow;

use http::{Uri, uri::PathAndQuery};

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TargetError {
    #[error("the target is not a path: it must begin with `/`")]
    NotAPath,
    #[error("the path has a `%` that two hexadecimal digits do not follow")]
    BrokenEscape,
    #[error("the path has an escaped slash, a backslash or a control character")]
    Forbidden,
    #[error("the path has a `;`, escaped or not: parameters of segments are not served")]
    Parameter,
    #[error("the path has bytes outside ASCII: escape them")]
    NotAscii,
    #[error("the path climbs above the root")]
    AboveRoot,
}

/// The target in origin form (RFC 9112 section 3.2.1), its path normalised.
///
/// # Errors
/// Why it is refused.
pub(super) fn origin_form(uri: Uri) -> Result<Uri, TargetError> {
    let path = normalise(uri.path())?;
    let whole = uri.path_and_query();
    // A target may have a query and no path: it is read as `/`, and must not be written as it is (RFC 9113, 8.3.1).
    let is_written = whole.is_some_and(|whole| whole.as_str().starts_with('/'));
    let is_plain = matches!(path, Cow::Borrowed(_)) && is_written;
    let is_path = uri.scheme().is_none() && uri.authority().is_none();
    if is_plain && is_path {
        return Ok(uri);
    }
    let whole = match (whole, uri.query()) {
        (Some(whole), _) if is_plain => Ok(whole.clone()),
        (_, None) => PathAndQuery::try_from(&*path),
        (_, Some(query)) => PathAndQuery::try_from(format!("{path}?{query}")),
    };
    whole.map(Uri::from).map_err(|_| TargetError::NotAPath)
}

/// `path` in its one form.
///
/// # Errors
/// Why the path is refused.
pub(super) fn normalise(path: &str) -> Result<Cow<'_, str>, TargetError> {
    if !path.starts_with('/') {
        return Err(TargetError::NotAPath);
    }
    if is_plain(path.as_bytes()) {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = decode(path.as_bytes())?;
    Ok(Cow::Owned(resolve(&decoded)?))
}

/// Whether services get the path as it is written.
pub(crate) fn is_normal(path: &str) -> bool {
    !path.contains(['?', '#']) && normalise(path).is_ok_and(|normal| normal == path)
}

/// Whether the path is already in its one form. May say no to one that is: then the slow way decides.
fn is_plain(path: &[u8]) -> bool {
    let mut previous = 0;
    for &byte in path {
        let suspicious = matches!(byte, b'%' | b'\\' | b';') || byte <= 0x20 || byte >= 0x7f;
        let segment = previous == b'/' && (byte == b'/' || byte == b'.');
        if suspicious || segment {
            return false;
        }
        previous = byte;
    }
    true
}

/// Decodes unreserved characters and refuses what must not be there.
fn decode(path: &[u8]) -> Result<String, TargetError> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'%' => {
                let (&[high, low], after) = rest.split_first_chunk().ok_or(TargetError::BrokenEscape)?;
                rest = after;
                let value = (digit(high)? << 4) | digit(low)?;
                match value {
                    b'/' | b'\\' | 0..0x20 | 0x7f => return Err(TargetError::Forbidden),
                    b';' => return Err(TargetError::Parameter),
                    b'-' | b'.' | b'_' | b'~' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                        out.push(char::from(value));
                    }
                    _ => {
                        out.push('%');
                        out.push(char::from(high.to_ascii_uppercase()));
                        out.push(char::from(low.to_ascii_uppercase()));
                    }
                }
            }
            b'\\' | 0..=0x20 | 0x7f => return Err(TargetError::Forbidden),
            b';' => return Err(TargetError::Parameter),
            0x80.. => return Err(TargetError::NotAscii),
            _ => out.push(char::from(byte)),
        }
    }
    Ok(out)
}

fn digit(byte: u8) -> Result<u8, TargetError> {
    match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        b'A'..=b'F' => Ok(byte - b'A' + 10),
        _ => Err(TargetError::BrokenEscape),
    }
}

/// Resolves dot segments and merges slashes.
fn resolve(path: &str) -> Result<String, TargetError> {
    let mut out = String::with_capacity(path.len());
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." => {}
            ".." => {
                let parent = out.rfind('/').ok_or(TargetError::AboveRoot)?;
                out.truncate(parent);
            }
            "" if !last => continue,
            _ => {
                out.push('/');
                out.push_str(segment);
                continue;
            }
        }
        if last {
            out.push('/');
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn forms() {
        for (raw, normal) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("/%61%2D%7e", "/a-~"),
            ("/a%3ab", "/a%3Ab"),
            ("/a%20b", "/a%20b"),
            ("//a///b//", "/a/b/"),
            ("/a/./b/.", "/a/b/"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/..b/.c", "/a/..b/.c"),
            ("/..a", "/..a"),
            ("/a%25b", "/a%25b"),
        ] {
            assert_eq!(normalise(raw).as_deref(), Ok(normal), "{raw}");
        }
    }

    #[test]
    fn refusals() {
        for (raw, error) in [
            ("*", TargetError::NotAPath),
            ("", TargetError::NotAPath),
            ("/a%", TargetError::BrokenEscape),
            ("/a%2", TargetError::BrokenEscape),
            ("/a%zz", TargetError::BrokenEscape),
            ("/a%2fb", TargetError::Forbidden),
            ("/a%5Cb", TargetError::Forbidden),
            ("/a\\b", TargetError::Forbidden),
            ("/a%00", TargetError::Forbidden),
            ("/a%0d%0a", TargetError::Forbidden),
            ("/a\u{e9}", TargetError::NotAscii),
            ("/..", TargetError::AboveRoot),
            ("/a/../../b", TargetError::AboveRoot),
            ("/a/..;/b", TargetError::Parameter),
            ("/a/.;x/b", TargetError::Parameter),
            ("/a/%2e%2e;/b", TargetError::Parameter),
            ("/a/b;x", TargetError::Parameter),
            ("/a/b%3bx", TargetError::Parameter),
            ("/a/b%3B", TargetError::Parameter),
            ("/a;v=1/b", TargetError::Parameter),
            (";", TargetError::NotAPath),
        ] {
            assert_eq!(normalise(raw), Err(error), "{raw}");
        }
    }

    #[test]
    fn targets() {
        for (written, form) in [
            ("/", Some("/")),
            ("/a?b=%2F/../c", Some("/a?b=%2F/../c")),
            ("/a//b/./c?d", Some("/a/b/c?d")),
            ("/a?", Some("/a?")),
            ("/%61?", Some("/a?")),
            ("http://a.b/c?d", Some("/c?d")),
            ("http://a.b//c?d", Some("/c?d")),
            ("http://a.b", Some("/")),
            ("http://a.b?c", Some("/?c")),
            ("a.b:80", None),
            ("*", None),
        ] {
            let made = origin_form(written.parse().unwrap());
            // As it is written: to URIs that are compared an empty path is `/`.
            let made = made.ok().map(|made| made.to_string());
            assert_eq!(made.as_deref(), form, "{written}");
        }
    }

    proptest! {
        #[test]
        fn normal_forms_are_fixed_points(raw in "/[a.%/;23beF5C-]{0,24}") {
            if let Ok(normal) = normalise(&raw) {
                let again = normalise(&normal);
                prop_assert_eq!(again.as_deref(), Ok(&*normal));
                prop_assert!(normal.starts_with('/'));
                prop_assert!(!normal.contains("//"));
                prop_assert!(!normal.contains(';') && !normal.contains("%3B"));
                prop_assert!(normal.split('/').all(|segment| segment != "." && segment != ".."));
            }
        }
    }
}
