//! Judges whose PROXY headers a listener believes.

use super::{ProxyProtocol, raw};
use enforcer_model::leaf::cidr;
use enforcer_policy::yaml::place::{Place, parsed};

/// Never everybody's.
pub(super) fn proxy_protocol(raw: raw::ProxyProtocol, at: &Place<'_>) -> Option<ProxyProtocol> {
    let from = at.required("from", raw.from, |list, place| {
        if place.is_empty_list() {
            place.error("the list is empty: name the load balancers' addresses, like 10.0.0.0/24");
        }
        Some(at.each("from", list.0, |(text, at)| {
            let net = parsed(cidr::parse)(text, &at)?;
            if net.prefix_len() == 0 {
                at.error(
                    "then every client could say that it is another: name the load balancers' addresses",
                );
            }
            Some(net)
        }))
    });
    Some(ProxyProtocol { from: from? })
}
