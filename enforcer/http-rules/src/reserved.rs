//! Fields that only the gateway may set.

use http::{HeaderMap, HeaderName};

/// Those with these names, beside all that begin with one of [`OURS_BEFORE`]: by them proxies and load
/// balancers tell services who a client is, and frameworks believe them. `client-cert` and
/// `client-cert-chain` must be removed by RFC 9440 section 4.
const OURS: [&str; 19] = [
    // The client's address.
    "cf-connecting-ip",
    "client-ip",
    "fastly-client-ip",
    "forwarded",
    "proxy-client-ip",
    "true-client-ip",
    "wl-proxy-client-ip",
    "x-azure-clientip",
    "x-cluster-client-ip",
    "x-forwarded",
    "x-real-ip",
    // The client's certificate or name.
    "client-cert",
    "client-cert-chain",
    "remote-user",
    "x-remote-user",
    "x-webauth-user",
    // The method, the path, and where the service sends requests of its own.
    "proxy",
    "x-method-override",
    "x-rewrite-url",
];
const OURS_BEFORE: [&str; 9] = [
    "ssl-client-",
    "x-auth-request-",
    "x-client-",
    "x-enforcer",
    "x-envoy-",
    "x-forwarded-",
    "x-http-method",
    "x-original-",
    "x-ssl-",
];

/// For each first letter of a name, which third letters it has in the tables. Every field of every request is asked
/// for, and nearly all of them are told apart by these two.
const THIRD: [u32; 32] = third_letters();

const fn third_letters() -> [u32; 32] {
    let mut third = [0; 32];
    let mut at = 0;
    while at < OURS.len() + OURS_BEFORE.len() {
        let name = if at < OURS.len() {
            OURS[at]
        } else {
            OURS_BEFORE[at - OURS.len()]
        };
        third[place(name.as_bytes()[0])] |= 1 << place(name.as_bytes()[2]);
        at += 1;
    }
    third
}

/// Each small letter has a place of its own, and shares it with characters that names seldom have.
const fn place(letter: u8) -> usize {
    (letter & 31) as usize
}

/// Whether only the gateway may set the field. Servers that hand fields on by CGI's rules (RFC 3875
/// section 4.1.18) make no difference between `-` and `_`, and some none between these and whatever else is neither
/// letter nor digit, so neither does this.
pub fn is_ours(name: &str) -> bool {
    may_be_ours(name) && is_listed(name)
}

fn is_listed(name: &str) -> bool {
    OURS.iter()
        .any(|ours| name.len() == ours.len() && begins(name, ours))
        || OURS_BEFORE.iter().any(|prefix| begins(name, prefix))
}

/// Whether the tables have a name like that. All names in them have three letters.
fn may_be_ours(name: &str) -> bool {
    matches!(name.as_bytes(), [first, _, third, ..] if THIRD[place(*first)] >> place(fold(*third)) & 1 == 1)
}

/// Whether services may take a field for `ours`.
pub fn is_same_field(name: &HeaderName, ours: &HeaderName) -> bool {
    let (name, ours) = (name.as_str(), ours.as_str());
    name.len() == ours.len() && name.bytes().map(fold).eq(ours.bytes().map(fold))
}

/// Takes the fields out whose names are such.
pub fn remove_where(fields: &mut HeaderMap, is: impl Fn(&HeaderName) -> bool) {
    let removed: Vec<_> = fields.keys().filter(|name| is(name)).cloned().collect();
    for name in removed {
        fields.remove(name);
    }
}

/// What is neither letter nor digit is the same.
fn fold(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() { byte } else { b'-' }
}

fn begins(name: &str, prefix: &str) -> bool {
    name.len() >= prefix.len() && name.bytes().map(fold).zip(prefix.bytes()).all(|(a, b)| a == b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_tables_have_is_found_however_it_is_written() {
        let begun = OURS_BEFORE.iter().map(|before| format!("{before}zzz"));
        let names = OURS.iter().chain(&OURS_BEFORE).map(|name| (*name).to_owned());
        for name in names.chain(begun) {
            let written = ["-", "_", ".", "~", "!", "|"].map(|mark| name.replace('-', mark));
            for name in written {
                assert!(OURS_BEFORE.contains(&&*name) || is_ours(&name), "{name}");
                assert_eq!(is_ours(&name), is_listed(&name), "{name}");
                let shorter = &name[..name.len() - 1];
                assert_eq!(is_ours(shorter), is_listed(shorter), "{shorter}");
                let longer = format!("{name}s");
                assert_eq!(is_ours(&longer), is_listed(&longer), "{longer}");
            }
        }
    }

    #[test]
    fn no_beginning_hides_a_name() {
        let letters = || (0x21..0x7f_u8).map(char::from);
        for (first, third) in letters().flat_map(|first| letters().map(move |third| (first, third))) {
            for name in OURS.iter().chain(&OURS_BEFORE) {
                let name = format!("{first}{}{third}{}", &name[1..2], &name[3..]);
                assert_eq!(is_ours(&name), is_listed(&name), "{name}");
            }
        }
        for name in ["", "x", "x-", "pr", "te"] {
            assert!(!is_ours(name), "{name}");
        }
    }
}
