//! SPIFFE identities (SPIFFE-ID, section 2): the grammar, strictly.

/// The longest identity that an implementation must accept, and the longest that this one does.
const MAX_LEN: usize = 2048;
const MAX_TRUST_DOMAIN: usize = 255;

/// Whether `uri` names a workload: `spiffe://`, a trust domain and a path.
///
/// A trust domain alone is a valid SPIFFE identity, but none that a leaf certificate may carry
/// (SPIFFE X.509-SVID, section 5.2).
#[must_use]
pub fn is_workload(uri: &str) -> bool {
    let Some(rest) = uri.strip_prefix("spiffe://") else {
        return false;
    };
    let Some((trust_domain, path)) = rest.split_once('/') else {
        return false;
    };
    uri.len() <= MAX_LEN
        && (1..=MAX_TRUST_DOMAIN).contains(&trust_domain.len())
        && trust_domain
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_'))
        && path.split('/').all(is_segment)
}

fn is_segment(segment: &str) -> bool {
    !matches!(segment, "" | "." | "..")
        && segment
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_are_told_from_lookalikes() {
        for right in [
            "spiffe://example.com/ns/shop/sa/cart",
            "spiffe://a/b",
            "spiffe://a_b-c.d/x.y/..z",
        ] {
            assert!(is_workload(right), "{right}");
        }
        for wrong in [
            "",
            "spiffe://",
            "spiffe://example.com",
            "spiffe://example.com/",
            "spiffe:///path",
            "SPIFFE://example.com/a",
            "spiffe://Example.com/a",
            "spiffe://example.com:8443/a",
            "spiffe://user@example.com/a",
            "spiffe://example.com/a/",
            "spiffe://example.com//a",
            "spiffe://example.com/a/../b",
            "spiffe://example.com/./a",
            "spiffe://example.com/a?b",
            "spiffe://example.com/a#b",
            "spiffe://example.com/%61",
            "spiffe://example.com/ä",
            "https://example.com/a",
        ] {
            assert!(!is_workload(wrong), "{wrong}");
        }
        let long = format!("spiffe://example.com/{}", "a".repeat(2048));
        assert!(!is_workload(&long));
        assert!(!is_workload(&format!("spiffe://{}/a", "a".repeat(256))));
    }
}
