//! Keeps the addresses of endpoints that are names.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use super::endpoint::SharedEndpoint;

/// How often names are resolved again.
const EVERY: Duration = Duration::from_secs(30);
/// How soon a name is tried again of which no address is known.
const SOON: Duration = Duration::from_secs(1);
/// More addresses of one name are not used.
const MAX_ADDRESSES: usize = 64;

/// The addresses of `endpoint`, in a stable order.
///
/// # Errors
/// When the resolver knows none.
async fn look_up(endpoint: &SharedEndpoint) -> io::Result<Vec<SocketAddr>> {
    let mut addresses: Vec<_> = tokio::net::lookup_host(endpoint.host_and_port())
        .await?
        .take(MAX_ADDRESSES)
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(addresses)
}

/// Resolves `endpoint` now and then.
pub(crate) async fn keep_resolved(endpoint: Arc<SharedEndpoint>) {
    let mut failing = false;
    loop {
        refresh(&endpoint, &mut failing).await;
        let unknown = endpoint.addresses().is_empty();
        tokio::time::sleep(if unknown { SOON } else { EVERY }).await;
    }
}

/// Resolves `endpoint` once. A failure, also an answer that there is no such name, leaves the last
/// addresses in use, and is told once.
async fn refresh(endpoint: &SharedEndpoint, failing: &mut bool) {
    let (service, name) = (&endpoint.service, &endpoint.authority);
    match look_up(endpoint).await {
        Ok(addresses) => {
            *failing = false;
            if **endpoint.addresses() != addresses {
                let now: Vec<_> = addresses.iter().map(ToString::to_string).collect();
                tracing::info!(%service, %name, addresses = now.join(", "), "an endpoint's name has other addresses");
                endpoint.set_addresses(addresses);
            }
        }
        Err(error) => {
            if !std::mem::replace(failing, true) {
                tracing::warn!(%service, %name, %error, "an endpoint's name does not resolve");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_that_is_gone_keeps_its_addresses() {
        // There is never such a name (RFC 6761, section 6.4).
        let gone = SharedEndpoint::for_test("orders.invalid:80");
        let address: SocketAddr = "10.0.0.7:80".parse().unwrap();
        gone.set_addresses(vec![address]);
        let mut failing = false;
        refresh(&gone, &mut failing).await;
        assert!(failing);
        assert_eq!(**gone.addresses(), [address]);
        let known = SharedEndpoint::for_test("localhost:80");
        known.set_addresses(vec![address]);
        refresh(&known, &mut failing).await;
        assert!(!failing && !known.addresses().contains(&address));
        assert!(known.addresses().iter().all(|address| address.ip().is_loopback()));
    }
}
