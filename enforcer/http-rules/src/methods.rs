//! Methods that are another's but for case.
//!
//! Methods are case-sensitive (RFC 9110 section 9.1), so `delete` is none that a rule for DELETE is about. Many
//! frameworks make no difference, and would delete. No client needs such methods, so they are not served.

use http::Method;

/// The registered methods (IANA, Hypertext Transfer Protocol Method Registry), in order. `*` and PRI, which are reserved,
/// are left out.
const REGISTERED: [&str; 39] = [
    "ACL",
    "BASELINE-CONTROL",
    "BIND",
    "CHECKIN",
    "CHECKOUT",
    "CONNECT",
    "COPY",
    "DELETE",
    "GET",
    "HEAD",
    "LABEL",
    "LINK",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MKREDIRECTREF",
    "MKWORKSPACE",
    "MOVE",
    "OPTIONS",
    "ORDERPATCH",
    "PATCH",
    "POST",
    "PROPFIND",
    "PROPPATCH",
    "PUT",
    "QUERY",
    "REBIND",
    "REPORT",
    "SEARCH",
    "TRACE",
    "UNBIND",
    "UNCHECKOUT",
    "UNLINK",
    "UNLOCK",
    "UPDATE",
    "UPDATEREDIRECTREF",
    "VERSION-CONTROL",
];

/// The method that `method` is but for case: a registered one, or one of `named`. Nothing for what is written as it
/// should be, and for what resembles none.
pub fn meant<'a>(method: &Method, named: &'a [Method]) -> Option<&'a str> {
    let text = method.as_str();
    if !text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        return None;
    }
    let registered = REGISTERED.into_iter();
    let all = registered.chain(named.iter().map(Method::as_str));
    all.into_iter().find(|other| other.eq_ignore_ascii_case(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l1_methods_that_differ_by_case_are_told() {
        let named = ["PURGE".parse().unwrap()];
        for (method, other) in [
            ("GET", None),
            ("get", Some("GET")),
            ("Delete", Some("DELETE")),
            ("version-Control", Some("VERSION-CONTROL")),
            ("connect", Some("CONNECT")),
            ("PURGE", None),
            ("purge", Some("PURGE")),
            ("foo", None),
            ("FOO", None),
            ("gets", None),
        ] {
            assert_eq!(meant(&method.parse().unwrap(), &named), other, "{method}");
        }
        assert!(REGISTERED.is_sorted());
    }
}
