//! Prefixes of addresses, with errors that say which part is wrong.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

/// A prefix such as `10.0.0.0/8` or `2001:db8::/32`; an address alone stands for itself.
///
/// # Errors
/// A sentence: which part is wrong, or which network was probably meant when host bits are set.
pub fn parse(text: &str) -> Result<IpNet, String> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let address: IpAddr = address
        .parse()
        .map_err(|_| format!("{text}: {}", bad_address(address)))?;
    let widest = if address.is_ipv4() { 32 } else { 128 };
    let length = match length {
        None => widest,
        Some(length) => length
            .parse::<u8>()
            .ok()
            .filter(|bits| *bits <= widest && (length == "0" || !length.starts_with(['0', '+'])))
            .ok_or_else(|| {
                format!("{text}: the prefix length `{length}` is not a number from 0 to {widest}")
            })?,
    };
    let net = IpNet::new(address, length).map_err(|error| format!("{text}: {error}"))?;
    if net.network() != address {
        let right = net.trunc();
        return Err(format!(
            "{text}: bits are set after the first {length}: write {right} for the network, or {address}/{widest} for the one address"
        ));
    }
    if let IpAddr::V6(v6) = address
        && is_mapped(v6)
    {
        return Err(format!(
            "{text}: IPv4-mapped addresses never arrive as such: write the IPv4 prefix"
        ));
    }
    Ok(net)
}

fn is_mapped(address: Ipv6Addr) -> bool {
    address.to_ipv4_mapped().is_some()
}

/// What is wrong with a text that is no address.
fn bad_address(text: &str) -> String {
    if text.contains(':') {
        return format!("`{text}` is no IPv6 address");
    }
    let parts: Vec<&str> = text.split('.').collect();
    if !parts
        .iter()
        .all(|part| !part.is_empty() && part.chars().all(|c| c.is_ascii_digit()))
    {
        return format!("`{text}` is no address: write a prefix like 10.0.0.0/8 or 2001:db8::/32");
    }
    if let Some(octet) = parts.iter().find(|part| part.parse::<u8>().is_err()) {
        return format!("octet {octet} is above 255: each of the four is from 0 to 255");
    }
    if parts.len() != 4 {
        return format!(
            "`{text}` has {} of the four octets of an IPv4 address",
            parts.len()
        );
    }
    match parts.iter().find(|part| part.len() > 1 && part.starts_with('0')) {
        Some(octet) => format!("octet {octet} begins with 0, which some read as octal: leave the zero out"),
        None => format!("`{text}` is no address"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn says_which_part_is_wrong() {
        for (text, message) in [
            (
                "10.0.0.300/8",
                "10.0.0.300/8: octet 300 is above 255: each of the four is from 0 to 255",
            ),
            (
                "10.0.0/8",
                "10.0.0/8: `10.0.0` has 3 of the four octets of an IPv4 address",
            ),
            ("10.0.0.01", "octet 01 begins with 0"),
            ("10.0.0.0/33", "`33` is not a number from 0 to 32"),
            ("2001:db8::/129", "`129` is not a number from 0 to 128"),
            ("2001:db8:::/32", "`2001:db8::` is no IPv6 address"),
            ("10.1.0.0/8", "write 10.0.0.0/8 for the network, or 10.1.0.0/32"),
            ("::ffff:10.0.0.1/128", "IPv4-mapped"),
            ("localhost", "`localhost` is no address"),
            ("10.0.0.0/", "`` is not a number"),
            ("10.0.0.0/08", "`08` is not a number"),
        ] {
            let error = parse(text).unwrap_err();
            let message = message.replace("db8::`", "db8:::`");
            assert!(error.contains(&message), "{text}: {error}");
        }
    }

    #[test]
    fn an_address_is_a_prefix_of_itself() {
        assert_eq!(parse("192.0.2.1").unwrap().to_string(), "192.0.2.1/32");
        assert_eq!(parse("2001:db8::1").unwrap().to_string(), "2001:db8::1/128");
    }

    proptest! {
        #[test]
        fn shown_prefixes_are_read_back(address in any::<[u8; 4]>(), length in 0_u8..=32) {
            let net = IpNet::new(IpAddr::from(address), length).unwrap().trunc();
            prop_assert_eq!(parse(&net.to_string()), Ok(net));
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = parse(&text);
        }
    }
}
