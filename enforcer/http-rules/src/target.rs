//! The request's target, brought into one form before anything looks at it (RFC 3986 section 6.2.2).
//!
//! What is matched is what is forwarded: the upstream gets the normalised path, so it cannot read
//! another path out of the request than the one that the policy admitted.
//! - Escapes of characters that a segment may have as they are (`pchar`, RFC 3986 section 3.3) are decoded. RFC 3986
//!   permits servers to tell `%3A` from `:`, but nearly all of them decode before they route.
//! - Characters that a segment may not have as they are (`"<>[]^`{|}`) are escaped. Escapes are in upper case.
//! - Dot segments are resolved. One that climbs above the root is refused.
//! - A run of slashes becomes one.
//! - Refused: escaped slashes, backslashes (escaped or not), control characters, bytes outside
//!   ASCII, broken escapes, and `;` (escaped or not): some servers take it and what follows out of the
//!   segment (RFC 3986 section 3.3), so that they read `/admin` where the policy has seen `/admin;x`.
//!
//! The query is forwarded as it came. Rules that look at it read it as forms are read.

use std::borrow::Cow;

use http::{Uri, uri::PathAndQuery};

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
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
pub fn origin_form(uri: Uri) -> Result<Uri, TargetError> {
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
pub fn normalise(path: &str) -> Result<Cow<'_, str>, TargetError> {
    if !path.starts_with('/') {
        return Err(TargetError::NotAPath);
    }
    if is_plain(path.as_bytes()) {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = decode(path.as_bytes())?;
    Ok(Cow::Owned(resolve(&decoded)?))
}

/// The one form of a path that a policy writes, whatever characters it has as they are.
///
/// # Errors
/// Why requests with such a path are refused.
pub fn spelling(path: &str) -> Result<String, TargetError> {
    normalise(&spelling_of_part(path)).map(Cow::into_owned)
}

/// A part of a path, as the one form of paths writes it. Neither dot segments nor slashes are looked at, and an escape
/// that the part's ends cut through stays as it is.
pub fn spelling_of_part(part: &str) -> String {
    let mut out = String::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let escaped = match rest.split_first_chunk() {
            Some((&[high, low], after)) if byte == b'%' => {
                let digits = digit(high).and_then(|high| Ok((high << 4) | digit(low)?));
                digits.ok().map(|value| (value, after))
            }
            _ => None,
        };
        match escaped {
            Some((value, after)) => {
                rest = after;
                push(value, &mut out);
            }
            None if matches!(byte, b'%' | b'/' | b';') => out.push(char::from(byte)),
            None => push(byte, &mut out),
        }
    }
    out
}

/// What a segment may have as it is: `pchar` of RFC 3986 section 3.3, without `;`, which is refused.
const fn is_raw(byte: u8) -> bool {
    matches!(
        byte,
        b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'.' | b'_' | b'~'
            | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@'
    )
}

/// [`is_raw`] and the slash, for each byte: every path is looked at.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte: u8 = 0;
    while byte < 0x80 {
        plain[byte as usize] = is_raw(byte) || byte == b'/';
        byte += 1;
    }
    plain
};

/// Writes a character of a segment in its one form.
fn push(byte: u8, out: &mut String) {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
    ];
    if is_raw(byte) {
        out.push(char::from(byte));
    } else {
        out.extend([
            '%',
            DIGITS[usize::from(byte >> 4)],
            DIGITS[usize::from(byte & 15)],
        ]);
    }
}

/// Whether the path is already in its one form. May say no to one that is: then the slow way decides.
fn is_plain(path: &[u8]) -> bool {
    let mut previous = 0;
    for &byte in path {
        let segment = previous == b'/' && (byte == b'/' || byte == b'.');
        if !PLAIN[usize::from(byte)] || segment {
            return false;
        }
        previous = byte;
    }
    true
}

/// Writes every character in its one form and refuses what must not be there.
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
                    _ => push(value, &mut out),
                }
            }
            b'\\' | 0..=0x20 | 0x7f => return Err(TargetError::Forbidden),
            b';' => return Err(TargetError::Parameter),
            0x80.. => return Err(TargetError::NotAscii),
            b'/' => out.push('/'),
            _ => push(byte, &mut out),
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
            ("/a%3ab", "/a:b"),
            ("/%21%24%26%27%28%29%2a%2b%2c%3d%3a%40", "/!$&'()*+,=:@"),
            ("/!$&'()*+,=:@", "/!$&'()*+,=:@"),
            ("/\"<>[]^`{|}", "/%22%3C%3E%5B%5D%5E%60%7B%7C%7D"),
            (
                "/%22%3c%3e%5b%5d%5e%60%7b%7c%7d",
                "/%22%3C%3E%5B%5D%5E%60%7B%7C%7D",
            ),
            ("/%e2%82%ac%3f%23", "/%E2%82%AC%3F%23"),
            ("/a%253Ab", "/a%253Ab"),
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
            // The query stays as it came.
            ("/a%3Ab?c%3Ad=%2f|", Some("/a:b?c%3Ad=%2f|")),
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

    #[test]
    fn spellings_of_policies() {
        for (written, right) in [
            ("/v1/users:delete", Ok("/v1/users:delete")),
            ("/v1/users%3Adelete", Ok("/v1/users:delete")),
            ("/%61dmin", Ok("/admin")),
            ("/%c3%a9", Ok("/%C3%A9")),
            ("/\u{e9}", Ok("/%C3%A9")),
            ("/a b", Ok("/a%20b")),
            ("/{id}", Ok("/%7Bid%7D")),
            ("/a/../b//c", Ok("/b/c")),
            ("/a%2fb", Err(TargetError::Forbidden)),
            ("/a;b", Err(TargetError::Parameter)),
            ("/50%", Err(TargetError::BrokenEscape)),
        ] {
            assert_eq!(spelling(written).as_deref(), right.as_ref().copied(), "{written}");
        }
        for (part, right) in [
            ("%3Adelete", ":delete"),
            ("dmin/%7", "dmin/%7"),
            ("3A%", "3A%"),
            ("%c3%A9/{x", "%C3%A9/%7Bx"),
            ("/../;", "/../;"),
        ] {
            assert_eq!(spelling_of_part(part), right, "{part}");
        }
    }

    /// The bytes that a path's segments stand for.
    fn meaning(path: &str) -> Vec<Vec<u8>> {
        path.split('/')
            .map(|segment| percent_encoding::percent_decode_str(segment).collect())
            .collect()
    }

    proptest! {
        /// Paths without dot segments and empty ones have one form if, and only if, they mean the same.
        #[test]
        fn m4_paths_that_mean_the_same_have_one_form(
            one in "(/([a:;@\"{]|%(3[aA]|40|22|61|7[bB]|25|C3|c3|A9)){1,4}){1,3}",
            other in "(/([a:;@\"{]|%(3[aA]|40|22|61|7[bB]|25|C3|c3|A9)){1,4}){1,3}",
        ) {
            if let (Ok(first), Ok(second)) = (normalise(&one), normalise(&other)) {
                prop_assert_eq!(meaning(&first), meaning(&one));
                prop_assert_eq!(first == second, meaning(&one) == meaning(&other));
            }
        }

        #[test]
        fn m4_any_path_has_a_normal_form_that_stays(raw in "/[ -~]{0,24}") {
            if let Ok(normal) = normalise(&raw) {
                let again = normalise(&normal);
                prop_assert_eq!(again.as_deref(), Ok(&*normal));
                prop_assert_eq!(&spelling_of_part(&normal), &*normal);
            }
        }

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
