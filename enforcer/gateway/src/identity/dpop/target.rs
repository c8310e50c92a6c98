//! Whether a proof is for the address of a request (RFC 9449, section 4.3, step 9): scheme, host and
//! port as RFC 3986, section 6.2.3, compares them, and the path in the form that policies are matched
//! in. Query and fragment do not count.

use http::{HeaderMap, Uri};

use super::Asked;
use enforcer_http_rules::{host::Host, target};

/// Whether `address`, an `htu`, means the request.
pub(super) fn is_for(address: &str, asked: &Asked<'_>) -> bool {
    let Ok(uri) = address.parse::<Uri>() else {
        return false;
    };
    let scheme = if asked.tls { "https" } else { "http" };
    // An address that is no more than a path has no host of its own.
    if uri.scheme_str() != Some(scheme) {
        return false;
    }
    let Ok(host) = Host::of(&uri, &HeaderMap::new()) else {
        return false;
    };
    let path = match uri.path() {
        "" => "/",
        path => path,
    };
    host.without_default_port(asked.tls) == asked.host.without_default_port(asked.tls)
        && target::normalise(path).is_ok_and(|path| path == asked.path)
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn is_for(address: &str, host: &str, path: &str, tls: bool) -> bool {
        let uri: Uri = format!("https://{host}/").parse().unwrap();
        let host = Host::of(&uri, &HeaderMap::new()).unwrap();
        let asked = Asked {
            method: &Method::GET,
            tls,
            host: &host,
            path,
        };
        super::is_for(address, &asked)
    }

    #[test]
    fn addresses_are_compared_as_rfc_3986_says() {
        for right in [
            "https://api.example.com/a/b",
            "HTTPS://API.Example.com/a/b",
            "https://api.example.com:443/a/b",
            "https://api.example.com./a/b",
            "https://api.example.com/a/./c/../b",
            "https://api.example.com/%61/b",
            "https://api.example.com/a/b?c=d",
            "https://api.example.com/a/b#c",
        ] {
            assert!(is_for(right, "api.example.com", "/a/b", true), "{right}");
            assert!(is_for(right, "api.example.com:443", "/a/b", true), "{right}");
        }
        for wrong in [
            "",
            "/a/b",
            "a/b",
            "//api.example.com/a/b",
            "api.example.com/a/b",
            "http://api.example.com/a/b",
            "http://api.example.com:443/a/b",
            "https://api.example.com:8443/a/b",
            "https://api.example.org/a/b",
            "https://api.example.com@evil.example/a/b",
            "https://user@api.example.com/a/b",
            "https://api.example.com/a/b/",
            "https://api.example.com/A/b",
            "https://api.example.com/a%2fb",
            "https://api.example.com/a/b;c",
            "https://api.example.com",
            "https://api.example.com/../a/b",
            "https:///a/b",
            "https://api.example.com/a/b ",
        ] {
            assert!(!is_for(wrong, "api.example.com", "/a/b", true), "{wrong}");
        }
        assert!(is_for(
            "https://[2001:DB8::1]:8443",
            "[2001:db8::1]:8443",
            "/",
            true
        ));
        assert!(is_for("http://a.b:80/", "a.b", "/", false));
        assert!(!is_for("http://a.b:443/", "a.b", "/", false));
        assert!(!is_for("https://a.b/", "a.b", "/", false));
    }
}
